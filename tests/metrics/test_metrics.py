# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from roi_fusion.core.intensity import IntensityMap, brighten_bone, fusion_sources
from roi_fusion.errors import InputError
from roi_fusion.metrics.calibration import brier_score, expected_calibration_error, reliability_curve
from roi_fusion.metrics.fusion import (
    FusionMetrics,
    baselines,
    hyperdense_shown,
    regional_psnr,
    regional_ssim,
    seam_ratio,
)
from roi_fusion.metrics.lesion import LesionMetrics, lesion_region
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


def test_regional_ssim_equals_scikit_image_where_the_region_holds_the_window() -> None:
    rng = np.random.default_rng(2)
    a = rng.random((60, 50)).astype(np.float32)
    b = np.clip(a + 0.1 * rng.standard_normal(a.shape), 0, 1).astype(np.float32)
    _, full = structural_similarity(
        a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    roi, inner = np.zeros_like(a), np.zeros_like(a)
    roi[10:50, 8:42] = inner[15:45, 13:37] = 1
    x, y, r, i = (torch.from_numpy(v)[None, None] for v in (a, b, roi, inner))
    assert float(regional_ssim(x, y, i, data_range=1.0, context=True)) == pytest.approx(full[inner > 0].mean(), abs=1e-6)
    from roi_fusion.core.ssim import ssim_map

    values = ssim_map(x.double(), y.double(), r.double())[0, 0].numpy()
    np.testing.assert_allclose(values[inner > 0], full[inner > 0], atol=1e-4)


def test_a_copy_scores_one_and_an_empty_region_is_missing() -> None:
    a = torch.rand(2, 1, 20, 20, 4)
    roi = torch.zeros_like(a)
    roi[0, :, 3:12, 4:9] = 1
    b = a.clone()
    b[roi == 0] = -7.0
    for found in (regional_ssim(b, a, roi, data_range=1.0), regional_psnr(b, a, roi, data_range=1.0)):
        assert math.isnan(found[1])
    assert regional_ssim(b, a, roi, data_range=1.0)[0] == 1.0
    assert math.isinf(regional_psnr(b, a, roi, data_range=1.0)[0])
    assert regional_ssim(b, a, roi, data_range=1.0, context=True)[0] < 0.9


def test_a_region_of_single_voxels_and_thin_volumes_work() -> None:
    a = torch.rand(1, 1, 3, 40, 1)
    roi = torch.zeros_like(a)
    roi[0, 0, 1, 7, 0] = 1
    assert torch.isfinite(regional_ssim(a, a + 0.1, roi, data_range=1.0)).all()


def test_slice_axis_moves_the_windows() -> None:
    a, b = torch.rand(1, 1, 14, 20, 16), torch.rand(1, 1, 14, 20, 16)
    roi = torch.ones_like(a)
    moved = regional_ssim(a.movedim(-1, 2), b.movedim(-1, 2), roi.movedim(-1, 2), data_range=1.0, slice_axis=2)
    assert float(moved) == pytest.approx(float(regional_ssim(a, b, roi, data_range=1.0)), abs=1e-9)


def test_regional_psnr_equals_scikit_image() -> None:
    a, b = torch.rand(1, 1, 12, 9, 5), torch.rand(1, 1, 12, 9, 5)
    roi = torch.rand(1, 1, 12, 9, 5) > 0.4
    theirs = peak_signal_noise_ratio(b[roi].numpy(), a[roi].numpy(), data_range=1.7)
    assert float(regional_psnr(a, b, roi, data_range=1.7)) == pytest.approx(theirs, abs=1e-4)


def test_the_seam_of_a_paste_shows() -> None:
    x = torch.linspace(0, 1, 40)[:, None, None].expand(40, 40, 3)[None, None]
    mri, ct = 0.2 * x, 2 + 0.2 * x
    roi = torch.zeros_like(x)
    roi[:, :, 10:30, 10:30] = 1
    pasted = torch.where(roi > 0, ct, mri)
    assert float(seam_ratio(mri, mri, ct, roi)) == pytest.approx(1.0, rel=1e-4)
    assert float(seam_ratio(pasted, mri, ct, roi)) > 20
    assert math.isnan(seam_ratio(mri, mri, ct, torch.zeros_like(roi)))


@pytest.mark.parametrize("call", [regional_ssim, regional_psnr])
def test_bad_arguments_are_refused(call) -> None:
    a = torch.rand(1, 1, 8, 8, 2)
    with pytest.raises(InputError, match="equal shapes"):
        call(a, a[..., :1], a, data_range=1.0)
    with pytest.raises(InputError, match="data_range above 0"):
        call(a, a, a, data_range=0.0)
    with pytest.raises(InputError, match=r"\[B, 1, X, Y, Z\]"):
        call(a[0], a[0], a[0], data_range=1.0)


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


def test_calibration_matches_its_definition() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(20000)
    truth = rng.random(20000) < p
    region = np.ones_like(truth)
    assert expected_calibration_error(p, truth, region) < 0.02
    assert expected_calibration_error(np.full_like(p, 0.9), truth, region) == pytest.approx(0.9 - truth.mean(), abs=1e-9)
    assert brier_score(p, truth, region) == pytest.approx(((p - truth) ** 2).mean())
    curve = reliability_curve(np.array([0.05, 0.95, 1.0]), np.array([0, 1, 1]), np.ones(3))
    assert curve["count"].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert curve["confidence"][9] == pytest.approx(0.975)
    assert math.isnan(brier_score(p, truth, np.zeros_like(truth)))
    assert math.isnan(expected_calibration_error(p, truth, np.zeros_like(truth)))
    with pytest.raises(InputError, match="probabilities from 0 to 1"):
        brier_score(p * 2, truth, region)


def test_the_lesion_region_reaches_as_far_as_asked() -> None:
    ref = np.zeros((41, 41, 9), bool)
    ref[20, 20, 4] = True
    region = lesion_region(np.zeros_like(ref), ref, spacing_mm=(1, 1, 6), margin_mm=10)
    inside = np.argwhere(region) - [20, 20, 4]
    distance = np.linalg.norm(inside * [1, 1, 6], axis=1)
    assert distance.max() <= 10
    assert region.sum() == (np.linalg.norm((np.argwhere(np.ones_like(ref)) - [20, 20, 4]) * [1, 1, 6], axis=1) <= 10).sum()


def test_fusion_metrics_average_what_exists() -> None:
    image = torch.rand(2, 24, 24, 4) + 0.1
    brain, bone = torch.zeros(1, 24, 24, 4), torch.zeros(1, 24, 24, 4)
    brain[:, 4:14, 4:14] = 1
    intensity = IntensityMap(0, 1, 0.5, 0.2, 0.4, 0.2)
    metric = FusionMetrics()
    dense = torch.zeros_like(bone)
    row = metric(image[:1], image, brain=brain, bone=bone, dense=dense, intensity=intensity)
    assert row["brain_ssim"] == pytest.approx(1.0)
    assert math.isnan(row["bone_ssim"])
    bone[:, 16:20, 16:20] = 1
    dense[:, 6:8, 6:10] = 1
    assert math.isnan(row["hyperdense_shown"])
    row = metric(brighten_bone(image[1:]), image, brain=brain, bone=bone, dense=dense, intensity=intensity)
    assert row["hyperdense_shown"] == 1
    alone = torch.cat([image[:1], torch.zeros_like(image[1:])])
    row = FusionMetrics()(image[:1], alone, brain=brain, bone=bone, dense=dense, intensity=intensity)
    assert math.isnan(row["global_ssim"])  # half of it would be against a CT that is not there
    means = metric.aggregate()
    assert means["bone_ssim"] == pytest.approx(1.0)  # of the one case that has bone
    assert means["brain_ssim"] < 1


def test_blood_and_calcium_are_shown_where_the_fused_volume_is_nearer_to_the_ct() -> None:
    mri, ct, dense = torch.full((1, 1, 12, 6, 4), 1.0), torch.full((1, 1, 12, 6, 4), 3.0), torch.zeros(1, 1, 12, 6, 4)
    bone = torch.zeros_like(dense)
    dense[:, :, :4] = 1
    fused = mri.clone()
    fused[:, :, :3] = 2.5  # three of four rows
    assert float(hyperdense_shown(fused, mri, ct, dense, bone)) == pytest.approx(0.75)
    assert float(hyperdense_shown(mri, mri, ct, dense, bone)) == 0
    assert float(hyperdense_shown((mri + ct) / 2, mri, ct, dense, bone)) == 0  # half is not shown
    assert math.isnan(hyperdense_shown(fused, mri, ct, torch.zeros_like(dense), bone))
    # Rows 8 to 11 are bone in slice 0, and half of it in slice 1, which is not shown and left out; so are both last slices.
    bone[:, :, 8:, :, :1] = 1
    dense[:, :, 8:, :, (1, 3)] = 1
    assert float(hyperdense_shown(fused, mri, ct, dense, bone)) == pytest.approx(0.75)
    dense[:, :, 8:, :, 2] = 1  # two slices away it counts: 2 · 24 voxels and 24 more
    assert float(hyperdense_shown(fused, mri, ct, dense, bone)) == pytest.approx(0.75 * 48 / (48 + 24))


def test_lesion_metrics_of_cases_with_different_spacing() -> None:
    metric = LesionMetrics()
    ref = torch.zeros(1, 9, 9, 9)
    ref[0, 4, 4, 4] = 1
    pred = torch.zeros(1, 9, 9, 9)
    pred[0, 4, 4, 6] = 1
    assert metric(pred, ref, spacing_mm=(1, 1, 5))["lesion_hd95_mm"] == 10
    assert metric(pred, ref, spacing_mm=(1, 1, 0.5))["lesion_hd95_mm"] == 1
    metric(torch.zeros_like(ref), torch.zeros_like(ref), spacing_mm=(1, 1, 1))
    means = metric.aggregate()
    assert means["lesion_hd95_mm"] == pytest.approx(5.5)
    assert (means["n_empty_pred"], means["n_empty_ref"]) == (1, 1)


def test_no_case_is_no_number() -> None:
    assert all(math.isnan(v) for v in FusionMetrics().aggregate().values())


def test_baselines_are_what_they_say() -> None:
    image = torch.randn(1, 2, 6, 6, 2)
    bone = torch.zeros(1, 1, 6, 6, 2)
    bone[:, :, :2] = 1
    rows = baselines(image, bone, bone)
    mri, ct = fusion_sources(image)
    assert torch.equal(rows["paste"][bone > 0], ct[bone > 0])
    assert torch.equal(rows["paste"][bone == 0], mri[bone == 0])
    assert torch.equal(rows["maximum"], torch.maximum(mri, ct))
    assert torch.allclose(rows["average"], (mri + ct) / 2)
