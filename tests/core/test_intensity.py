# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import torch

from roi_fusion.core.choices import HU_POINTS, SCALED_POINTS
from roi_fusion.core.intensity import (
    IntensityMap,
    brighten_bone,
    compand_hu,
    expand_hu,
    fusion_sources,
    soft_knee,
    undo_brighten_bone,
    undo_soft_knee,
)


def test_companding_goes_through_its_points_and_back() -> None:
    assert torch.allclose(compand_hu(torch.tensor(HU_POINTS)), torch.tensor(SCALED_POINTS))
    hu = torch.linspace(-1000, 1500, 2001)
    scaled = compand_hu(hu)
    assert (scaled.diff() > 0).all()
    assert torch.allclose(expand_hu(scaled), hu, atol=1e-2)
    assert compand_hu(torch.tensor([-1183.0, 3071.0])).tolist() == [scaled[0].item(), 1.0]


def test_companding_keeps_contrast_in_brain_and_in_bone() -> None:
    grey, white, spongy, dense = compand_hu(torch.tensor([37.0, 29.0, 450.0, 1000.0]))
    assert grey - white > 0.03  # a plain window of ±1000 HU leaves 0.004
    assert dense - spongy > 0.1


def test_the_knee_bounds_an_outlier_and_spares_a_bright_lesion() -> None:
    x = torch.tensor([-50.0, 0.05, 0.5, 1.0, 2.0, 3.0, 4547.0])
    y = soft_knee(x)
    assert torch.equal(y[1:4], x[1:4])
    assert 0 < y[0] < 0.05
    assert y[4] == 1.5
    assert y[5] - y[4] > 0.15
    assert y[6] < 2.0
    near = torch.tensor([0.05, 1.0])
    slope = (soft_knee(near + 1e-4) - soft_knee(near - 1e-4)) / 2e-4
    assert torch.allclose(slope, torch.ones(2), atol=1e-2)


def test_the_knee_is_undone_and_its_inverse_takes_any_value() -> None:
    x = torch.cat([torch.linspace(-0.5, 12, 500), torch.tensor([0.05, 1.0])]).double()
    assert torch.allclose(undo_soft_knee(soft_knee(x)), x, atol=1e-6)
    beyond = undo_soft_knee(torch.linspace(-1, 4, 501).double())
    assert torch.isfinite(beyond).all()
    assert (beyond.diff() > 0).all()


def test_mri_units_come_back() -> None:
    constants = {"mri_low": 12.0, "mri_high": 900.0, "mri_mean": 0.5, "mri_std": 0.2, "ct_mean": 0.4, "ct_std": 0.2}
    intensity = IntensityMap.from_case(constants)
    mri = torch.tensor([-20.0, 12.0, 300.0, 900.0, 2200.0])
    scaled = soft_knee(0.05 + (mri - 12) / (900 - 12) * 0.95)
    normalised = (scaled - 0.5) / 0.2
    assert torch.allclose(intensity.normalised_to_mri_units(normalised), mri, rtol=1e-4, atol=1e-2)
    assert torch.allclose(intensity.normalised_to_mri_scale(normalised), scaled)


def test_the_ct_of_a_fused_volume_is_monotone_invertible_and_bright_in_bone() -> None:
    ct = torch.linspace(-4, 6, 2001)
    fused = brighten_bone(ct)
    assert (fused.diff() > 0).all()
    assert torch.allclose(undo_brighten_bone(fused), ct, atol=1e-5)
    assert torch.equal(fused[ct < -0.3], ct[ct < -0.3])
    assert brighten_bone(torch.tensor(2.1)) > 3


def test_the_sources_of_a_fused_volume_end_at_the_head() -> None:
    image = torch.randn(1, 2, 6, 6, 2)
    image[:, :, :3] = 0
    mri, ct = fusion_sources(image)
    assert torch.equal(mri, image[:, :1])
    assert not ct[:, :, :3].any()
    assert torch.equal(ct[:, :, 3:], brighten_bone(image[:, 1:, 3:]))
