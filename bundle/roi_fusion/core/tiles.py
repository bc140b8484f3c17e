# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Runs the network on volumes that do not fit into memory, piece by piece, with the same result as in one piece.

Each piece is computed with a margin as wide as the receptive field, so nothing is blended and no seam shows between pieces.
The receptive field of the image U-Net spans most of a slice, so it runs on slabs of whole slices. That of the denoiser is 44
voxels in plane and 6 slices on each side, so it runs on tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import torch

from .channels import RAW_CHANNELS
from .network import RoiFusionNet

__all__ = ["Tile", "encode_in_slabs", "tile_decoder", "tiles_of"]

Slices = tuple[slice, ...]


class Tile(NamedTuple):
    """A piece of a volume ``[X, Y, Z]``, as slices along its three axes.

    Attributes:
        outer: part of the volume that is computed, with margins.
        inner: part of the volume that the result is used for.
        within: position of `inner` inside `outer`.
    """

    outer: Slices
    inner: Slices
    within: Slices


def _along(length: int, size: int, margin: int, unit: int) -> list[tuple[slice, slice, slice]]:
    if length <= size:
        return [(slice(0, length),) * 3]
    step = max(unit, (size - 2 * margin) // unit * unit)
    pieces = []
    for start in range(0, length, step):
        end, first = min(start + step, length), max(start - margin, 0)
        pieces.append((slice(first, min(end + margin, length)), slice(start, end), slice(start - first, end - first)))
    return pieces


def tiles_of(shape: Sequence[int], size: Sequence[int], margin: Sequence[int], unit: Sequence[int]) -> list[Tile]:
    """Tiles that cover a volume without overlap of their inner parts.

    Args:
        shape: shape of the volume in voxels.
        size: size of a tile with its margins, in voxels. Where it leaves no room between two margins, the inner part is one
            `unit`.
        margin: margin on each side, in voxels.
        unit: inner parts start at multiples of this number of voxels.

    Example:
        >>> [tile.inner[0] for tile in tiles_of((40, 8, 8), (32, 8, 8), (8, 0, 0), (8, 1, 1))]
        [slice(0, 16, None), slice(16, 32, None), slice(32, 40, None)]
    """
    axes = [_along(*numbers) for numbers in zip(shape, size, margin, unit)]
    return [Tile(*zip(*parts)) for parts in product(*axes)]


def encode_in_slabs(net: RoiFusionNet, image: torch.Tensor, description: torch.Tensor, max_voxels: int) -> list[torch.Tensor]:
    """``net.encode`` on slabs of whole slices.

    Args:
        net: the network.
        image: normalised MRI and CT, ``[1, 2, X, Y, Z]``.
        description: contrast of the whole pair, from ``net.describe``.
        max_voxels: approximate number of voxels of a slab; margins of ``net.encode_margin`` slices are added.

    Returns:
        Features of the whole volume, as ``net.encode`` returns them.
    """
    margin, depth = net.encode_margin, image.shape[-1]
    plane = image.shape[2] * image.shape[3]
    size = max(max_voxels // plane, 3 * margin)
    parts: list[list[torch.Tensor]] = []
    for outer, _, within in _along(depth, size, margin, 1):
        features = net.encode(image[..., outer], description)
        parts.append([f[:, :, within] for f in features])  # depth first
    return [torch.cat(level, dim=2) for level in zip(*parts)] if len(parts) > 1 else parts[0]


def tile_decoder(
    net: RoiFusionNet, features: list[torch.Tensor], shape: Sequence[int], size: Sequence[int]
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """``net.decode`` tile by tile.

    Args:
        net: the network.
        features: features of the whole volume, from :func:`encode_in_slabs`.
        shape: shape of the volume, ``X, Y, Z``.
        size: size of a tile with its margins, in voxels.

    Returns:
        Function ``(x_t [B, 2, X, Y, Z], t [B]) → raw logits [B, 5, X, Y, Z]``.
    """
    unit = net.divisor
    tiles = tiles_of(shape, size, net.decode_margin, (unit, unit, 1))

    def cut(feature: torch.Tensor, outer: Slices) -> torch.Tensor:
        """Part of a feature map ``[1, C, Z, X', Y']`` whose plane is 2ⁿ times smaller than the padded one."""
        planes = []
        for axis, part in enumerate(outer[:2]):
            padded = shape[axis] + -shape[axis] % unit
            scale = padded // feature.shape[3 + axis]
            planes.append(slice(part.start // scale, (part.stop + -part.stop % unit) // scale))
        return feature[:, :, outer[2], planes[0], planes[1]].contiguous(memory_format=torch.channels_last_3d)

    def decode(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(x_t), len(RAW_CHANNELS), *shape, device=x_t.device)
        for tile in tiles:
            (x, y, z), (x_in, y_in, z_in), (x_of, y_of, z_of) = tile
            raw = net.decode([cut(f, tile.outer) for f in features], x_t[..., x, y, z], t)
            out[..., x_in, y_in, z_in] = raw[..., x_of, y_of, z_of].float()
        return out

    return decode
