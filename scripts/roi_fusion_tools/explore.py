# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Look at a data set before training on it: intensities, grids, volumes, and flags for what would spoil a training unseen."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import Compose
from scipy.stats import entropy

from roi_fusion.core.masks import cranial_masks, head_mask
from roi_fusion.data.cases import CASE_FILES, find_cases, sentence_for
from roi_fusion.data.ct_fill import repair_ct
from roi_fusion.data.grids import spacing_of
from roi_fusion.data.plausibility import Placed, judge_pair
from roi_fusion.data.transforms.geometry import MatchGridd, ThickAxisLastd
from roi_fusion.data.transforms.loading import CheckVolumesd, CompleteCased, LoadVolumesd, file_of
from roi_fusion.data.transforms.plausibility import RepairCTd, placed
from roi_fusion.errors import InputError
from roi_fusion.report.pair_picture import pair_picture

__all__ = ["FLAGS", "explore", "look_at_case"]

logger = logging.getLogger(__name__)


#: Flag → what it means.
FLAGS = {
    "ct_not_in_hu": "CT values do not span air (near -1000 HU) to bone (above 300 HU)",
    "swapped": "the MRI looks like a CT in HU and the CT does not: the two files are swapped",
    "flipped": "MRI and CT agree better when one is mirrored left to right",
    "shifted": "MRI and CT agree better when one is moved by 6 mm or more",
    "saturated": "more than 2 % of the head lie at the volume's highest value",
    "truncated": "the field of view cuts the head above the orbits",
    "no_brain": "no brain is found inside the skull",
    "implausible": "cannot be a head in HU, or MRI and CT show no common one: training and inference refuse the case",
    "doubtful": "a part that was not seen, an unusual volume, or a CT that was mended: training and inference warn of it",
    "refused": "what training and inference refuse for another reason, such as a mask of other values or of another place",
    "unreadable": "the case cannot be read",
}


_KEYS = tuple(CASE_FILES)

_MASKS = ("label", "brain", "bone")


def _read() -> Compose:
    return Compose([CompleteCased(), LoadVolumesd(_KEYS)])


def _match() -> Compose:
    return Compose(
        [
            MatchGridd(
                ("ct", *_MASKS), mode=("bilinear", *["nearest"] * 3), padding_value=(-1024.0, 0.0, 0.0, 0.0), min_overlap=0.0
            ),
            ThickAxisLastd(_KEYS),
        ]
    )


def _intensities(volume: np.ndarray) -> dict[str, float]:
    finite = volume[np.isfinite(volume)]
    low, middle, high = np.percentile(finite, [1, 50, 99])
    far = finite > high + 1.5 * max(high - low, 1e-9)
    return {
        "min": float(finite.min()),
        "p1": float(low),
        "median": float(middle),
        "p99": float(high),
        "max": float(finite.max()),
        "outliers": int(far.sum()),
        "not_finite": int(volume.size - finite.size),
    }


def _looks_like_hu(facts: Mapping[str, float]) -> bool:
    return facts["min"] <= -200 and facts["max"] >= 300


def _levels(volume: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey levels 0…31 of a volume, as whole numbers; 0 is everything up to `low`."""
    scaled = np.ceil((volume - low) / max(high - low, 1e-9) * 31)
    return np.clip(scaled, 0, 31).astype(np.int64)


def _agreement(mri: np.ndarray, ct: np.ndarray) -> float:
    """Normalised mutual information (Studholme et al. 1999) of two volumes of levels, where either holds tissue."""
    tissue = (ct > 0) | (mri > 0)
    if tissue.sum() < 100:
        return 1.0
    joint = np.bincount(32 * mri[tissue] + ct[tissue], minlength=1024).reshape(32, 32)
    separate = entropy(joint.sum(0)) + entropy(joint.sum(1))
    return float(separate / max(entropy(joint.ravel()), 1e-9))


def _moved(volume: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    out = np.zeros_like(volume)
    source = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(steps, volume.shape))
    target = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in zip(steps, volume.shape))
    out[target] = volume[source]
    return out


def _best_shift_mm(
    mri: np.ndarray, ct: np.ndarray, spacing: Sequence[float], reach_mm: float = 24.0
) -> tuple[np.ndarray, float]:
    """Shift of the CT along each axis in mm under which both agree best, and the gain in agreement over no shift."""
    steps, start = [0, 0, 0], _agreement(mri, ct)
    best = start
    for _ in range(2):  # axis after axis, twice
        for axis in range(3):
            reach = int(reach_mm / spacing[axis])
            for step in range(-reach, reach + 1):
                trial = [step if a == axis else s for a, s in enumerate(steps)]
                if abs(step) >= mri.shape[axis] // 2 or trial == steps:
                    continue
                found = _agreement(mri, _moved(ct, trial))
                if found > best:
                    best, steps = found, trial
    return np.asarray(steps) * np.asarray(spacing), best / start - 1


def _cut_in_plane(head: np.ndarray, axes: Sequence[str], spacing: Sequence[float], depth_mm: float = 70.0) -> float:
    """Length in mm over which the head touches the in-plane border in its worst slice, within `depth_mm` of its top.

    Farther down, nose and chin are cut in almost everybody, which harms nothing.

    Args:
        head: 0/1, ``[X, Y, Z]``.
        axes: codes of the array axes, such as R, A, S.
        spacing: voxel size in mm.
        depth_mm: from the top of the head; 70 mm end above the orbits.
    """
    vertical = next(i for i, code in enumerate(axes) if code in "SI")
    filled = np.flatnonzero(head.any(tuple(a for a in range(3) if a != vertical)))
    depth = max(1, round(depth_mm / spacing[vertical]))
    upper = range(filled[0], min(filled[0] + depth, filled[-1] + 1))
    if axes[vertical] == "S":
        upper = range(max(filled[-1] + 1 - depth, filled[0]), filled[-1] + 1)
    head = head.take(upper, vertical)
    lengths = [
        float(head.take(end, axis).sum(0).max()) * spacing[1 - axis] for axis in (0, 1) if axis != vertical for end in (0, -1)
    ]
    return max(lengths)


def look_at_case(case: Mapping[str, Any]) -> dict[str, Any]:
    """Facts and flags of one case.

    Args:
        case: entry of :func:`~roi_fusion.data.cases.find_cases`.

    Returns:
        ``{"case", "flags", "notes", "mri", "ct", "shape", "spacing_mm", "orientation", "volumes_ml", "reader_notices",
        "picture"}``; ``reader_notices`` are what the reader corrected or found contradictory in the headers, ``picture`` is the
        data URI of some slices, empty without any; a case that cannot be read has the flag ``unreadable`` and a sentence in
        ``notes``.
    """
    out: dict[str, Any] = {"case": case["case"], "flags": [], "notes": [], "picture": ""}
    try:
        stored: Any = _read()(dict(case))
        loaded: Any = _match()(stored)
        original = stored["image"]
        empty = [file_of(stored[k]) for k in ("image", "ct") if not np.isfinite(np.asarray(stored[k])).any()]
        if empty:
            raise InputError(f"{empty[0]}: expected finite values, got none")
    except Exception as e:  # one bad case never stops the others
        return {**out, "flags": ["unreadable"], "notes": [sentence_for(e, dict(case))]}
    mri, ct = (np.asarray(loaded[k][0], dtype=np.float32) for k in ("image", "ct"))
    spacing = spacing_of(loaded["image"])
    voxel_ml = float(np.prod(spacing)) / 1000
    files = {k: f"{n}_mask" for k, n in (("label", "lesion"), ("brain", "brain"), ("bone", "bone")) if k in loaded}
    out.update(
        mri=_intensities(mri),
        ct=_intensities(ct),
        shape=[int(n) for n in original.shape[1:]],
        spacing_mm=[round(s, 4) for s in spacing_of(original)],
        orientation="".join(nib.aff2axcodes(np.asarray(original.affine))),
        reader_notices=stored["reader_notices"].splitlines(),
        volumes_ml={n: round(float((np.asarray(loaded[k]) > 0).sum()) * voxel_ml, 3) for k, n in files.items()},
        picture=pair_picture(
            mri, ct, np.asarray(loaded["image"].affine), np.asarray(loaded["label"][0]) if "label" in loaded else None
        ),
    )
    found = list(_unit_flags(out["mri"], out["ct"]))
    if not found and np.isfinite(mri).all() and np.isfinite(ct).all():
        head = head_mask(ct, spacing)
        bone, brain = cranial_masks(ct, head, spacing)
        if head.any():
            volumes = {"head": head, "bone": bone, "brain": brain}
            out["volumes_ml"].update({n: round(float(m.sum()) * voxel_ml, 1) for n, m in volumes.items()})
        found += _plausibility_flags(stored)
        axes = nib.aff2axcodes(np.asarray(loaded["image"].affine))
        found += _head_flags(mri, ct, head, brain, axes, spacing)
        if head.any():
            found += _alignment_flags(mri, ct, axes, spacing)
    if not found:
        found += _refusal(stored)
    out["flags"], out["notes"] = [name for name, _ in found], [note for _, note in found]
    return out


def _refusal(stored: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Why training and inference refuse a case as it is stored, where they do."""
    steps = [RepairCTd(), CheckVolumesd(_KEYS), MatchGridd(("ct", *_MASKS), mode=("bilinear", *["nearest"] * 3))]
    try:
        Compose(steps)(dict(stored))
    except Exception as e:
        yield "refused", sentence_for(e, {})


def _unit_flags(mri: Mapping[str, float], ct: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Flags with their notes from the intensities of both volumes: is the CT in HU?"""
    if not _looks_like_hu(ct):
        yield "ct_not_in_hu", f"CT from {ct['min']:g} to {ct['max']:g}"
        if _looks_like_hu(mri):
            yield "swapped", f"MRI from {mri['min']:g} to {mri['max']:g}"


def _plausibility_flags(stored: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The judgement that training and inference make of a pair as it is stored."""
    mri, ct = placed(stored["image"]), placed(stored["ct"])
    repaired, unseen, notices = repair_ct(ct.array)
    judged = judge_pair(mri, Placed(repaired, ct.affine), ct_unseen=unseen)
    for name, sentences in (("implausible", judged.refusals), ("doubtful", [*notices, *judged.warnings])):
        if sentences:
            yield name, "; ".join(sentences)


def _head_flags(
    mri: np.ndarray, ct: np.ndarray, head: np.ndarray, brain: np.ndarray, axes: Sequence[str], spacing: Sequence[float]
) -> Iterator[tuple[str, str]]:
    """Flags with their notes of a head that is missing, saturated or cut by the field of view."""
    if not head.any():
        yield "no_brain", "no head in the CT"
        return
    if not brain.any():
        yield "no_brain", "no space enclosed by the skull"
    for name, volume in (("MRI", mri), ("CT", ct)):
        share = float((volume[head] == volume[head].max()).mean())
        if share > 0.02:
            yield "saturated", f"{100 * share:.1f} % of the head at the {name}'s highest value {volume[head].max():g}"
    cut = _cut_in_plane(head, axes, spacing)
    if cut > 60:  # a head of 80 mm radius then loses 6 mm
        yield "truncated", f"above the orbits the head touches the border over {cut:.0f} mm"


def _alignment_flags(
    mri: np.ndarray, ct: np.ndarray, axes: Sequence[str], spacing: Sequence[float]
) -> Iterator[tuple[str, str]]:
    """Flags with their notes of a pair that agrees better mirrored or moved.

    Coarse copies do for finding flips and shifts, which move whole centimetres.
    """
    thin = [max(1, round(3.0 / s)) for s in spacing[:2]]
    small_mri, small_ct = (np.ascontiguousarray(v[:: thin[0], :: thin[1]]) for v in (mri, ct))
    small_mri = _levels(small_mri, *np.percentile(small_mri, [60, 99]))
    small_ct = _levels(small_ct, -300.0, 600.0)
    coarse = (spacing[0] * thin[0], spacing[1] * thin[1], spacing[2])
    lr_axis = next(i for i, code in enumerate(axes) if code in "LR")
    plain, mirrored = _agreement(small_mri, small_ct), _agreement(small_mri, np.flip(small_ct, lr_axis))
    if mirrored > 1.005 * plain:
        yield "flipped", f"agreement {mirrored:.3f} mirrored, {plain:.3f} as it is"
        small_ct = np.flip(small_ct, lr_axis)
    shift, gain = _best_shift_mm(small_mri, small_ct, coarse)
    if np.linalg.norm(shift) >= 6 and gain > 0.01:
        moved = np.round(shift, 1).tolist()
        yield "shifted", f"{moved} mm of the CT along the axes would raise the agreement by {100 * gain:.0f} %"


def explore(dataset_dir: str | Path) -> Iterator[dict[str, Any]]:
    """:func:`look_at_case` of every case of a data set.

    Raises:
        InputError: when the folder holds no case.
    """
    for case in find_cases(dataset_dir):
        yield look_at_case(case)
