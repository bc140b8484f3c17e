# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Metrics of the lesion: overlap, surface distances in mm, detection, volume and calibration. Unmeasurable values are NaN.

Surfaces are compared voxel by voxel, as ``monai.metrics`` does when it is given the spacing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import Cumulative
from scipy import ndimage

from ..errors import InputError
from .calibration import Array, brier_score, expected_calibration_error
from .table import mean_by_name

__all__ = ["LesionMetrics", "lesion_metrics", "lesion_region"]


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


def lesion_metrics(
    pred: Array, reference: Array, *, spacing_mm: Sequence[float], tolerance_mm: float = 2.0
) -> dict[str, float]:
    """Overlap, surface and volume agreement of two lesion masks, from one distance pass over the box that holds both.

    Args:
        pred, reference: 0/1 masks ``[X, Y, Z]`` (leading axes of length 1 are dropped).
        spacing_mm: voxel size along the array axes.
        tolerance_mm: surface distance that still counts as agreement for `nsd`.

    Returns:
        ``dice``; ``nsd``, the normalised surface Dice at `tolerance_mm` (Nikolov et al. 2021); ``hd95_mm``, the larger of both
        directed 95th percentiles of surface distance; ``lesion_f1`` over 26-connected lesions, found when one voxel is hit;
        ``volume_difference_ml``, predicted minus reference. Both masks empty: all NaN but the volume difference, which is 0.
        One empty: 0, 0, the diagonal of the image, 0.

    Raises:
        InputError: when shapes differ, spacing is missing or not positive, or a mask is not 0/1.
    """
    p, r, spacing = _pair("lesion_metrics", pred, reference, spacing_mm)
    if not tolerance_mm >= 0:
        raise InputError(f"lesion_metrics: expected tolerance_mm of 0 or more, got {tolerance_mm}")
    voxel_ml = float(np.prod(spacing)) / 1000 if p.ndim == 3 else float("nan")
    n_pred, n_ref = np.count_nonzero(p), np.count_nonzero(r)
    out: dict[str, float] = {"volume_difference_ml": (n_pred - n_ref) * voxel_ml}
    if not n_pred and not n_ref:
        return {"dice": np.nan, "nsd": np.nan, "hd95_mm": np.nan, "lesion_f1": np.nan, **out}
    if not n_pred or not n_ref:
        diagonal = float(np.linalg.norm(np.asarray(p.shape) * spacing))
        return {"dice": 0.0, "nsd": 0.0, "hd95_mm": diagonal, "lesion_f1": 0.0, **out}
    box = _bounding_box(p | r, 1)
    p, r = p[box], r[box]
    out["dice"] = 2.0 * np.count_nonzero(p & r) / (n_pred + n_ref)
    edge_p, edge_r = (m & ~ndimage.binary_erosion(m) for m in (p, r))
    to_reference, to_pred = _distances(edge_p, edge_r, spacing), _distances(edge_r, edge_p, spacing)
    agreeing = int((to_reference <= tolerance_mm).sum()) + int((to_pred <= tolerance_mm).sum())
    out["nsd"] = agreeing / (len(to_reference) + len(to_pred))
    out["hd95_mm"] = float(max(np.percentile(to_reference, 95), np.percentile(to_pred, 95)))
    out["lesion_f1"] = _lesion_f1(p, r)
    return {k: float(out[k]) for k in ("dice", "nsd", "hd95_mm", "lesion_f1", "volume_difference_ml")}


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
        p, r = (np.asarray(torch.as_tensor(t).detach().cpu())[0] for t in (probability, label))
        mask, truth = p > threshold, r > 0
        found = lesion_metrics(mask, truth, spacing_mm=spacing_mm, tolerance_mm=self.tolerance_mm)
        region = lesion_region(mask, truth, spacing_mm=spacing_mm, margin_mm=self.margin_mm)
        row = {
            "lesion_dice": found["dice"],
            "lesion_nsd_2mm": found["nsd"],
            "lesion_hd95_mm": found["hd95_mm"],
            "lesion_f1": found["lesion_f1"],
            "lesion_volume_difference_ml": found["volume_difference_ml"],
            "lesion_ece": expected_calibration_error(p, truth, region),
            "lesion_brier": brier_score(p, truth, region),
            "n_empty_pred": float(not mask.any()),
            "n_empty_ref": float(not truth.any() and not outside_voxels),
        }
        if outside_voxels:
            row["lesion_dice"] = 2.0 * int((mask & truth).sum()) / (int(mask.sum()) + int(truth.sum()) + outside_voxels)
            row["lesion_volume_difference_ml"] -= outside_voxels * float(np.prod(spacing_mm)) / 1000
            row.update(dict.fromkeys(("lesion_nsd_2mm", "lesion_hd95_mm", "lesion_f1"), math.nan))
        self.append(torch.tensor([row[n] for n in self.names], dtype=torch.float64))
        return row

    def aggregate(self) -> dict[str, float]:  # type: ignore[override]
        """Means; the two counts of empty masks are sums."""
        buffer = self.get_buffer()
        out = mean_by_name(self.names, buffer)
        for name in ("n_empty_pred", "n_empty_ref"):
            out[name] = float(buffer[:, self.names.index(name)].sum()) if isinstance(buffer, torch.Tensor) else 0.0
        return out
