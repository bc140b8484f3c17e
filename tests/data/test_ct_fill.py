# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest

from heads import AFFINE, SHAPE, Pair, make_pair
from roi_fusion.data.ct_fill import constant_border, repair_ct
from roi_fusion.data.plausibility import Placed, judge_pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair()


def circle() -> np.ndarray:
    """Beyond the scanner's circle."""
    x, y = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return ((x - 31.5) ** 2 + (y - 31.5) ** 2 > 31.5**2)[..., None] & np.ones(SHAPE, bool)


@pytest.mark.parametrize("integers", [False, True])
def test_the_fill_of_a_registration_is_not_measured(pair: Pair, integers: bool) -> None:
    ct = np.round(pair.ct).astype(np.int16) if integers else pair.ct
    slab, background = ct.copy(), ct.copy()
    slab[:, :, :6] = 0
    background[ct < -300] = 0
    for filled in (slab, background):
        repaired, unseen, notices = repair_ct(filled, "ct.nii.gz")
        assert repaired.dtype == filled.dtype
        share = f"{100 * unseen.mean():.1f} % of the CT is filled with 0 from the border inwards"
        assert notices == [f"ct.nii.gz: {share}, taken for not measured and set to air"]
        expected = np.where(filled == 0, -1024, filled)
        assert (repaired != expected).mean() < 1e-3  # a 0 HU inside the head stays
    mended, whole = (judge_pair(None, Placed(c.astype(np.float32), AFFINE)) for c in (repair_ct(background)[0], pair.ct))
    assert not mended.refusals
    assert mended.facts["head_ct_ml"] == pytest.approx(whole.facts["head_ct_ml"], rel=0.02)


def test_padding_is_air_and_noise_is_not_padding(pair: Pair) -> None:
    padded = np.where(circle(), -3024, pair.ct).astype(np.float32)
    repaired, unseen, notices = repair_ct(padded)
    assert len(notices) == 1
    assert "is padding down to -3024, taken for air" in notices[0]
    assert repaired.min() == -1024
    assert not unseen[10:-10, 10:-10].any()  # but for whole planes, air and padding are no place that was not measured
    same, _, notices = repair_ct(pair.ct)
    assert same is pair.ct
    assert notices == []


def test_planes_of_one_value_show_nothing(pair: Pair) -> None:
    for planes in (np.s_[:, :, :5], np.s_[-3:]):
        ct, expected = pair.ct.copy(), np.zeros(SHAPE, bool)
        ct[planes], expected[planes] = -1024, True
        assert np.array_equal(constant_border(ct, above=-500), expected)
    inner = np.where(np.indices(SHAPE)[2] == 12, 7.0, pair.ct)
    assert not constant_border(inner, above=-500).any()  # a plane inside is no border
