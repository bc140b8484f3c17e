# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from heads import AFFINE, SHAPE, Pair, make_pair
from roi_fusion.data.cases import find_cases
from roi_fusion.data.ct_fill import repair_ct
from roi_fusion.data.grids import resample, respaced
from roi_fusion.data.plausibility import Judgement, Placed, judge_pair, lesion_sentence
from roi_fusion.data.transforms.plausibility import JudgePaird, RepairCTd, warnings_of
from roi_fusion.errors import InputError


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair()


def judge(mri: np.ndarray, ct: np.ndarray, mri_affine: np.ndarray = AFFINE, ct_affine: np.ndarray = AFFINE) -> Judgement:
    repaired, unseen, _ = repair_ct(ct)
    return judge_pair(Placed(mri, mri_affine), Placed(repaired, ct_affine), ct_unseen=unseen)


def upper(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The upper 8 slices and their affine."""
    affine = AFFINE.copy()
    affine[:3, 3] += 18 * AFFINE[:3, 2]
    return volume[:, :, 18:], affine


def circle() -> np.ndarray:
    """Beyond the scanner's circle."""
    x, y = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return ((x - 31.5) ** 2 + (y - 31.5) ** 2 > 31.5**2)[..., None] & np.ones(SHAPE, bool)


def volume_ml(radii: tuple[float, float, float]) -> float:
    return 4 / 3 * math.pi * math.prod(radii) / 1000


def test_a_head_is_measured_and_nothing_is_said(pair: Pair) -> None:
    judged = judge(pair.mri, pair.ct)
    assert judged.refusals == judged.warnings == judged.notes == []
    facts = judged.facts
    # The ellipsoids that the pair was drawn from: a coarse copy is good to a voxel's half width all around.
    assert facts["head_ct_ml"] == pytest.approx(volume_ml((76, 95, 75)), rel=0.05)
    assert facts["brain_ml"] == pytest.approx(volume_ml((64, 83, 64)), rel=0.12)
    assert facts["bone_ml"] == pytest.approx(volume_ml((70, 89, 70)) - volume_ml((64, 83, 64)), rel=0.4)
    assert facts["brain_hu"] == pytest.approx(34, abs=3)
    assert facts["overlap"] > 0.95
    assert facts["head_without_ct_ml"] == facts["brain_without_mri_ml"] == facts["brain_unseen"] == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda ct: 10 * ct, "got a median of 3"),
        (lambda ct: -ct, "expected CT in HU"),
        (lambda ct: np.where(circle(), -2000, np.round(ct) + 1024), "stored values, or no head"),
        (lambda ct: np.where(circle(), 0, np.round(ct) + 1024), "stored values, or no head"),
        (lambda ct: np.where(np.indices(SHAPE)[2] == 13, ct, -1000), "expected"),
    ],
    ids=["ten-fold", "negated", "stored, padded", "stored, filled", "one slice"],
)
def test_what_cannot_be_a_head_in_hu_is_refused(pair: Pair, change: Any, sentence: str) -> None:
    judged = judge(pair.mri, change(pair.ct).astype(np.float32))
    assert judged.refusals
    assert sentence in judged.refusals[0]
    assert "\n" not in judged.refusals[0]


@pytest.mark.parametrize(
    ("mri", "sentence"),
    [
        (lambda p: p.ct, "got the same volume twice"),
        (lambda p: p.ct + np.random.default_rng(1).normal(0, 3, SHAPE), "got values of a CT in HU"),
        (lambda p: np.clip(p.ct + 1024, 0, None), "a CT in other numbers"),
    ],
    ids=["the same", "a CT", "a CT in stored values"],
)
def test_an_mri_that_is_a_ct_is_refused(pair: Pair, mri: Any, sentence: str) -> None:
    assert sentence in judge(mri(pair).astype(np.float32), pair.ct).refusals[0]


def test_heads_in_other_places_are_refused_or_said(pair: Pair) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 40
    judged = judge(pair.mri, pair.ct, ct_affine=moved)
    assert any("of the smaller head lies inside the other" in w for w in judged.warnings)
    assert not judged.refusals
    moved[0, 3] += 60
    assert "expected a CT of the MRI's head in the same place" in judge(pair.mri, pair.ct, ct_affine=moved).refusals[0]


def test_a_ct_of_a_part_says_how_much_of_the_brain_it_lacks(pair: Pair) -> None:
    part, affine = upper(pair.ct)
    slab = np.full(SHAPE, -1024, np.float32)  # the same, as another program brings it onto the MRI's grid
    slab[:, :, 18:] = part
    below = 0.83 * volume_ml((64, 83, 64))  # of an ellipsoid lie under 30 of its 64 mm
    for judged in (judge(pair.mri, part, ct_affine=affine), judge(pair.mri, slab)):
        assert not judged.refusals
        assert judged.facts["brain_unseen"] == 1
        # An MRI's scalp parts from its brain along the dark skull: what is deep inside is less than the brain then.
        assert 0.5 * below < judged.facts["brain_without_ct_ml"] < 1.2 * below
        sentence = next(w for w in judged.warnings if "the CT ends inside the brain" in w)
        assert f"{judged.facts['head_without_ct_ml']:.0f} mL of the MRI's head" in sentence
        assert "have no CT and were not judged" in sentence


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_padded_ct_is_judged_as_the_one_that_ended_there(pair: Pair, axis: int) -> None:
    at = [slice(None)] * 3
    at[axis] = slice(SHAPE[axis] // 2, None)
    affine = AFFINE.copy()
    affine[:3, 3] += at[axis].start * AFFINE[:3, axis]
    part = pair.ct[tuple(at)]
    padded = np.full(SHAPE, -1024, np.float32)
    padded[tuple(at)] = part
    ended, told = judge(pair.mri, part, ct_affine=affine), judge(pair.mri, padded)
    assert told.facts == pytest.approx(ended.facts, rel=1e-3)
    assert told.warnings == ended.warnings
    assert told.facts["brain_unseen"] == 1
    assert any("have no CT and were not judged" in w for w in told.warnings)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 5.0), (1.0, 1.0, 1.0), (2.01, 1.99, 2.0), (2.0, 2.0, 7.0)])
@pytest.mark.parametrize("cut_mm", [0, 18])
def test_a_head_on_any_grid_keeps_its_brain(pair: Pair, spacing: tuple[float, ...], cut_mm: float) -> None:
    """Smoothed on the way, as programs that resample do; and with both sides of the skull out of the field of view."""
    shape, grid = respaced(SHAPE, AFFINE, spacing)
    cut = round((32 + cut_mm) / spacing[0])
    shape, grid[:3, 3] = (shape[0] - 2 * cut, *shape[1:]), grid[:3, 3] + cut * grid[:3, 0]
    ct, mri = (resample(v, AFFINE, shape, grid, outside=o) for v, o in ((pair.ct, -1000), (pair.mri, 0)))
    judged = judge(mri, ct, grid, grid)
    assert judged.refusals == []
    assert judged.facts["brain_ml"] == pytest.approx(volume_ml((64, 83, 64)), rel=0.15 if not cut_mm else 0.2)


def test_an_mri_of_a_part_says_how_much_of_the_brain_it_lacks(pair: Pair) -> None:
    part, affine = upper(pair.mri)
    judged = judge(part, pair.ct, mri_affine=affine)
    assert judged.facts["brain_unseen"] == 1
    brain = judge(pair.mri, pair.ct).facts["brain_ml"]
    assert judged.facts["brain_without_mri_ml"] == pytest.approx(0.83 * brain, rel=0.1)
    without = judged.facts["brain_without_mri_ml"]
    assert judged.warnings == [f"MRI: {without:.0f} of {brain:.0f} mL of the CT's brain have no MRI and were not judged"]


def test_a_head_cut_by_a_slice_or_two_is_no_matter(pair: Pair) -> None:
    affine = AFFINE.copy()
    affine[:3, 3] += 2 * AFFINE[:3, 2]
    judged = judge(pair.mri, pair.ct[:, :, 2:], ct_affine=affine)  # the chin
    assert judged.facts["brain_unseen"] == 0
    assert judged.warnings == []


def test_a_skull_stripped_mri_serves(pair: Pair) -> None:
    points = np.moveaxis(np.indices(SHAPE), 0, -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    brain = ((points / np.array([63, 82, 63])) ** 2).sum(-1) < 1
    judged = judge(np.where(brain, pair.mri, 0).astype(np.float32), pair.ct)
    assert not judged.refusals
    assert judged.warnings == []
    assert judged.notes == ["MRI: the MRI shows no skull and scalp (skull-stripped), which serves as well"]
    assert judged.facts["brain_unseen"] == 0


def test_one_volume_alone_is_judged_too(pair: Pair) -> None:
    only_ct = judge_pair(None, Placed(pair.ct, AFFINE))
    assert only_ct.refusals == only_ct.warnings == []
    assert math.isnan(only_ct.facts["head_mri_ml"])
    only_mri = judge_pair(Placed(pair.mri, AFFINE), None)
    assert only_mri.refusals == only_mri.warnings == []
    assert only_mri.facts.keys() == only_ct.facts.keys()  # they are collated


def test_a_lesion_of_a_third_of_the_brain_is_said_and_one_of_all_of_it_refused() -> None:
    assert lesion_sentence(400, 1400) == ("", False)
    assert lesion_sentence(480, 1400) == (
        "lesion mask: the lesion takes 480 mL, more than a third of the brain (1400 mL)",
        False,
    )
    assert lesion_sentence(3162, 1400)[1]
    assert lesion_sentence(1.0, math.nan) == ("", False)


def volume(array: np.ndarray, name: str) -> MetaTensor:
    return MetaTensor(
        torch.from_numpy(np.ascontiguousarray(array))[None], affine=torch.from_numpy(AFFINE), meta={"filename_or_obj": name}
    )


def case(pair: Pair, ct: np.ndarray | None = None, **more: Any) -> dict:
    return {"case": "a", "image": volume(pair.mri, "mri"), "ct": volume(pair.ct if ct is None else ct, "ct"), **more}


def through(item: dict, mode: str) -> dict:
    return JudgePaird(mode)(RepairCTd(mode)(item))


def test_the_knob_refuses_warns_or_leaves_alone(pair: Pair) -> None:
    ten_fold = (10 * pair.ct).astype(np.float32)
    with pytest.raises(InputError, match=r"^ct: expected CT in HU"):
        through(case(pair, ten_fold), "refuse")
    warned = through(case(pair, ten_fold), "warn")
    assert any("expected CT in HU" in w for w in warnings_of(warned))
    left = through(case(pair, ten_fold), "off")
    assert "plausibility" not in left
    assert float(left["ct"].min()) < -9000
    with pytest.raises(InputError, match="plausibility: expected one of refuse, warn, off, got 'no'"):
        JudgePaird("no")


def test_the_transforms_mend_the_ct_and_carry_the_sentences(pair: Pair) -> None:
    slab = pair.ct.copy()
    slab[:, :, :6] = 0
    out = through(case(pair, slab), "refuse")
    assert float(out["ct"][0, :, :, :6].max()) == -1024
    assert out["ct"].meta["filename_or_obj"] == "ct"
    assert "ct_unseen" not in out
    assert any("is filled with 0" in w for w in warnings_of(out))
    quiet = through(case(pair), "refuse")
    assert warnings_of(quiet) == []
    assert set(quiet["plausibility"]) == set(out["plausibility"])
    alone = through(case(pair, np.zeros(SHAPE, np.float32), missing="ct"), "refuse")
    assert math.isnan(alone["plausibility"]["brain_ml"])


def test_a_mask_of_the_head_is_no_lesion(pair: Pair) -> None:
    head = volume((pair.ct > -300).astype(np.uint8), "mask.nii.gz")
    with pytest.raises(InputError, match=r"mask\.nii\.gz: the lesion takes .* mL, more than a third of the brain"):
        through(case(pair, label=head), "refuse")
    through(case(pair, label=volume(pair.lesion.astype(np.uint8), "lesion_mask.nii.gz")), "refuse")


def test_phantoms_are_heads(tiny_dataset: Path) -> None:
    import nibabel as nib

    for found in find_cases(tiny_dataset):
        images = [nib.load(found[k]) for k in ("image", "ct")]
        judged = judge_pair(*(Placed(i.get_fdata(dtype=np.float32), i.affine) for i in images))
        assert judged.refusals == []


def test_a_judgement_does_not_depend_on_how_axes_are_stored(pair: Pair) -> None:
    plain = judge(pair.mri, pair.ct).facts
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = SHAPE[0] - 1
    turned = AFFINE @ flip
    order = [2, 0, 1]
    other = judge_pair(Placed(pair.mri, AFFINE), Placed(pair.ct[::-1].transpose(order), turned[:, [*order, 3]])).facts
    assert other["head_ct_ml"] == pytest.approx(plain["head_ct_ml"], rel=0.02)
    assert other["overlap"] == pytest.approx(plain["overlap"], abs=0.02)
