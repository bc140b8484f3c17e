# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Metrics of the lesion: overlap, surface distances in mm, detection, volume and calibration. Unmeasurable values are NaN.

Surfaces are compared voxel by voxel, as ``monai.metrics`` does when it is given the spacing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from monai.metrics import Cumulative
from scipy import ndimage

from ..errors import InputError
from .calibration import Array, brier_score, expected_calibration_error
from .table import mean_by_name

__all__ = ["LesionComparison", "LesionMetrics", "MaskComparison", "lesion_metrics", "lesion_region"]


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


def _pair(name: str, pred: Array, reference: Array, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p, r = _binary(f"{name}: pred", pred), _binary(f"{name}: reference", reference)
    if p.shape != r.shape:
        raise InputError(f"{name}: expected equal shapes, got {p.shape} and {r.shape}")
    spacing = np.asarray([float(s) for s in spacing_mm]) if spacing_mm is not None else np.empty(0)
    if len(spacing) != p.ndim or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"{name}: expected spacing_mm as {p.ndim} positive lengths, got {spacing_mm}")
    return p, r, spacing


def _bounding_box(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
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
        p, r, spacing = _pair("lesion_metrics", pred, reference, spacing_mm)
        self.spacing_mm = spacing
        self.n_pred, self.n_reference = int(np.count_nonzero(p)), int(np.count_nonzero(r))
        self._voxel_ml = float(np.prod(spacing)) / 1000 if p.ndim == 3 else math.nan
        self._diagonal_mm = float(np.linalg.norm(np.asarray(p.shape) * spacing))
        box = _bounding_box(p | r, 1) if self.n_pred or self.n_reference else ...
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


def lesion_region(pred: Array, reference: Array, *, spacing_mm: Sequence[float], margin_mm: float = 10.0) -> np.ndarray:
    """Region in which calibration is measured: both lesions with a margin, because distant background flatters any model.

    Args:
        pred, reference: 0/1 masks ``[X, Y, Z]``.
        spacing_mm: voxel size along the array axes, in mm.
        margin_mm: width of the margin, in mm.

    Returns:
        Boolean mask of the same shape; empty where both lesions are.

    Raises:
        InputError: as :func:`lesion_metrics`.

    Example:
        >>> lesion = np.zeros((9, 9, 3), bool)
        >>> lesion[4, 4, 1] = True
        >>> int(lesion_region(lesion, lesion, spacing_mm=(1.0, 1.0, 5.0), margin_mm=2.0).sum())
        13
    """
    p, r, spacing = _pair("lesion_region", pred, reference, spacing_mm)
    both = p | r
    if not both.any():
        return both
    box = _bounding_box(both, int(np.ceil(margin_mm / spacing.min())))
    out = np.zeros_like(both)
    out[box] = ndimage.distance_transform_edt(~both[box], sampling=spacing) <= margin_mm
    return out


class LesionComparison:
    """The lesion head's probability of one case beside its reference; what several metrics need is computed once.

    Args:
        probability: of the lesion head, ``[1, X, Y, Z]``, 0…1.
        label: 0/1, same shape.
        spacing_mm: voxel size along the array axes, in mm.
        threshold: probability above which a voxel is lesion.
        outside_voxels: of the lesion that lie beyond these arrays, where nothing was predicted. They are missed: Dice and the
            volume count them, and distances, whose other end is not here, are NaN.

    Raises:
        InputError: see :class:`MaskComparison`.
    """

    def __init__(
        self,
        probability: torch.Tensor,
        label: torch.Tensor,
        *,
        spacing_mm: Sequence[float],
        threshold: float = 0.5,
        outside_voxels: int = 0,
    ) -> None:
        p, r = (np.asarray(torch.as_tensor(t).detach().cpu())[0] for t in (probability, label))
        self._probability, self._mask, self._truth = p, p > threshold, r > 0
        self._spacing_mm, self._outside = spacing_mm, outside_voxels
        self._masks = MaskComparison(self._mask, self._truth, spacing_mm=spacing_mm)
        self._regions: dict[float, np.ndarray] = {}

    @property
    def empty_pred(self) -> bool:
        """Whether no voxel was predicted."""
        return not self._masks.n_pred

    @property
    def empty_reference(self) -> bool:
        """Whether the reference holds no lesion, here or beyond these arrays."""
        return not self._masks.n_reference and not self._outside

    def dice(self) -> float:
        """Dice coefficient, 0…1."""
        if not self._outside:
            return self._masks.dice()
        voxels = self._masks.n_pred + self._masks.n_reference + self._outside
        return 2.0 * int((self._mask & self._truth).sum()) / voxels

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface Dice at `tolerance_mm`, 0…1."""
        return math.nan if self._outside else self._masks.nsd(tolerance_mm)

    def hausdorff_mm(self, percentile: float) -> float:
        """Hausdorff distance at `percentile`, in mm."""
        return math.nan if self._outside else self._masks.hausdorff_mm(percentile)

    def lesion_f1(self) -> float:
        """F1 over lesions, 0…1."""
        return math.nan if self._outside else self._masks.lesion_f1()

    def volume_difference_ml(self) -> float:
        """Predicted minus reference volume, in mL."""
        return self._masks.volume_difference_ml() - self._outside * float(np.prod(self._spacing_mm)) / 1000

    def _region(self, margin_mm: float) -> np.ndarray:
        if margin_mm not in self._regions:
            region = lesion_region(self._mask, self._truth, spacing_mm=self._spacing_mm, margin_mm=margin_mm)
            self._regions[margin_mm] = region
        return self._regions[margin_mm]

    def calibration_error(self, margin_mm: float) -> float:
        """Expected calibration error within `margin_mm` of both lesions."""
        return expected_calibration_error(self._probability, self._truth, self._region(margin_mm))

    def brier(self, margin_mm: float) -> float:
        """Brier score within `margin_mm` of both lesions."""
        return brier_score(self._probability, self._truth, self._region(margin_mm))


class LesionMetrics(Cumulative):
    """Segmentation and calibration of the lesion head per case, cumulated; cases whose lesion is unknown give no row.

    Args:
        tolerance_mm: of the normalised surface Dice.
        margin_mm: around both lesions, where calibration is judged.
    """

    names = (
        "lesion_dice",
        "lesion_nsd_2mm",
        "lesion_hd95_mm",
        "lesion_f1",
        "lesion_volume_difference_ml",
        "lesion_ece",
        "lesion_brier",
        "n_empty_pred",
        "n_empty_ref",
    )

    def __init__(self, tolerance_mm: float = 2.0, margin_mm: float = 10.0) -> None:
        super().__init__()
        self.tolerance_mm, self.margin_mm = tolerance_mm, margin_mm

    def __call__(
        self,
        probability: torch.Tensor,
        label: torch.Tensor,
        *,
        spacing_mm: Sequence[float],
        threshold: float = 0.5,
        outside_voxels: int = 0,
    ) -> dict[str, float]:
        """Measure one case and keep it.

        Args:
            probability: of the lesion head, ``[1, X, Y, Z]``.
            label: 0/1, same shape.
            spacing_mm: voxel size along the array axes.
            threshold: above which a voxel is lesion.
            outside_voxels: of the lesion that lie beyond these arrays, where nothing was predicted. They are missed: Dice and
                the volume count them, and distances, whose other end is not here, are NaN.
        """
        found = LesionComparison(probability, label, spacing_mm=spacing_mm, threshold=threshold, outside_voxels=outside_voxels)
        row = {
            "lesion_dice": found.dice(),
            "lesion_nsd_2mm": found.nsd(self.tolerance_mm),
            "lesion_hd95_mm": found.hausdorff_mm(95),
            "lesion_f1": found.lesion_f1(),
            "lesion_volume_difference_ml": found.volume_difference_ml(),
            "lesion_ece": found.calibration_error(self.margin_mm),
            "lesion_brier": found.brier(self.margin_mm),
            "n_empty_pred": float(found.empty_pred),
            "n_empty_ref": float(found.empty_reference),
        }
        self.append(torch.tensor([row[n] for n in self.names], dtype=torch.float64))
        return row

    def aggregate(self) -> dict[str, float]:  # type: ignore[override]
        """Means; the two counts of empty masks are sums."""
        buffer = self.get_buffer()
        out = mean_by_name(self.names, buffer)
        for name in ("n_empty_pred", "n_empty_ref"):
            out[name] = float(buffer[:, self.names.index(name)].sum()) if isinstance(buffer, torch.Tensor) else 0.0
        return out
