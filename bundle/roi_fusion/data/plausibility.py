# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Can this be a head, and do MRI and CT show the same one? One judgement for every door: :func:`judge_pair`.

All measures come from copies of about 2 mm, so a judgement takes a fraction of a second whatever the volumes' size. Limits are
from anatomy; each says below how it fails on either side. They refuse what cannot be a head in HU and warn of the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..core.masks import cranial_masks, head_mask
from .ct_fill import AIR_HU, constant_border
from .grids import block_mean, spacing_mm, thick_axis_last
from .io import looks_like_ct

__all__ = ["Judgement", "Placed", "judge_lesion", "judge_pair", "lesion_sentence"]

#: Head in mL, refused beyond. A newborn's is about 700, a slab of three thick slices 300, an adult's with neck up to 6,000.
#: Narrower would refuse slabs and heads with shoulders; wider would take a finger, or a body.
HEAD_LIMITS_ML = (150.0, 9000.0)
#: Head in mL, warned of beyond: padding or a table counted as head, or a part of a head.
HEAD_USUAL_ML = (500.0, 6500.0)
#: Intracranial space in mL: 300 to 450 in a newborn, 1,100 to 1,900 in adults, more with hydrocephalus. Above the refused
#: limit the threshold took something else for brain; the usual range warns of children under a month and of slabs.
BRAIN_LIMIT_ML, BRAIN_USUAL_ML = 3000.0, (300.0, 2200.0)
#: Bone's share of the head: 10 to 25 % in adults, 3 % in newborns. Numbers that are no HU turn most of the head, or the air,
#: to bone. A lower limit would refuse slabs of the skull base, a higher one would take stored values.
BONE_LIMIT, BONE_USUAL = 0.5, (0.01, 0.35)
#: Brain in shares of the bone: 2 to 5 in whole heads, 0.1 and more in slabs of the skull base. Stored values, whose head is all
#: bone, have 0.01.
BRAIN_TO_BONE = 0.05
#: Median of the head in HU: between fat (-100) and muscle (60), with bone on the other side. Ten-fold numbers have 300.
HEAD_HU = (-60.0, 150.0)
#: Median of the brain in HU: 25 to 40; less with much CSF or oedema, more with blood and contrast agent.
BRAIN_HU = (5.0, 65.0)
#: Share of the smaller head that lies in the other. Heads of one person in one place have 0.9 and more, skull-stripped ones 1;
#: noise in an ADC map's background lowers it, which is why only gross misplacement is refused.
OVERLAP_LIMIT, OVERLAP_USUAL = 0.4, 0.8
#: Correlation of MRI and CT over the head above which the MRI is the same CT in other numbers: bone is dark in MRI, so pairs
#: lie below 0.5.
SAME_CORRELATION = 0.95
#: Tissue farther inside than scalp and skull are thick, and no deeper under the top of the head than a brain reaches.
SCALP_AND_SKULL_MM, BRAIN_DEPTH_MM = 14.0, 150.0
#: Brain that borders on the end of the image, in cm², from which more brain lies beyond: a cap of 50 mL on a sphere of 70 mm
#: has 60, and in label maps of real heads 60 cm² go with 25 to 55 mL at either end; the foramen magnum has under 10. The lower
#: one holds where the MRI shows what lies there.
CUT_CM2, CUT_WITH_MRI_CM2 = 60.0, 20.0
#: Brain without the other image, in mL, from which it is said and a lesion volume is a lower bound only: rims of a few voxels
#: and misregistration of some millimetres stay below.
UNSEEN_BRAIN_ML = 40.0
#: Lesion's share of the brain that is warned of: the largest infarcts of one artery take a quarter. Above all of the brain and
#: 500 mL a mask is an outline of brain or head.
LESION_SHARE, LESION_LIMIT_ML = 1 / 3, 500.0
#: Share of the CT's skull and scalp where the MRI is one constant value: none in whole heads, all but the rim in stripped ones.
STRIPPED = 0.7
_STEP_MM = 2.0
_FACTS = (
    "head_ct_ml",
    "head_mri_ml",
    "brain_ml",
    "bone_ml",
    "brain_hu",
    "overlap",
    "head_without_ct_ml",
    "brain_without_ct_ml",
    "brain_without_mri_ml",
    "brain_cut_cm2",
    "brain_unseen",
)


class Placed(NamedTuple):
    """A volume ``[X, Y, Z]`` with its affine from index to RAS millimetres."""

    array: np.ndarray
    affine: np.ndarray


@dataclass
class Judgement:
    """What was measured, and what is wrong with it.

    Attributes:
        facts: volumes in mL, shares and CT numbers, always the same keys, NaN where there is nothing to measure.
        refusals: sentences, each enough to refuse the pair.
        warnings: sentences.
        notes: sentences on what is unusual and no matter.
    """

    facts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_FACTS, math.nan))
    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Head:
    """One image's head on its own coarse grid, slice axis last."""

    def __init__(self, volume: Placed, modality: str, nothing: np.ndarray) -> None:
        volume, nothing = _without_empty_planes(volume, nothing)
        array, affine = thick_axis_last(volume.array, volume.affine)
        self.values, self.affine = block_mean(array, affine, _STEP_MM)
        hidden, _ = thick_axis_last(nothing, volume.affine)
        self.nothing = block_mean(hidden, affine, _STEP_MM)[0] > 0.5
        self.spacing = spacing_mm(self.affine).tolist()
        self.voxel_ml = float(np.prod(self.spacing)) / 1000
        self.head = head_mask(self.values, self.spacing, modality=modality)
        self.brain = np.zeros_like(self.head)

    def ml(self, mask: np.ndarray) -> float:
        return float(np.count_nonzero(mask)) * self.voxel_ml

    def deep(self, mask: np.ndarray, depth_mm: float) -> np.ndarray:
        """Voxels of a mask at least `depth_mm` from what is not in it; the end of the image does not count."""
        return ndimage.distance_transform_edt(mask, sampling=self.spacing) >= depth_mm

    def millimetres(self) -> np.ndarray:
        """Of all voxels, ``[3, X, Y, Z]``."""
        index = np.indices(self.values.shape).reshape(3, -1)
        return (self.affine[:3, :3] @ index + self.affine[:3, 3:]).reshape(3, *self.values.shape)

    def at(self, mask: np.ndarray, points: np.ndarray, outside: bool) -> np.ndarray:
        """A mask of this grid at points ``[3, ...]`` in mm."""
        shape = points.shape[1:]
        index = np.linalg.inv(self.affine) @ np.vstack([points.reshape(3, -1), np.ones(points[0].size)])
        nearest = np.rint(index[:3]).astype(int)
        inside = ((nearest >= 0) & (nearest < np.array(mask.shape)[:, None])).all(0)
        out = np.full(inside.shape, outside)
        out[inside] = mask[tuple(nearest[:, inside])]
        return out.reshape(shape)


def _without_empty_planes(volume: Placed, nothing: np.ndarray) -> tuple[Placed, np.ndarray]:
    """A volume without planes at its ends that show nothing: one that was padded is judged as the one that ended there."""
    if nothing.all():
        return volume, nothing
    shown = []
    for axis in range(3):
        some = np.flatnonzero(~nothing.all(tuple(a for a in range(3) if a != axis)))
        shown.append(slice(some[0], some[-1] + 1))
    affine = volume.affine.astype(np.float64)
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in shown]
    return Placed(volume.array[tuple(shown)], affine), nothing[tuple(shown)]


def judge_pair(
    mri: Placed | None, ct: Placed | None, *, ct_unseen: np.ndarray | None = None, names: tuple[str, str] = ("MRI", "CT")
) -> Judgement:
    """Measure a pair before it is brought onto one grid, and say what is wrong with it.

    Args:
        mri, ct: the volumes; None for one that is missing. The CT went through :func:`~roi_fusion.data.ct_fill.repair_ct`.
        ct_unseen: of that function, where the CT shows nothing.
        names: their files, for the sentences.
    """
    out = Judgement()
    if mri is not None and ct is not None and mri.array.shape == ct.array.shape and np.array_equal(mri.array, ct.array):
        out.refusals.append(f"{names[0]}: expected an MRI beside the CT {names[1]}, got the same volume twice")
    mri_head = _Head(mri, "mri", constant_border(mri.array)) if mri is not None else None
    ct_head = None
    if ct is not None:
        ct_head = _Head(ct, "ct", np.zeros(ct.array.shape, bool) if ct_unseen is None else ct_unseen)
        _judge_ct(out, ct_head, names[1])
    if mri is not None and mri_head is not None:
        _judge_mri(out, mri, mri_head, names[0])
    if ct is not None and mri is not None and ct_head is not None and mri_head is not None and not out.refusals:
        out.refusals += _same_in_other_numbers(mri_head, ct_head, names)
        _judge_coverage(out, mri_head, ct_head, names)
    return out


def _judge_ct(out: Judgement, ct: _Head, name: str) -> None:
    bone, brain = cranial_masks(ct.values, ct.head, ct.spacing)
    facts = out.facts
    facts["head_ct_ml"], facts["bone_ml"], facts["brain_ml"] = ct.ml(ct.head), ct.ml(bone), ct.ml(brain)
    ct.brain = brain
    low, high = float(ct.values.min()), float(ct.values.max())
    median = float(np.median(ct.values[ct.head])) if ct.head.any() else math.nan
    share = facts["bone_ml"] / max(facts["head_ct_ml"], 1e-9)
    hu = "expected CT in HU (air -1000, brain 0 to 60, bone above 300)"
    if not HEAD_HU[0] <= median <= HEAD_HU[1]:
        out.refusals.append(f"{name}: {hu}, got a median of {median:.0f} in what would be the head")
    elif share > BONE_LIMIT or not facts["brain_ml"] > BRAIN_TO_BONE * facts["bone_ml"]:
        what = f"{facts['brain_ml']:.0f} mL of brain enclosed by {facts['bone_ml']:.0f} mL of bone"
        out.refusals.append(f"{name}: {hu}, got {what} in values from {low:.0f} to {high:.0f}: stored values, or no head")
    if not HEAD_LIMITS_ML[0] <= facts["head_ct_ml"] <= HEAD_LIMITS_ML[1]:
        lowest, highest = HEAD_LIMITS_ML
        out.refusals.append(f"{name}: expected a head of {lowest:.0f} to {highest:.0f} mL, got {facts['head_ct_ml']:.0f} mL")
    if facts["brain_ml"] > BRAIN_LIMIT_ML:
        out.refusals.append(f"{name}: expected a brain of up to {BRAIN_LIMIT_ML:.0f} mL, got {facts['brain_ml']:.0f} mL")
    if out.refusals:
        return
    facts["brain_hu"], facts["brain_cut_cm2"] = float(np.median(ct.values[brain])), _cut_cm2(ct)
    for text, value, (lowest, highest) in (
        ("a head of {} mL", facts["head_ct_ml"], HEAD_USUAL_ML),
        ("a brain of {} mL", facts["brain_ml"], BRAIN_USUAL_ML),
        ("bone in {} % of the head", 100 * share, (100 * BONE_USUAL[0], 100 * BONE_USUAL[1])),
        ("a brain of {} HU", facts["brain_hu"], BRAIN_HU),
    ):
        if not lowest <= value <= highest:
            out.warnings.append(f"{name}: the CT shows {text.format(f'{value:.0f}')}, usual are {lowest:.0f} to {highest:.0f}")


def _cut_cm2(ct: _Head) -> float:
    """Area over which the CT's brain borders on the end of the image or on what was not measured."""
    area = 0.0
    padded = np.pad(ct.nothing, 1, constant_values=True)
    for axis in range(3):
        face = float(np.prod([s for a, s in enumerate(ct.spacing) if a != axis])) / 100
        for step in (-1, 1):
            beside = np.roll(padded, -step, axis)[1:-1, 1:-1, 1:-1]
            area += face * np.count_nonzero(ct.brain & beside)
    return float(area)


def _judge_mri(out: Judgement, mri: Placed, head: _Head, name: str) -> None:
    volume = out.facts["head_mri_ml"] = head.ml(head.head)
    if looks_like_ct(mri.array):
        out.refusals.append(f"{name}: expected the MRI, got values of a CT in HU")
    if volume < HEAD_LIMITS_ML[0]:
        out.refusals.append(f"{name}: expected an MRI of a head, got {volume:.0f} mL of tissue")
    elif volume > HEAD_LIMITS_ML[1]:
        out.warnings.append(f"{name}: the MRI shows {volume:.0f} mL of tissue, more than a head: noise around it, or no head")


def _same_in_other_numbers(mri: _Head, ct: _Head, names: tuple[str, str]) -> list[str]:
    points = ct.millimetres()[:, ct.head]
    index = np.linalg.inv(mri.affine) @ np.vstack([points, np.ones(points.shape[1])])
    found = ndimage.map_coordinates(mri.values, index[:3], order=1, cval=np.nan)
    inside = np.isfinite(found)
    pair = found[inside], np.clip(ct.values[ct.head][inside], AIR_HU, 2000)
    if inside.sum() < 1000 or min(v.std() for v in pair) < 1e-6:
        return []
    correlation = float(np.corrcoef(*pair)[0, 1])
    if correlation <= SAME_CORRELATION:
        return []
    came = f"got a volume that follows it (correlation {correlation:.2f}): a CT in other numbers"
    return [f"{names[0]}: expected an MRI beside the CT {names[1]}, {came}"]


def _judge_coverage(out: Judgement, mri: _Head, ct: _Head, names: tuple[str, str]) -> None:
    facts = out.facts
    of_mri, of_ct = mri.millimetres(), ct.millimetres()
    no_ct = ct.at(ct.nothing, of_mri, outside=True)
    in_ct_head = ct.at(ct.head, of_mri, outside=False)
    no_mri = mri.at(mri.nothing, of_ct, outside=True)
    out_of_mri = mri.at(np.zeros_like(mri.head), of_ct, outside=True)
    shared = [mri.head & ~no_ct, ct.head & ~no_mri]
    inside = [float((shared[0] & in_ct_head).sum()), float((shared[1] & mri.at(mri.head, of_ct, outside=False)).sum())]
    facts["overlap"] = max(i / max(float(s.sum()), 1.0) for i, s in zip(inside, shared))

    height = of_mri[2]
    top = float(height[mri.head].max()) if mri.head.any() else 0.0
    brainlike = mri.deep(mri.head, SCALP_AND_SKULL_MM) & (height > top - BRAIN_DEPTH_MM)
    around = ct.head & ~ct.brain & ~out_of_mri
    if around.any() and float((no_mri & around).sum()) > STRIPPED * float(around.sum()):
        out.notes.append(f"{names[0]}: the MRI shows no skull and scalp (skull-stripped), which serves as well")
    facts["head_without_ct_ml"] = mri.ml(mri.head & no_ct)
    facts["brain_without_ct_ml"] = mri.ml(brainlike & (no_ct | ~in_ct_head))
    deep_brain = ct.deep(ct.brain, SCALP_AND_SKULL_MM)
    facts["brain_without_mri_ml"] = ct.ml((ct.brain & out_of_mri) | (deep_brain & no_mri))
    if facts["overlap"] < OVERLAP_LIMIT:
        out.refusals.append(
            f"{names[1]}: expected a CT of the MRI's head in the same place, "
            f"got {100 * facts['overlap']:.0f} % of the smaller head inside the other; --register true moves the CT"
        )
    elif facts["overlap"] < OVERLAP_USUAL:
        out.warnings.append(f"{names[1]}: {100 * facts['overlap']:.0f} % of the smaller head lies inside the other")
    _say_what_was_not_seen(out, names)


def _say_what_was_not_seen(out: Judgement, names: tuple[str, str]) -> None:
    facts = out.facts
    cut = facts["brain_cut_cm2"]
    no_ct = cut > CUT_WITH_MRI_CM2 and facts["brain_without_ct_ml"] > UNSEEN_BRAIN_ML
    no_mri = facts["brain_without_mri_ml"] > UNSEEN_BRAIN_ML
    if no_ct:
        out.warnings.append(
            f"{names[1]}: the CT ends inside the brain; {facts['head_without_ct_ml']:.0f} mL of the MRI's head, "
            f"some {facts['brain_without_ct_ml']:.0f} mL of brain in it, have no CT and were not judged"
        )
    elif cut > CUT_CM2:
        out.warnings.append(f"{names[1]}: the CT ends inside the brain, {cut:.0f} cm² of it lie at the end of the image")
    if no_mri:
        out.warnings.append(
            f"{names[0]}: {facts['brain_without_mri_ml']:.0f} of {facts['brain_ml']:.0f} mL of the CT's brain have no MRI "
            "and were not judged"
        )
    facts["brain_unseen"] = float(no_ct or no_mri or cut > CUT_CM2)


def lesion_sentence(lesion_ml: float, brain_ml: float, name: str = "lesion mask") -> tuple[str, bool]:
    """What is wrong with a lesion's volume, empty where nothing is, and whether it is enough to refuse a reference mask."""
    if not lesion_ml > LESION_SHARE * brain_ml:
        return "", False
    text = f"{name}: the lesion takes {lesion_ml:.0f} mL, more than a third of the brain ({brain_ml:.0f} mL)"
    return text, lesion_ml > max(brain_ml, LESION_LIMIT_ML)


def judge_lesion(judged: Judgement, mask: np.ndarray, affine: np.ndarray, name: str) -> None:
    """Add to a pair's judgement what is wrong with its reference mask ``[X, Y, Z]``."""
    if judged.refusals:
        return
    lesion_ml = float((mask > 0).sum()) * float(np.prod(spacing_mm(affine))) / 1000
    text, impossible = lesion_sentence(lesion_ml, judged.facts["brain_ml"], name)
    if text:
        (judged.refusals if impossible else judged.warnings).append(text)
