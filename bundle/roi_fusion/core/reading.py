# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The grid on which the lesion is read: about two millimetres along each axis that is finer, whatever the scanner's grid is.

A network that meets the same stroke at 0.4 mm and at 2.4 mm has to learn it many times over, and at 0.4 mm sees a few
centimetres of the brain. Fused detail needs the scanner's grid, a lesion does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

__all__ = ["READING_MM", "pool_to_reading", "reading_factors", "spread_from_reading"]

#: Spacing that the lesion is read at; voxels are joined in whole numbers, so what results lies within a third of it.
READING_MM = 2.0


def reading_factors(spacing_mm: Sequence[float], shape: Sequence[int] | None = None) -> tuple[int, int, int]:
    """How many voxels are joined along each axis.

    Args:
        spacing_mm: voxel size along the array axes.
        shape: voxels along the array axes; no axis is joined to fewer than eight.

    Example:
        >>> reading_factors((0.5, 0.5, 5.0))
        (4, 4, 1)
        >>> reading_factors((1.0, 1.0, 1.0), (200, 200, 9))
        (2, 2, 1)
    """
    factors = [max(1, round(READING_MM / float(s))) for s in spacing_mm]
    if shape is not None:
        factors = [max(1, min(f, int(n) // 8)) for f, n in zip(factors, shape)]
    return factors[0], factors[1], factors[2]


def pool_to_reading(volume: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """Mean over blocks of voxels of what each block shows; 0 where half of a block or more shows nothing.

    Args:
        volume: images that are exactly 0 where they show nothing, ``[B, C, X, Y, Z]``.
        factors: from :func:`reading_factors`.

    Returns:
        ``[B, C, ⌈X/f⌉, ⌈Y/f⌉, ⌈Z/f⌉]``.
    """
    if max(factors) == 1:
        return volume
    volume = _filled(volume, factors)
    shown = F.avg_pool3d((volume != 0).to(volume.dtype), tuple(factors))
    mean = F.avg_pool3d(volume, tuple(factors)) / shown.clamp(min=1e-6)
    return torch.where(shown > 0.5, mean, torch.zeros_like(mean))


def spread_from_reading(volume: torch.Tensor, factors: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Back to the scanner's grid, linearly between the blocks' centres.

    Args:
        volume: on the reading grid, ``[B, C, x, y, z]``.
        factors: from :func:`reading_factors`.
        shape: voxels of the scanner's grid.

    Returns:
        ``[B, C, X, Y, Z]``.
    """
    if max(factors) == 1:
        return volume
    full = [n * f for n, f in zip(volume.shape[2:], factors)]
    wide = F.interpolate(volume, size=full, mode="trilinear", align_corners=False)
    return wide[:, :, : shape[0], : shape[1], : shape[2]]


def _filled(volume: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    missing = [-n % f for n, f in zip(volume.shape[2:], factors)]
    return F.pad(volume, [0, missing[2], 0, missing[1], 0, missing[0]])
