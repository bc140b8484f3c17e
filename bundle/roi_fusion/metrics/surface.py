# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Comparison of two binary masks: Dice, NSD, HD95, lesion-wise F1 and volumes, with distances in mm.

Surfaces are compared voxel by voxel, as ``monai.metrics`` does when it is given the spacing. Unmeasurable values are NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from scipy import ndimage

from ..errors import InputError
from .calibration import Array

__all__ = ["MaskComparison", "as_pair", "bounding_box", "lesion_metrics"]


def _binary(name: str, mask: Array) -> np.ndarray:
    array = np.asarray(mask.detach().cpu() if isinstance(mask, torch.Tensor) else mask)
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim not in (2, 3):
        raise InputError(f"{name}: expected one 2-D or 3-D mask, got shape {tuple(array.shape)}")
    if array.dtype != bool:
        if not np.isin(array, (0, 1)).all():
            raise InputError(f"{name}: expected a mask of 0 and 1, got values such as {array[~np.isin(array, (0, 1))][0]:g}")
        array = array > 0
    return array


def as_pair(name: str, pred: Array, reference: Array, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two masks as boolean arrays of one shape, and the voxel size in mm along their axes.

    Raises:
        InputError: when shapes differ, a value is neither 0 nor 1, or the spacing does not fit; it begins with `name`.
    """
    p, r = _binary(f"{name}: pred", pred), _binary(f"{name}: reference", reference)
    if p.shape != r.shape:
        raise InputError(f"{name}: expected equal shapes, got {p.shape} and {r.shape}")
    spacing = np.asarray([float(s) for s in spacing_mm]) if spacing_mm is not None else np.empty(0)
    if len(spacing) != p.ndim or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"{name}: expected spacing_mm as {p.ndim} positive lengths, got {spacing_mm}")
    return p, r, spacing


def bounding_box(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    """Slices of the box around a mask's voxels, `margin` voxels wider on every side and limited to the array."""
    box = []
    for axis in range(mask.ndim):  # what one axis cuts away, the next need not look at
        found = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(int(found[0]) - margin, 0), int(found[-1]) + 1 + margin))
        mask = mask[(slice(None),) * axis + (slice(int(found[0]), int(found[-1]) + 1),)]
    return tuple(box)


class MaskComparison:
    """A predicted and a reference lesion mask of one case; surface distances are computed once for all metrics that use them.

    Both masks empty: every metric is NaN but the volume difference, which is 0. One empty: Dice, NSD and F1 are 0, and the
    Hausdorff distance is the diagonal of the image.

    Args:
        pred, reference: 0/1 masks ``[X, Y, Z]`` (leading axes of length 1 are dropped).
        spacing_mm: voxel size along the array axes, in mm.

    Raises:
        InputError: when shapes differ, spacing is missing or not positive, or a mask is not 0/1.

    Example:
        >>> import numpy as np
        >>> lesion = np.zeros((8, 8, 4), dtype=bool)
        >>> lesion[2:5, 2:5, 1:3] = True
        >>> MaskComparison(np.roll(lesion, 1, axis=0), lesion, spacing_mm=(1.0, 1.0, 5.0)).hausdorff_mm(100)
        1.0
    """

    def __init__(self, pred: Array, reference: Array, *, spacing_mm: Sequence[float]) -> None:
        p, r, spacing = as_pair("lesion_metrics", pred, reference, spacing_mm)
        self.spacing_mm = spacing
        self.n_pred, self.n_reference = int(np.count_nonzero(p)), int(np.count_nonzero(r))
        self._voxel_ml = float(np.prod(spacing)) / 1000 if p.ndim == 3 else math.nan
        self._diagonal_mm = float(np.linalg.norm(np.asarray(p.shape) * spacing))
        box = bounding_box(p | r, 1) if self.n_pred or self.n_reference else ...
        self._pred, self._reference = p[box], r[box]

    def _for_empty(self, value: float) -> float | None:
        """NaN when both masks are empty, `value` when one is, None when none is."""
        if self.n_pred and self.n_reference:
            return None
        return value if self.n_pred or self.n_reference else math.nan

    @cached_property
    def surface_distances_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances in mm of all surface voxels: of the prediction to the reference, and of the reference to the prediction."""
        edge_p, edge_r = (m & ~ndimage.binary_erosion(m) for m in (self._pred, self._reference))
        return _distances(edge_p, edge_r, self.spacing_mm), _distances(edge_r, edge_p, self.spacing_mm)

    def dice(self) -> float:
        """Dice coefficient, 0…1."""
        empty = self._for_empty(0.0)
        if empty is not None:
            return empty
        return 2.0 * int(np.count_nonzero(self._pred & self._reference)) / (self.n_pred + self.n_reference)

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface Dice (Nikolov et al. 2021): share of both surfaces that lies within `tolerance_mm` of the other.

        Raises:
            InputError: for a negative tolerance.
        """
        if not tolerance_mm >= 0:
            raise InputError(f"lesion_metrics: expected tolerance_mm of 0 or more, got {tolerance_mm}")
        empty = self._for_empty(0.0)
        if empty is not None:
            return empty
        distances = self.surface_distances_mm
        return sum(int((d <= tolerance_mm).sum()) for d in distances) / sum(len(d) for d in distances)

    def hausdorff_mm(self, percentile: float) -> float:
        """The larger of both directed percentiles of surface distance, in mm.

        Raises:
            InputError: for a percentile outside of 0…100.
        """
        if not 0 <= percentile <= 100:
            raise InputError(f"lesion_metrics: expected a percentile from 0 to 100, got {percentile}")
        empty = self._for_empty(self._diagonal_mm)
        if empty is not None:
            return empty
        return float(max(np.percentile(d, percentile) for d in self.surface_distances_mm))

    def lesion_f1(self) -> float:
        """F1 over 26-connected lesions, each found when one of its voxels is hit."""
        empty = self._for_empty(0.0)
        return _lesion_f1(self._pred, self._reference) if empty is None else empty

    def volume_difference_ml(self) -> float:
        """Predicted minus reference volume, in mL."""
        return (self.n_pred - self.n_reference) * self._voxel_ml


def lesion_metrics(
    pred: Array, reference: Array, *, spacing_mm: Sequence[float], tolerance_mm: float = 2.0
) -> dict[str, float]:
    """Overlap, surface and volume agreement of two lesion masks, from one distance pass over the box that holds both.

    Args:
        pred, reference: 0/1 masks ``[X, Y, Z]`` (leading axes of length 1 are dropped).
        spacing_mm: voxel size along the array axes, in mm.
        tolerance_mm: surface distance in mm that still counts as agreement for `nsd`.

    Returns:
        ``dice``, ``nsd``, ``hd95_mm``, ``lesion_f1`` and ``volume_difference_ml`` of :class:`MaskComparison`.

    Raises:
        InputError: when shapes differ, spacing is missing or not positive, a mask is not 0/1, or the tolerance is negative.
    """
    pair = MaskComparison(pred, reference, spacing_mm=spacing_mm)
    return {
        "dice": pair.dice(),
        "nsd": pair.nsd(tolerance_mm),
        "hd95_mm": pair.hausdorff_mm(95),
        "lesion_f1": pair.lesion_f1(),
        "volume_difference_ml": pair.volume_difference_ml(),
    }


def _distances(points: np.ndarray, target: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Distance in mm of every voxel of one mask to the nearest of the other."""
    here = np.argwhere(points)
    nearest = ndimage.distance_transform_edt(~target, sampling=spacing, return_distances=False, return_indices=True)
    steps = (nearest[(slice(None), *here.T)].T - here) * spacing
    return np.sqrt((steps * steps).sum(1))


def _lesion_f1(pred: np.ndarray, reference: np.ndarray) -> float:
    touching = ndimage.generate_binary_structure(pred.ndim, pred.ndim)
    ref_parts, n_ref = ndimage.label(reference, touching)
    pred_parts, n_pred = ndimage.label(pred, touching)
    found = len(np.unique(ref_parts[pred & reference]))
    wrong = n_pred - len(np.unique(pred_parts[pred & reference]))
    return 2 * found / (2 * found + (n_ref - found) + wrong)
