# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import math

import pytest
import torch

from roi_fusion.core.lesion_places import set_apart

SPACING = (2.0, 2.0, 5.0)
VOXEL_ML = 0.02


def volumes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two lesions in a brain of 35 HU with noise, one of them in a ventricle; a third beside the brain."""
    torch.manual_seed(0)
    lesion, brain = torch.full((1, 1, 40, 40, 6), 0.02), torch.ones(1, 1, 40, 40, 6)
    ct = 35 + 8 * torch.randn(1, 1, 40, 40, 6)
    lesion[..., 3:11, 3:11, 2:4] = 0.9
    ct[..., 18:30, 18:30, :] -= 30
    lesion[..., 20:26, 20:26, 2:4] = 0.8
    brain[..., 34:, :, :] = 0.1
    lesion[..., 35:39, 4:8, 3] = 0.7
    return lesion, brain, ct


def test_parts_in_fluid_and_outside_the_brain_are_told_apart_with_their_volume() -> None:
    lesion, brain, ct = volumes()
    apart = set_apart(lesion, brain, ct, threshold=0.5, spacing_mm=SPACING)
    assert apart.in_fluid_ml == pytest.approx(6 * 6 * 2 * VOXEL_ML)
    assert apart.outside_brain_ml == pytest.approx(4 * 4 * VOXEL_ML)
    kept = apart.probability > 0.5
    assert int(kept.sum()) == 8 * 8 * 2
    assert bool(kept[..., 3:11, 3:11, 2:4].all())
    assert torch.equal(apart.probability[~kept & (lesion < 0.5)], lesion[~kept & (lesion < 0.5)])


def test_without_a_ct_or_where_it_shows_nothing_there_is_no_fluid() -> None:
    lesion, brain, ct = volumes()
    assert set_apart(lesion, brain, None, threshold=0.5, spacing_mm=SPACING).in_fluid_ml == 0
    nothing = torch.full_like(ct, math.nan)
    assert set_apart(lesion, brain, nothing, threshold=0.5, spacing_mm=SPACING).in_fluid_ml == 0


def test_a_lesion_beside_a_sulcus_and_a_dark_infarct_stay() -> None:
    lesion, brain, ct = volumes()
    ct[..., 3:5, 3:11, :] = 4.0  # a quarter of the first lesion
    ct[..., 5:11, 3:11, :] -= 12.0  # an acute infarct
    apart = set_apart(lesion, brain, ct, threshold=0.5, spacing_mm=SPACING)
    assert bool((apart.probability[..., 3:11, 3:11, 2:4] > 0.5).all())


def test_nothing_found_is_nothing_changed() -> None:
    lesion, brain, ct = volumes()
    apart = set_apart(lesion, brain, ct, threshold=0.95, spacing_mm=SPACING)
    assert apart.probability is lesion
    assert (apart.in_fluid_ml, apart.outside_brain_ml) == (0.0, 0.0)
