# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest

from roi_fusion.core.conflict import CONFLICT_WARNING_ML, brain_in_mri, conflict_mask, conflict_sentence

SPACING_MM = (1.0, 1.0, 5.0)


def pair(shift: int = 0, slices: int = 6, signal: float = 400.0) -> tuple[np.ndarray, ...]:
    """MRI, CT, the CT's brain and bone of a round head whose CT lies `shift` voxels beside the MRI, and the MRI's own brain."""
    x, y = np.mgrid[:110, :110] - 55.0
    rng = np.random.default_rng(0)

    def radius(offset: float) -> np.ndarray:
        return np.hypot(x - offset, y)[..., None].repeat(slices, -1)

    in_mri, in_ct = radius(0), radius(shift)
    mri = np.where(in_mri < 38, signal, np.where(in_mri < 44, 20.0, np.where(in_mri < 48, 500.0, 0.0)))
    ct = np.where(in_ct < 38, 35.0, np.where(in_ct < 44, 1000.0, np.where(in_ct < 48, 20.0, -1000.0)))
    noisy = mri + rng.normal(0, 10, mri.shape), ct + rng.normal(0, 4, ct.shape)
    return *noisy, in_ct < 38, (in_ct >= 38) & (in_ct < 44), in_mri < 38


def test_a_pair_in_one_place_has_no_conflict() -> None:
    mri, ct, brain, bone, _ = pair()
    assert not conflict_mask(mri, ct, brain, bone, SPACING_MM).any()


@pytest.mark.parametrize("shift", [4, 5])
def test_a_shifted_ct_covers_what_the_geometry_says(shift: int) -> None:
    mri, ct, brain, bone, truth = pair(shift)
    found, covered = conflict_mask(mri, ct, brain, bone, SPACING_MM), truth & bone
    assert not (found & ~covered).any()
    assert found.sum() > 0.7 * covered.sum()  # the horns of the crescent are thinner than the rim
    assert not found[55:].any()  # the CT went to higher x, so its skull covers brain at the lower side alone


def test_the_units_of_the_mri_do_not_matter() -> None:
    mri, ct, brain, bone, _ = pair(4)
    plain = conflict_mask(mri, ct, brain, bone, SPACING_MM)
    assert np.array_equal(conflict_mask(0.01 * mri - 3, ct, brain, bone, SPACING_MM), plain)


def test_a_slab_of_bone_over_the_vertex_is_found() -> None:
    mri, ct, brain, bone, _ = pair()
    ct[..., 5] = np.where(ct[..., 5] > 0, 900.0, ct[..., 5])  # the last slice is skull in the CT and brain in the MRI
    bone[..., 5] |= brain[..., 5]
    brain[..., 5] = False
    found = conflict_mask(mri, ct, brain, bone, SPACING_MM)
    assert found[..., 5].sum() > 0.95 * np.pi * 37**2
    assert not found[..., :5].any()


def test_what_partial_volume_explains_is_no_conflict() -> None:
    """The last slice is brain by half and bone by half in both images."""
    mri, ct, brain, bone, _ = pair()
    mixed = brain[..., 5].copy()
    ct[..., 5][mixed], mri[..., 5][mixed] = 0.5 * (35 + 1000), 0.5 * (400 + 20)
    bone[..., 5] |= mixed
    brain[..., 5] = False
    assert not conflict_mask(mri, ct, brain, bone, SPACING_MM).any()


def test_the_scalp_behind_the_skull_is_not_reached() -> None:
    mri, ct, brain, bone, _ = pair(-7)  # the MRI's bright scalp lies under the CT's bone on one side
    covered = brain_in_mri(mri, ct, brain, bone, SPACING_MM) & bone
    assert covered.any()
    assert not (covered & (np.hypot(*np.mgrid[-55:55, -55:55])[..., None] > 44)).any()


def test_nothing_and_no_contrast_give_no_conflict() -> None:
    mri, ct, brain, bone, _ = pair(4)
    nothing = np.zeros_like(bone)
    no_bone = np.full_like(ct, 20.0)
    for parts in (
        (mri, ct, nothing, bone),
        (mri, ct, brain, nothing),
        (mri, no_bone, brain, bone),
        (np.zeros_like(mri), ct, brain, bone),
    ):
        assert not conflict_mask(*parts, SPACING_MM).any()


def test_a_large_conflict_is_said() -> None:
    assert conflict_sentence(CONFLICT_WARNING_ML - 0.01) == ""
    assert conflict_sentence(float("nan")) == ""
    assert "31 mL of brain" in conflict_sentence(31.2)
