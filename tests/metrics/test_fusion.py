# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from roi_fusion.core.intensity import IntensityMap, brighten_bone, fusion_sources
from roi_fusion.errors import InputError
from roi_fusion.metrics.fusion import (
    FusionMetrics,
    baselines,
    hyperdense_shown,
    regional_psnr,
    regional_ssim,
    seam_ratio,
)


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
