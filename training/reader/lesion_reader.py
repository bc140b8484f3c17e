# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Reads the lesion from the whole head at once, on a coarse grid, beside the head's own mirror image.

A stroke is told from healthy tissue by what both halves of the brain have in common and by where it lies, in any contrast:
nothing of this fits into a crop. The reader therefore sees all of the pair at about 2.5 mm in plane, its reflection across the
brain's plane of symmetry (Clèrigues et al. 2020, "Acute and sub-acute stroke lesion segmentation from multimodal MRI") and how
far each voxel lies from that plane.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["READING_MM", "LesionReader", "reading_view", "symmetry_plane"]

#: In-plane voxel size of the reading grid, and the thickness below which slices are joined, in mm.
READING_MM = (2.5, 4.0)

#: Channels of a reading view: MRI, CT, stroke window, where each is shown; the same of the reflection; distance to the plane of
#: symmetry and place along the two other axes in units of 100 mm.
VIEW_CHANNELS = 13


def reading_shape(shape: list[int], spacing_mm: list[float]) -> list[int]:
    """Voxels of the reading grid for a volume.

    Example:
        >>> reading_shape([200, 240, 26], [0.8, 0.8, 6.0])
        [64, 77, 26]
    """
    out: list[int] = []
    for axis in range(3):
        length = shape[axis] * spacing_mm[axis]
        if axis < 2:
            out.append(max(4, int(length / 2.5 + 0.5)))
        elif spacing_mm[2] >= 4.0:
            out.append(shape[2])
        else:
            out.append(max(1, int(length / 4.0 + 0.999)))
    return out


def _to_grid(volume: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """Mean over each voxel of a coarser grid; linear where the grid is finer. ``[B, C, X, Y, Z]``."""
    out = volume
    if shape[0] <= volume.shape[2] and shape[1] <= volume.shape[3] and shape[2] <= volume.shape[4]:
        return F.adaptive_avg_pool3d(out, (shape[0], shape[1], shape[2]))
    return F.interpolate(out, size=[shape[0], shape[1], shape[2]], mode="trilinear", align_corners=False)


def _centres(shape: list[int], spacing: list[float], device: torch.device) -> torch.Tensor:
    """Millimetres from the middle of the grid, ``[3, x, y, z]``."""
    axes: list[torch.Tensor] = []
    for n, s in zip(shape, spacing):
        axes.append((torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2) * s)
    return torch.stack(torch.meshgrid(axes[0], axes[1], axes[2], indexing="ij"))


def _reflected(
    volume: torch.Tensor, plane: torch.Tensor, points: torch.Tensor, mirror_axis: int, spacing: list[float]
) -> torch.Tensor:
    """What lies at the mirror image of each point, 0 beyond the volume.

    Args:
        volume: ``[1, C, x, y, z]``.
        plane: (a, b, d) of N planes, ``[N, 3]``: normal 1 along the mirror axis, a and b along the two others in order, d mm
            from the origin along the normal.
        points: millimetres, ``[3, …]``.
        mirror_axis: 0, 1 or 2.
        spacing: of the volume in mm.

    Returns:
        ``[N, C, …]``.
    """
    count = plane.shape[0]
    first, second = (mirror_axis + 1) % 3, (mirror_axis + 2) % 3
    normal = torch.zeros(count, 3, device=volume.device)
    normal[:, mirror_axis] = 1.0
    normal[:, first] = plane[:, 0]
    normal[:, second] = plane[:, 1]
    normal = normal / normal.norm(dim=1, keepdim=True)
    flat = points.reshape(3, -1)
    away = normal @ flat - plane[:, 2:3]  # [N, P]
    mirrored = flat[None] - 2 * normal[:, :, None] * away[:, None]  # [N, 3, P]
    size = torch.tensor([volume.shape[2] * spacing[0], volume.shape[3] * spacing[1], volume.shape[4] * spacing[2]])
    grid = (2 * mirrored / size.to(volume.device)[None, :, None]).flip(1).transpose(1, 2)  # x of grid_sample is the last axis
    grid = grid.reshape(count, points.shape[1], points.shape[2], points.shape[3], 3)
    out = F.grid_sample(volume.expand(count, -1, -1, -1, -1), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return out


def _likeness(coarse: torch.Tensor, planes: torch.Tensor, points: torch.Tensor, axis: int, spacing: list[float]) -> torch.Tensor:
    """Correlation of a volume with its reflection across N planes, summed over channels, ``[N]``."""
    mirrored = _reflected(coarse, planes, points, axis, spacing).flatten(2)
    own = coarse.flatten(2)
    mirrored = mirrored - mirrored.mean(2, keepdim=True)
    own = own - own.mean(2, keepdim=True)
    both = (own * mirrored).sum(2) / (own.norm(dim=2) * mirrored.norm(dim=2) + 1e-3)
    return both.sum(1)


def symmetry_plane(image: torch.Tensor, spacing_mm: list[float], mirror_axis: int) -> torch.Tensor:
    """The plane across which a head is most like itself: (a, b, d) as in ``_reflected``, ``[1, 3]``.

    Args:
        image: normalised MRI and CT on the reading grid, ``[1, 2, x, y, z]``.
        spacing_mm: of that grid.
        mirror_axis: the axis from left to right: 0, 1 or 2.
    """
    shape: list[int] = []
    for axis in range(3):
        length = image.shape[2 + axis] * spacing_mm[axis]
        shape.append(max(2, min(image.shape[2 + axis], int(length / 8.0 + 0.5))))
    spacing = [image.shape[2 + a] * spacing_mm[a] / shape[a] for a in range(3)]
    shown = (image != 0).any(dim=1, keepdim=True).to(image.dtype)
    coarse = F.adaptive_avg_pool3d(torch.cat([image.clamp(-3, 3), shown], dim=1), (shape[0], shape[1], shape[2]))
    points = _centres(shape, spacing, image.device)
    mass = coarse[0, 2]
    centre = float((points[mirror_axis] * mass).sum() / mass.sum().clamp(min=1e-3))
    best = torch.tensor([[0.0, 0.0, centre]], device=image.device)
    for angle, shift in ((0.08, 6.0), (0.035, 2.5), (0.015, 1.0)):
        turns = torch.arange(-2, 3, device=image.device, dtype=torch.float32) * angle
        moves = torch.arange(-2, 3, device=image.device, dtype=torch.float32) * shift
        grid = torch.stack(torch.meshgrid(turns, turns, moves, indexing="ij"), dim=-1).reshape(-1, 3)
        planes = best + grid
        best = planes[_likeness(coarse, planes, points, mirror_axis, spacing).argmax()][None]
    return best


def reading_view(image: torch.Tensor, window: torch.Tensor, spacing_mm: list[float], mirror_axis: int) -> torch.Tensor:
    """All that the reader sees of one pair.

    Args:
        image: normalised MRI and CT of a whole head, ``[1, 2, X, Y, Z]``, 0 where nothing is shown.
        window: the stroke window of the CT: centre and width in normalised units, ``[2]``.
        spacing_mm: of `image`.
        mirror_axis: the array axis from left to right: 0, 1 or 2.

    Returns:
        ``[1, 13, x, y, z]`` on the reading grid, see :data:`VIEW_CHANNELS`.
    """
    full = [image.shape[2], image.shape[3], image.shape[4]]
    shape = reading_shape(full, spacing_mm)
    spacing = [full[a] * spacing_mm[a] / shape[a] for a in range(3)]
    shown = (image != 0).to(image.dtype)
    share = _to_grid(shown, shape)
    means = _to_grid(image, shape) / share.clamp(min=0.05)
    narrow = torch.tanh((image[:, 1:2] - window[0]) / (0.5 * window[1])) * shown[:, 1:2]
    narrow = _to_grid(narrow, shape) / share[:, 1:2].clamp(min=0.05)
    own = torch.cat([means, narrow, share], dim=1)
    plane = symmetry_plane(means * (share > 0.5), spacing, mirror_axis)
    points = _centres(shape, spacing, image.device)
    mirrored = _reflected(own, plane, points, mirror_axis, spacing)
    first, second = (mirror_axis + 1) % 3, (mirror_axis + 2) % 3
    a, b, d = plane[0, 0], plane[0, 1], plane[0, 2]
    distance = (points[mirror_axis] + a * points[first] + b * points[second]) / (1 + a * a + b * b).sqrt() - d
    inside = share.amax(dim=1)[0]
    places: list[torch.Tensor] = [distance.abs() / 100]
    for axis in range(3):
        if axis != mirror_axis:
            middle = (points[axis] * inside).sum() / inside.sum().clamp(min=1e-3)
            places.append((points[axis] - middle) / 100)
    place = torch.stack(places)[None] * (inside > 0)
    return torch.cat([own, mirrored, place], dim=1)


class _Layer(nn.Module):
    """Two convolutions, each with normalisation over the volume (groups of channels) and a leaky rectifier."""

    def __init__(self, channels_in: int, channels_out: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv1 = nn.Conv3d(channels_in, channels_out, kernel, padding=padding, bias=False)
        self.norm1 = nn.GroupNorm(channels_out // 4, channels_out)
        self.conv2 = nn.Conv3d(channels_out, channels_out, kernel, padding=padding, bias=False)
        self.norm2 = nn.GroupNorm(channels_out // 4, channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.norm1(self.conv1(x)), 0.01)
        return F.leaky_relu(self.norm2(self.conv2(x)), 0.01)


class LesionReader(nn.Module):
    """U-Net from a reading view to lesion logits on the reading grid (as nnU-Net, Isensee et al. 2021).

    Args:
        widths: channels of the four levels; levels 2 and 3 also halve the slices.

    ``forward(view [B, 13, x, y, z])`` returns logits ``[B, 1, x, y, z]``; with ``deep`` those of half the resolution too.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (16, 32, 64, 96)) -> None:
        super().__init__()
        kernels = ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
        self.down = nn.ModuleList()
        before = VIEW_CHANNELS
        for width, kernel in zip(widths, kernels):
            self.down.append(_Layer(before, width, kernel))
            before = width
        self.grow = nn.ModuleList([nn.Conv3d(deep, wide, 1) for wide, deep in pairwise(widths)][::-1])
        self.up = nn.ModuleList([_Layer(2 * w, w, k) for w, k in list(zip(widths, kernels))[:3]][::-1])
        self.out = nn.Conv3d(widths[0], 1, 1)
        self.out_deep = nn.Conv3d(widths[1], 1, 1)
        nn.init.constant_(self.out.bias, -3.0)  # lesions are rare
        nn.init.constant_(self.out_deep.bias, -3.0)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        return self.deep(view)[0]

    def deep(self, view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits at full and at half the in-plane resolution, the latter for deep supervision."""
        size = [view.shape[4], view.shape[2], view.shape[3]]
        x = view.permute(0, 1, 4, 2, 3)
        x = F.pad(x, [0, -size[2] % 8, 0, -size[1] % 8, 0, -size[0] % 4])
        x = x.contiguous(memory_format=torch.channels_last_3d)
        skips: list[torch.Tensor] = []
        for i, layer in enumerate(self.down):
            if i == 1:
                x = F.max_pool3d(x, (1, 2, 2))
            elif i > 1:
                x = F.max_pool3d(x, (2, 2, 2))
            x = layer(x)
            skips.append(x)
        x = skips.pop()
        deep = x
        for i, (grow, layer) in enumerate(zip(self.grow, self.up)):
            scale = [2.0, 2.0, 2.0] if i < 2 else [1.0, 2.0, 2.0]
            x = layer(torch.cat([F.interpolate(grow(x), scale_factor=scale, mode="nearest"), skips.pop()], dim=1))
            if i == 1:
                deep = x
        fine = self.out(x)[:, :, : size[0], : size[1], : size[2]].permute(0, 1, 3, 4, 2)
        half = self.out_deep(deep)[:, :, : size[0], : (size[1] + 1) // 2, : (size[2] + 1) // 2].permute(0, 1, 3, 4, 2)
        return fine, half
