# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Where no stroke lesion can lie: outside the brain, and in what the CT shows as fluid. What is found there is told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage

__all__ = ["FLUID_HU", "Apart", "set_apart"]

#: CT number below which smoothed CT is fluid: CSF has 0 to 10 HU, grey matter 37, white 29, an acute infarct 12 less at most.
FLUID_HU = 14.0
#: Standard deviation of the smoothing in mm: noise of 10 HU in a voxel of 1 mm falls below 2 HU.
_SMOOTHING_MM = 2.0
_CONNECTED = ndimage.generate_binary_structure(3, 3)


class Apart(NamedTuple):
    """Lesion probability after parts were told apart, and what they were.

    Attributes:
        probability: 0 in those parts, ``[1, 1, X, Y, Z]``.
        in_fluid_ml: volume of parts that lie in fluid.
        outside_brain_ml: volume of parts that lie outside the brain.
    """

    probability: torch.Tensor
    in_fluid_ml: float
    outside_brain_ml: float


def set_apart(
    probability: torch.Tensor,
    brain: torch.Tensor,
    ct_hu: torch.Tensor | None,
    *,
    threshold: float,
    spacing_mm: Sequence[float],
) -> Apart:
    """Take connected parts of a lesion away that lie mostly in fluid or outside the brain.

    Parts are judged whole and by their larger share, so that a CT some millimetres off, or the sulci beside a true lesion, cost
    nothing.

    Args:
        probability: lesion probability, ``[1, 1, X, Y, Z]``.
        brain: brain probability, same shape.
        ct_hu: CT in HU, same shape, NaN where it shows nothing; None without a CT.
        threshold: of the lesion.
        spacing_mm: voxel size along the axes.

    Example:
        >>> lesion, brain = torch.zeros(1, 1, 8, 8, 2), torch.ones(1, 1, 8, 8, 2)
        >>> lesion[..., :3, :3, :] = 0.9
        >>> ct = torch.full_like(brain, 35.0); ct[..., :4, :4, :] = 5.0
        >>> apart = set_apart(lesion, brain, ct, threshold=0.5, spacing_mm=(1.0, 1.0, 5.0))
        >>> round(apart.in_fluid_ml, 3), float(apart.probability.max())
        (0.09, 0.0)
    """
    found = (probability[0, 0] > threshold).cpu().numpy()
    parts, count = ndimage.label(found, _CONNECTED)
    if not count:
        return Apart(probability, 0.0, 0.0)
    numbers = np.arange(1, count + 1)
    size = ndimage.sum_labels(found, parts, numbers)
    outside = ndimage.mean((brain[0, 0] < 0.5).cpu().numpy(), parts, numbers) > 0.5
    fluid = np.zeros(count, bool)
    if ct_hu is not None:
        where = tuple(slice(max(0, s.start - 8), s.stop + 8) for s in ndimage.find_objects(found.astype(np.uint8))[0])
        smooth = _smoothed(ct_hu[0, 0].cpu().numpy()[where], spacing_mm)
        fluid = (ndimage.mean(smooth < FLUID_HU, parts[where], numbers) > 0.5) & ~outside  # NaN is no fluid
    taken = np.isin(parts, numbers[outside | fluid])
    gone = torch.from_numpy(taken).to(probability.device)[None, None]
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    return Apart(
        torch.where(gone, torch.zeros_like(probability), probability),
        float(size[fluid].sum()) * voxel_ml,
        float(size[outside].sum()) * voxel_ml,
    )


def _smoothed(ct_hu: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Gaussian mean over what the CT shows; bone counts as 100 HU, so that it does not reach far."""
    shown = np.isfinite(ct_hu)
    values = np.where(shown, np.clip(ct_hu, -100, 100), 0.0).astype(np.float32)
    sigma = [_SMOOTHING_MM / s for s in spacing_mm]
    sums, weights = (ndimage.gaussian_filter(v, sigma, mode="nearest") for v in (values, shown.astype(np.float32)))
    return np.where(shown & (weights > 1e-3), sums / np.maximum(weights, 1e-3), np.nan)
