# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Against brute force: components by scikit-image, surfaces by pairwise distances, as the organisers' code defines them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.measure import label

from roi_fusion_tools.challenge_metrics import CHALLENGE_METRICS, challenge_row, matched_f1

SPACING = (1.0, 1.5, 4.0)


def blobs(seed: int) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((18, 20, 9)), 1.3)
    return noise > np.quantile(noise, 0.93)


def surface(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask & ~ndimage.binary_erosion(mask)) * SPACING


def by_hand(pred: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    both = int((pred & reference).sum())
    parts, lesions = label(pred, connectivity=3), label(reference, connectivity=3)
    hit = sum(bool(pred[lesions == i].any()) for i in range(1, lesions.max() + 1))
    wrong = sum(not reference[parts == i].any() for i in range(1, parts.max() + 1))
    distances = cdist(surface(pred), surface(reference))
    ious = [
        float(((parts == i) & (lesions == j)).sum() / ((parts == i) | (lesions == j)).sum())
        for i in range(1, parts.max() + 1)
        for j in range(1, lesions.max() + 1)
    ]
    return {
        "dice": 2 * both / (pred.sum() + reference.sum()),
        "volume_difference_ml": abs(int(pred.sum()) - int(reference.sum())) * 6e-3,
        "volume_difference_voxels": abs(int(pred.sum()) - int(reference.sum())),
        "lesion_count_difference": abs(int(parts.max()) - int(lesions.max())),
        "lesion_f1": hit / (hit + (lesions.max() - hit + wrong) / 2),
        "lesion_f1_iou_50": 2 * sum(iou > 0.5 for iou in ious) / (parts.max() + lesions.max()),
        "assd_mm": (distances.min(1).mean() + distances.min(0).mean()) / 2,
        "hausdorff_mm": max(distances.min(1).max(), distances.min(0).max()),
        "precision": both / pred.sum(),
        "recall": both / reference.sum(),
    }


@pytest.mark.parametrize("seed", range(4))
def test_every_metric_is_what_it_is_by_hand(seed: int) -> None:
    reference = blobs(seed)
    pred = np.roll(reference, 1, axis=0) | blobs(seed + 100)
    expected = by_hand(pred, reference)
    assert set(expected) == set(CHALLENGE_METRICS)
    assert challenge_row(pred, reference, SPACING, list(expected)) == pytest.approx(expected)


def test_empty_masks_are_what_the_organisers_make_of_them() -> None:
    some, none = blobs(0), np.zeros((18, 20, 9), bool)
    names = list(CHALLENGE_METRICS)
    both, one = challenge_row(none, none, SPACING, names), challenge_row(none, some, SPACING, names)
    assert [both[n] for n in ("dice", "lesion_f1", "lesion_f1_iou_50", "volume_difference_ml")] == [1.0, 1.0, 1.0, 0.0]
    assert [one[n] for n in ("dice", "lesion_f1", "lesion_f1_iou_50", "recall")] == [0.0, 0.0, 0.0, 0.0]
    assert all(math.isnan(row[n]) for row in (both, one) for n in ("assd_mm", "hausdorff_mm", "precision"))


def test_a_lesion_is_matched_once() -> None:
    reference = np.zeros((12, 6, 6), bool)
    reference[1:11, 1:5, 1:5] = True
    halves = reference.copy()
    halves[6] = False  # 5 and 4 of 10 planes
    assert matched_f1(halves, reference) == pytest.approx(2 / 3)
    assert matched_f1(halves, reference, least_iou=0.6) == 0.0
