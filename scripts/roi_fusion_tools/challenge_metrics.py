# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The metrics of public stroke challenges, as their organisers' code computes them.

They differ from :mod:`roi_fusion.metrics` where masks are empty: ISLES'22 and ISLES'24 give two empty masks a Dice and an F1
of 1. Sources: ``eval_utils.py`` of ezequieldlrosa/isles22 and isles24, atlas.grand-challenge.org, and Maier et al. 2017 for
ISLES'15.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from roi_fusion.metrics.surface import MaskComparison

__all__ = ["CHALLENGE_METRICS", "challenge_row", "matched_f1"]

_TOUCHING = np.ones((3, 3, 3), bool)


def matched_f1(pred: np.ndarray, reference: np.ndarray, least_iou: float = 0.5) -> float:
    """F1 over 26-connected lesions, each found when one of the prediction covers it with this intersection over union.

    This is what ISLES'24 takes from panoptica (recognition quality). Two empty masks give 1.

    Args:
        pred, reference: masks ``[X, Y, Z]``.
        least_iou: from which on two lesions are one.

    Example:
        >>> mask = np.zeros((8, 8, 4), bool)
        >>> mask[2:6, 2:6, 1:3] = True
        >>> matched_f1(mask, mask), matched_f1(np.roll(mask, 2, axis=0), mask)
        (1.0, 0.0)
    """
    parts, n_pred = ndimage.label(pred, _TOUCHING)
    lesions, n_reference = ndimage.label(reference, _TOUCHING)
    if not n_pred and not n_reference:
        return 1.0
    sizes_pred, sizes_reference = np.bincount(parts.ravel()), np.bincount(lesions.ravel())
    both = parts.astype(np.int64) * (n_reference + 1) + lesions
    pairs, counts = np.unique(both[(parts > 0) & (lesions > 0)], return_counts=True)
    matched: set[int] = set()
    taken: set[int] = set()
    ious = []
    for pair, count in zip(pairs, counts):
        i, j = divmod(int(pair), n_reference + 1)
        ious.append((count / (sizes_pred[i] + sizes_reference[j] - count), i, j))
    for iou, i, j in sorted(ious, reverse=True):
        if iou >= least_iou and i not in taken and j not in matched:
            taken.add(i)
            matched.add(j)
    return 2 * len(matched) / (n_pred + n_reference)


def _or_one(value: float) -> float:
    """What the organisers give two empty masks."""
    return 1.0 if math.isnan(value) else value


def _count_difference(pair: MaskComparison, pred: np.ndarray, reference: np.ndarray) -> float:
    return float(abs(ndimage.label(pred, _TOUCHING)[1] - ndimage.label(reference, _TOUCHING)[1]))


def _average_surface_mm(pair: MaskComparison, pred: np.ndarray, reference: np.ndarray) -> float:
    if not pair.n_pred or not pair.n_reference:
        return math.nan
    return float(np.mean([d.mean() for d in pair.surface_distances_mm]))


def _hausdorff_mm(pair: MaskComparison, pred: np.ndarray, reference: np.ndarray) -> float:
    return pair.hausdorff_mm(100) if pair.n_pred and pair.n_reference else math.nan


def _share(hit: int, of: int) -> float:
    return hit / of if of else math.nan


Metric = Callable[[MaskComparison, np.ndarray, np.ndarray], float]

#: Column → how it is computed from a comparison and both masks. NaN is no value, and is left out of means.
CHALLENGE_METRICS: dict[str, Metric] = {
    "dice": lambda pair, p, r: _or_one(pair.dice()),
    "volume_difference_ml": lambda pair, p, r: abs(pair.volume_difference_ml()),
    "volume_difference_voxels": lambda pair, p, r: float(abs(pair.n_pred - pair.n_reference)),
    "lesion_count_difference": _count_difference,
    "lesion_f1": lambda pair, p, r: _or_one(pair.lesion_f1()),
    "lesion_f1_iou_50": lambda pair, p, r: matched_f1(p, r),
    "assd_mm": _average_surface_mm,
    "hausdorff_mm": _hausdorff_mm,
    "precision": lambda pair, p, r: _share(int((p & r).sum()), pair.n_pred),
    "recall": lambda pair, p, r: _share(int((p & r).sum()), pair.n_reference),
}


def challenge_row(
    pred: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], names: Sequence[str]
) -> dict[str, float]:
    """Some of :data:`CHALLENGE_METRICS` for two masks ``[X, Y, Z]``.

    Raises:
        InputError: when shapes differ or a mask is not 0/1.
    """
    pair = MaskComparison(pred, reference, spacing_mm=spacing_mm)
    p, r = np.asarray(pred) > 0, np.asarray(reference) > 0
    return {name: CHALLENGE_METRICS[name](pair, p, r) for name in names}
