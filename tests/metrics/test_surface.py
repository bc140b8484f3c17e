# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage
from scipy.spatial import cKDTree

from roi_fusion.errors import InputError
from roi_fusion.metrics.surface import lesion_metrics


def random_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Two blobby masks of random size on a random grid; sometimes empty, one voxel, or touching the border."""
    shape = tuple(rng.integers(3, 28, 3))
    spacing = tuple(float(s) for s in rng.uniform(0.4, 8.0, 3))
    masks = []
    for _ in range(2):
        kind = rng.integers(0, 8)
        if kind == 0:
            mask = np.zeros(shape, bool)
        elif kind == 1:
            mask = np.zeros(shape, bool)
            mask[tuple(rng.integers(0, n) for n in shape)] = True
        else:
            field = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(0.5, 3))
            mask = field > np.quantile(field, rng.uniform(0.5, 0.98))
        masks.append(mask)
    return masks[0], masks[1], spacing


def brute_force(pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> dict[str, float]:
    """Surfaces by shifting, distances between all pairs of surface voxels by a k-d tree."""

    def surface(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        inner = padded.copy()
        for axis in range(mask.ndim):
            inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
        return np.argwhere((padded & ~inner)[tuple(slice(1, -1) for _ in range(mask.ndim))]) * np.asarray(spacing)

    a, b = surface(pred), surface(ref)
    ab, ba = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    return {
        "dice": 2 * (pred & ref).sum() / (pred.sum() + ref.sum()),
        "nsd": ((ab <= tolerance).sum() + (ba <= tolerance).sum()) / (len(ab) + len(ba)),
        "hd95_mm": max(np.percentile(ab, 95), np.percentile(ba, 95)),
    }


def test_lesion_metrics_equal_brute_force_and_monai_on_200_random_cases() -> None:
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(200):
        pred, ref, spacing = random_case(rng)
        ours = lesion_metrics(pred, ref, spacing_mm=spacing, tolerance_mm=2.0)
        voxel_ml = np.prod(spacing) / 1000
        assert ours["volume_difference_ml"] == pytest.approx((int(pred.sum()) - int(ref.sum())) * voxel_ml)
        if not pred.any() and not ref.any():
            assert all(math.isnan(ours[k]) for k in ("dice", "nsd", "hd95_mm", "lesion_f1"))
            continue
        if not pred.any() or not ref.any():
            assert (ours["dice"], ours["nsd"], ours["lesion_f1"]) == (0, 0, 0)
            assert ours["hd95_mm"] == pytest.approx(np.linalg.norm(np.array(pred.shape) * spacing))
            continue
        compared += 1
        for name, value in brute_force(pred, ref, spacing, 2.0).items():
            assert ours[name] == pytest.approx(value, abs=1e-6), name
        both = [torch.from_numpy(m)[None, None] for m in (pred, ref)]
        nsd = compute_surface_dice(*both, class_thresholds=[2.0], include_background=True, spacing=spacing)
        hd95 = compute_hausdorff_distance(*both, include_background=True, percentile=95, spacing=spacing)
        assert ours["nsd"] == pytest.approx(float(nsd), abs=1e-6)
        assert ours["hd95_mm"] == pytest.approx(float(hd95), rel=1e-5)  # MONAI works in float32
    assert compared > 120


def test_spacing_follows_the_array_axes() -> None:
    ref, pred = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    ref[4, 4, 4] = pred[4, 4, 6] = True
    assert lesion_metrics(pred, ref, spacing_mm=(1, 1, 5))["hd95_mm"] == 10
    assert lesion_metrics(pred, ref, spacing_mm=(5, 1, 1))["hd95_mm"] == 2


def test_lesion_f1_counts_lesions() -> None:
    ref, pred = np.zeros((20, 20, 3), bool), np.zeros((20, 20, 3), bool)
    ref[2:5, 2:5] = ref[10:12, 10:12] = True
    pred[4, 4, 1] = pred[17:19, 3:5] = True  # finds one of two lesions, and adds one
    assert lesion_metrics(pred, ref, spacing_mm=(1, 1, 1))["lesion_f1"] == pytest.approx(2 / 4)


def test_bad_masks_and_spacings_are_refused() -> None:
    mask = np.zeros((4, 4, 4), bool)
    with pytest.raises(InputError, match="equal shapes"):
        lesion_metrics(mask, mask[:3], spacing_mm=(1, 1, 1))
    with pytest.raises(InputError, match="3 positive lengths"):
        lesion_metrics(mask, mask, spacing_mm=(1, 1))
    with pytest.raises(InputError, match="3 positive lengths"):
        lesion_metrics(mask, mask, spacing_mm=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"0 and 1.*0\.3"):
        lesion_metrics(mask + 0.3, mask, spacing_mm=(1, 1, 1))
