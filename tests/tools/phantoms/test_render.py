# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest

from helpers import SMALL_PHANTOM
from roi_fusion.errors import InputError
from roi_fusion_tools.phantoms.render import CONTRASTS, PhantomConfig, draw_phantom


def median(volume: np.ndarray, mask: np.ndarray) -> float:
    return float(np.median(volume[mask > 0]))


def test_the_same_seed_gives_the_same_voxels() -> None:
    config = PhantomConfig(**SMALL_PHANTOM, misregistration_mm=2.0)
    first, second, other = (draw_phantom(config, (5, n)) for n in (1, 1, 2))
    for name in ("mri", "ct", "lesion", "brain", "bone"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert first.parameters == second.parameters
    assert not np.array_equal(first.ct, other.ct)


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_tissues_look_as_they_should(contrast: str) -> None:
    phantom = draw_phantom(PhantomConfig(**SMALL_PHANTOM, contrast=contrast, lesion_free_share=0.0), (11, 3))
    brain, bone, lesion = phantom.brain > 0, phantom.bone > 0, phantom.lesion > 0
    assert 1000 < brain.sum() * np.prod(SMALL_PHANTOM["spacing_mm"]) / 1000 < 2600  # mL
    assert 20 < median(phantom.ct, brain & ~lesion) < 45
    assert 450 < median(phantom.ct, bone) < 1150
    assert phantom.ct.min() >= -1183
    assert median(phantom.ct, ~(phantom.ct > -500)) == pytest.approx(-1000, abs=20)
    assert not (brain & bone).any()
    assert (lesion <= brain).all()
    healthy = median(phantom.mri, brain & ~lesion)
    assert median(phantom.mri, bone) < 0.7 * healthy
    assert phantom.mri.min() >= 0
    if lesion.any():
        ratio = median(phantom.mri, lesion) / healthy
        assert ratio < 0.8 if contrast == "adc" else ratio > 1.15 if contrast in ("dwi", "flair", "t2") else 0.5 < ratio < 1.2
    if contrast == "adc":
        assert 600 < healthy < 1100  # 1e-6 mm²/s


def test_lesions_darken_the_ct() -> None:
    drops = []
    for n in range(12):
        phantom = draw_phantom(PhantomConfig(**SMALL_PHANTOM, lesion_free_share=0.0), (2, n))
        lesion = phantom.lesion > 0
        if lesion.sum() > 40:
            drops.append(median(phantom.ct, (phantom.brain > 0) & ~lesion) - median(phantom.ct, lesion))
    assert len(drops) >= 3
    assert np.mean(drops) > 2


def test_a_moved_ct_moves_its_bone_and_nothing_else() -> None:
    still = draw_phantom(PhantomConfig(**SMALL_PHANTOM), (8, 0))
    moved = draw_phantom(PhantomConfig(**SMALL_PHANTOM, misregistration_mm=8.0), (8, 0))
    assert np.array_equal(still.brain, moved.brain)
    assert np.array_equal(still.lesion, moved.lesion)
    assert not np.array_equal(still.bone, moved.bone)
    agree = lambda p: (p.ct > 300)[p.bone > 0].mean()  # noqa: E731
    assert agree(moved) > 0.9
    assert ((moved.ct > 300)[still.bone > 0]).mean() < agree(moved) - 0.05
    assert np.linalg.norm(moved.parameters["ct_shift_mm"]) <= 8.0
    assert max(map(abs, moved.parameters["ct_rotation_degrees"])) <= 8.0
    assert still.parameters["ct_shift_mm"] == [0, 0, 0]


def test_grids_vary_within_the_stated_limits() -> None:
    grids = [PhantomConfig(varied_grid=True).grid_of((0, n)) for n in range(60)]
    isotropic = [g for g in grids if g.spacing_mm == (1.0, 1.0, 1.0)]
    assert 2 <= len(isotropic) <= 16
    for g in grids:
        plane, _, slices = g.spacing_mm
        assert g.spacing_mm == (1.0, 1.0, 1.0) or (0.4 <= plane <= 1.2 and 3 <= slices <= 7)
        assert np.allclose(np.multiply(g.shape, g.spacing_mm), (220, 225, 150), atol=4)
    assert PhantomConfig(varied_grid=True).grid_of((0, 5)) == grids[5]
    assert len({g.spacing_mm for g in grids}) > 40


def test_contrasts_are_drawn_from_those_given() -> None:
    drawn = {
        draw_phantom(PhantomConfig((24, 24, 3), (9.0, 9.0, 50.0), "adc,t2"), (0, n)).parameters["contrast"] for n in range(8)
    }
    assert drawn == {"adc", "t2"}


def test_one_millimetre_isotropic_and_a_single_slice() -> None:
    assert draw_phantom(PhantomConfig((60, 70, 50), (1.0, 1.0, 1.0)), (0, 0)).brain.any()
    assert draw_phantom(PhantomConfig((64, 64, 1), (3.5, 3.5, 5.0)), (0, 0)).mri.shape == (64, 64, 1)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"shape": (0, 4, 4)}, "shape"),
        ({"shape": (4, 4)}, "shape"),
        ({"spacing_mm": (1.0, -1.0, 5.0)}, "spacing_mm"),
        ({"contrast": "t3"}, "contrast: expected random or some of adc"),
        ({"misregistration_mm": -1.0}, "misregistration_mm"),
        ({"lesion_free_share": 1.5}, "lesion_free_share"),
    ],
)
def test_bad_settings_are_refused(change: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        PhantomConfig(**change)
