# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Smooth random fields, and maps sampled at points: what anatomy, brightness and artefacts are varied with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

__all__ = ["blur", "resize", "sample_linear", "smooth_noise"]


def resize(maps: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Linear resize, corners kept: ``[C, a, b, c]`` → ``[C, *shape]``."""
    return F.interpolate(maps[None], size=tuple(int(n) for n in shape), mode="trilinear", align_corners=True)[0]


def smooth_noise(
    rng: np.random.Generator,
    shape: Sequence[int],
    spacing_mm: Sequence[float] | np.ndarray,
    knot_mm: float,
    channels: int = 1,
) -> torch.Tensor:
    """Gaussian noise of about unit variance whose structures are about `knot_mm` wide, ``[channels, *shape]`` float32.

    Args:
        rng: source of randomness.
        shape: voxels along the three axes.
        spacing_mm: voxel size along the axes, in mm.
        knot_mm: distance of the random knots, in mm.
        channels: number of fields.
    """
    knots = [max(2, round(n * s / knot_mm) + 2) for n, s in zip(shape, spacing_mm)]
    values = rng.standard_normal((channels, *knots)).astype(np.float32)
    if knot_mm > 8 and np.prod(knots) < 40_000:  # smooth between far knots, or the straight pieces show
        fine = [min(2 * k, max(k, int(n))) for k, n in zip(knots, shape)]
        factors = [f / k for f, k in zip(fine, knots)]
        values = np.stack([ndimage.zoom(v, factors, order=2, mode="nearest") for v in values])
    field = resize(torch.from_numpy(values), shape)
    return field / 0.65


def sample_linear(maps: torch.Tensor, index: torch.Tensor, padding: str = "zeros") -> torch.Tensor:
    """Maps at points given in voxel indices, linear.

    Args:
        maps: ``[C, X, Y, Z]`` float32.
        index: ``[3, ...]``.
        padding: ``zeros`` or ``border``, outside.

    Returns:
        ``[C, ...]``.
    """
    size = torch.tensor(maps.shape[1:], dtype=index.dtype).view(3, 1)
    grid = (index.flatten(1) / (size - 1).clamp(min=1) * 2 - 1).flip(0).T  # grid_sample reads the last axis first
    out = F.grid_sample(maps[None], grid[None, None, None], mode="bilinear", padding_mode=padding, align_corners=True)
    return out.reshape(maps.shape[0], *index.shape[1:])


def blur(volume: torch.Tensor, sigma_voxels: Sequence[float]) -> torch.Tensor:
    """Gaussian blur of ``[X, Y, Z]``, separable; an axis whose sigma is below 0.2 voxels stays."""
    out = volume[None, None]
    for axis, sigma in enumerate(sigma_voxels):
        if sigma < 0.2 or volume.shape[axis] < 2:
            continue
        reach = max(1, int(np.ceil(2.5 * sigma)))
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
        taps = (taps / taps.sum()).to(volume.dtype)
        kernel_shape, padding = [1, 1, 1, 1, 1], [0] * 6
        kernel_shape[2 + axis] = 2 * reach + 1
        padding[4 - 2 * axis] = padding[5 - 2 * axis] = reach
        out = F.conv3d(F.pad(out, padding, mode="replicate"), taps.view(kernel_shape))
    return out[0, 0]
