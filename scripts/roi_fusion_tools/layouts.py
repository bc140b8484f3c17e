# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Pairs of MRI and CT, and their masks, in the folder layouts of challenges, archives and scanners."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from roi_fusion.data.io import DicomSeries, is_volume_file, scan_dicom, split_ending
from roi_fusion.data.nifti import MGH
from roi_fusion.errors import InputError

__all__ = ["CONTRAST_ORDER", "LAYOUTS", "CaseSource", "Found", "find_pairs"]

Source = Path | DicomSeries


#: Which MRI a case takes where it has several contrasts; the name ``mri`` says that the user chose.
CONTRAST_ORDER = ("mri", "adc", "dwi", "flair", "t2", "t1", "")


_ROLES = {
    "ct": "CT",
    "mri": "MRI",
    "lesion_mask": "lesion mask",
    "brain_mask": "brain mask",
    "bone_mask": "bone mask",
}


_IMAGE_WORDS = {
    "ct": "ct",
    "ncct": "ct",
    "mri": "mri",
    "mr": "mri",
    "adc": "mri",
    "dwi": "mri",
    "trace": "mri",
    "flair": "mri",
    "t2": "mri",
    "t2w": "mri",
    "t1": "mri",
    "t1w": "mri",
}


_MASK_WORDS = {
    "lesion": "lesion_mask",
    "lesions": "lesion_mask",
    "infarct": "lesion_mask",
    "bone": "bone_mask",
    "skull": "bone_mask",
    "brain": "brain_mask",
    "synthstrip": "brain_mask",
}


_MASKS = ("lesion_mask", "bone_mask", "brain_mask")  # of "brain_lesion_mask" the first counts


#: Alone they mean the lesion; behind a word of _MASK_WORDS they say no more than it.
_ANY_MASK = {"mask", "masks", "msk", "seg", "label", "roi"}


#: Before a word of _ANY_MASK a vessel is meant, no lesion; elsewhere they may name the case.
_VESSEL_WORDS = {"lvo", "cow"}


_NO_PAIR_WORDS = {"cta", "ctp", "cbf", "cbv", "mtt", "tmax", "perf", "pwi", "swi", "mra", "tof", "sbref", "bold"}


@dataclass
class CaseSource:
    """Where the parts of one case lie.

    Attributes:
        case: its name in the output.
        mri, ct: file or DICOM series.
        lesion_mask, brain_mask, bone_mask: files, where there are any.
        contrast: of the MRI, as far as names tell.
        notes: what was passed over.
        refused: one sentence, where the case has no pair.
    """

    case: str
    mri: Source | None = None
    ct: Source | None = None
    lesion_mask: Path | None = None
    brain_mask: Path | None = None
    bone_mask: Path | None = None
    contrast: str = ""
    notes: list[str] = field(default_factory=list)
    refused: str | None = None

    def files(self) -> list[tuple[str, Path]]:
        """Role and path of every input file."""
        out: list[tuple[str, Path]] = []
        for role in _ROLES:
            source = getattr(self, role)
            if isinstance(source, DicomSeries):
                out += [(role, p) for p in source.files]
            elif source is not None:
                out.append((role, source))
        return out


@dataclass
class Found:
    """What a search gave.

    Attributes:
        layout: the one that fitted.
        cases: all, sorted by name; some may be refused.
        splits: ``splits.json`` or the folder ``splits`` beside the cases, where there is one.
    """

    layout: str
    cases: list[CaseSource]
    splits: Path | None = None

    def summary(self) -> str:
        """One line on what was found."""
        good = [c for c in self.cases if c.refused is None]
        contrasts = Counter(c.contrast or "MRI of unknown contrast" for c in good)
        parts = [f"{len(good)} pairs ({', '.join(f'{n} {k}' for k, n in sorted(contrasts.items()))})"]
        parts += [
            f"{sum(getattr(c, r) is not None for c in good)} with {_ROLES[r]}"
            for r in ("lesion_mask", "brain_mask", "bone_mask")
        ]
        parts.append(f"{len(self.cases) - len(good)} refused")
        return f"layout {self.layout}: " + ", ".join(parts)


@dataclass
class _Part:
    source: Source
    role: str
    contrast: str = ""


def _stem(path: Path) -> str:
    return split_ending(path.name)[0]


def contrast_of(text: str) -> str:
    """The MRI contrast that a name or a series description tells: adc, dwi, flair, t2, t1, or empty."""
    lower = text.lower()
    for contrast, pattern in (
        ("adc", r"adc|apparent"),
        ("flair", r"flair|dark.?fluid"),
        ("dwi", r"dwi|trace|diff|b1000"),
        ("t2", r"t2(?!\*)"),
        ("t1", r"t1|mprage"),
    ):
        if re.search(rf"(?<![a-z0-9])({pattern})", lower):
            return contrast
    return ""


def _tail(words: Sequence[str]) -> tuple[int, str]:
    """How many words at the end of a name tell a role, and that role; ``(0, "")`` where the last one tells none.

    What stands before belongs to the case, even where it reads like a role: ``brain_01_ct``, ``label_lesion_mask``.
    """
    lower = [w.lower() for w in words]
    if lower[-1] in _IMAGE_WORDS:
        return 1, _IMAGE_WORDS[lower[-1]]
    count = 1 if lower[-1] in _ANY_MASK else 0
    role = "lesion_mask" if count else ""
    if len(lower) > count and lower[-1 - count] in _MASK_WORDS:
        role, count = _MASK_WORDS[lower[-1 - count]], count + 1
    if count and len(lower) > count + 1 and lower[-1 - count] in _IMAGE_WORDS:  # x_adc_lesion_mask
        count += 1
    return count, role


def _case_name(words: Sequence[str]) -> str:
    """A name without its role; empty where it is nothing but a role."""
    return "_".join(words[: len(words) - _tail(words)[0]])


def _part(path: Path) -> _Part | None:
    """What a volume file is, by its name; None where the name tells nothing or something that is no part of a pair."""
    entities = [e for e in _stem(path).split("_") if not re.match(r"(sub|ses|space|run)-", e)]
    words = re.split(r"[^a-z0-9]+", "_".join(entities).lower())
    if _NO_PAIR_WORDS & set(words) or any(a in _VESSEL_WORDS and b in _ANY_MASK for a, b in pairwise(words)):
        return None
    _, role = _tail(words)
    if not role:  # ct_thin, lesion_r1
        masks = {_MASK_WORDS.get(w, "lesion_mask") for w in words if w in _MASK_WORDS or w in _ANY_MASK}
        images = {_IMAGE_WORDS[w] for w in words if w in _IMAGE_WORDS}
        role = next((r for r in (*_MASKS, "ct", "mri") if r in masks | images), "")
    if role == "mri":
        return _Part(path, role, contrast_of("_".join(words)) or "mri")
    return _Part(path, role) if role else None


def _case(name: str, parts: Sequence[_Part], contrast: str, notes: Sequence[str] = ()) -> CaseSource:
    """One case of the parts that lie together; refused when a role has no candidate or more than one."""
    case = CaseSource(name, notes=list(notes))
    by_role = {role: [p for p in parts if p.role == role] for role in _ROLES}
    contrasts = {p.contrast for p in by_role["mri"]}
    expected = contrast if contrast != "auto" else next((c for c in CONTRAST_ORDER if c in contrasts), "")
    others = sorted(c for c in contrasts if c != expected)
    by_role["mri"] = [p for p in by_role["mri"] if p.contrast == expected]
    if others and by_role["mri"]:
        case.notes.append(f"MRI: took {expected}, passed over {', '.join(c or 'unknown contrasts' for c in others)}")
    for role, candidates in by_role.items():
        if len(candidates) > 1:
            listed = ", ".join(str(p.source) for p in candidates)
            case.refused = f"{name}: expected one {_ROLES[role]}, got {len(candidates)} candidates: {listed}"
            return case
        if candidates:
            setattr(case, role, candidates[0].source)
    case.contrast = "" if expected == "mri" else expected
    missing = [_ROLES[r] for r in ("mri", "ct") if not by_role[r]]
    if missing:
        there = "; ".join([*(str(p.source) for p in parts), *notes]) or "nothing"
        no = " and no ".join(missing)
        if contrast != "auto" and contrasts and "MRI" in missing:
            no = f"MRI of contrast {contrast}"
        case.refused = f"{name}: expected an MRI and a CT, found no {no} but: {there}"
    return case


def _volumes(folder: Path, deep: bool = False) -> list[Path]:
    paths = folder.rglob("*") if deep else folder.iterdir()
    return sorted(p for p in paths if p.is_file() and is_volume_file(p))


def _parts(files: Iterable[Path]) -> list[_Part]:
    return [part for part in map(_part, files) if part is not None]


def _folders(root: Path, pattern: str = "*") -> list[Path]:
    return sorted(p for p in root.glob(pattern) if p.is_dir() and not p.name.startswith(".")) if root.is_dir() else []


def _find_cases(root: Path, contrast: str) -> list[CaseSource]:
    tried: list[list[CaseSource]] = []
    for base in (root, root / "preproc"):
        groups = [(f.name, _parts(_volumes(f))) for f in _folders(base)]
        cases = [_case(name, parts, contrast) for name, parts in groups if any(p.role in ("ct", "mri") for p in parts)]
        if any(c.refused is None for c in cases):
            return cases
        tried.append(cases)
    return max(tried, key=len)


def _find_flat(root: Path, contrast: str) -> list[CaseSource]:
    groups: dict[str, list[_Part]] = {}
    for path in _volumes(root):
        words = re.split(r"[_-]", _stem(path))
        part = _part(path)
        if part is not None:
            groups.setdefault(_case_name(words) or root.name, []).append(part)
    return [_case(name, parts, contrast) for name, parts in sorted(groups.items())]


def _find_bids(root: Path, contrast: str, pattern: str = "sub-*", derived_mri: bool = False) -> list[CaseSource]:
    bases = [b for b in (root, root / "rawdata", root / "raw_data") if _folders(b, pattern)]
    if not bases:
        return []
    raw = bases[0]
    tops = [d for d in (root / "derivatives", raw / "derivatives", raw.parent / "derivatives") if d.is_dir()]
    cases = []
    for subject in _folders(raw, pattern):
        derived = {p for d in tops for folder in d.rglob(subject.name) if folder.is_dir() for p in _volumes(folder, deep=True)}
        beside = _parts(sorted(p for p in derived if not p.name.lower().endswith(MGH)))  # FreeSurfer's brain.mgz is no mask
        masks = [p for p in beside if p.role in _MASKS]
        images = _parts(_volumes(subject, deep=True))
        if derived_mri and not any(p.role == "mri" for p in images):
            images += [p for p in beside if p.role == "mri"]
        sessions = {s.name: [p for p in images if s in Path(str(p.source)).parents] for s in _folders(subject, "ses-*")}
        whole = {n: s for n, s in sessions.items() if {"ct", "mri"} <= {p.role for p in s}}
        if len(whole) > 1:  # a pair in each session; else CT and MRI of different sessions make one
            for name, session in whole.items():
                own = [m for m in masks if name in Path(str(m.source)).parts]
                cases.append(_case(f"{subject.name}_{name}", [*session, *own], contrast))
        else:
            cases.append(_case(subject.name, [*images, *masks], contrast))
    return cases


def _find_isles24(root: Path, contrast: str) -> list[CaseSource]:
    # As published in 2025, DWI and ADC lie below derivatives/ alone, on the grid of the NCCT.
    return _find_bids(root, contrast, "sub-stroke*", derived_mri=True)


def _find_apis(root: Path, contrast: str) -> list[CaseSource]:
    for base in (root / "raw", root):
        folders = {f.name.lower(): f for f in _folders(base)}
        if "ct" not in folders and "ncct" not in folders:
            continue
        groups: dict[str, list[_Part]] = {}
        for name, folder in folders.items():
            part = _part(Path(name))
            if part is None:
                continue
            role = part.role
            kind = (contrast_of(name) or "mri") if role == "mri" else ""
            for entry in sorted(folder.iterdir()):
                if entry.is_dir():
                    for path in _volumes(entry):
                        groups.setdefault(entry.name, []).append(_Part(path, role, kind))
                elif is_volume_file(entry):
                    groups.setdefault(_case_name(_stem(entry).split("_")) or _stem(entry), []).append(_Part(entry, role, kind))
        return [_case(name, parts, contrast) for name, parts in sorted(groups.items())]
    return []


def _find_dicom(root: Path, contrast: str) -> list[CaseSource]:
    series = scan_dicom(p for p in sorted(root.rglob("*")) if p.is_file() and not is_volume_file(p))
    if not series:
        return []
    tops = {id(s): s.files[0].relative_to(root).parts[0] for s in series}
    nested = all(len(s.files[0].relative_to(root).parts) > 1 for s in series)
    by_top: dict[str, set[str]] = {}
    for s in series:
        by_top.setdefault(tops[id(s)], set()).add(s.modality)
    # Folders of patients, or of modalities (CT/, MR/) where only the headers know the patient.
    by_folder = nested and any({"CT", "MR"} <= m for m in by_top.values())
    patients: dict[str, set[str]] = {}
    for s in series:
        patients.setdefault(tops[id(s)], set()).add(s.patient_id)
    groups: dict[str, list[DicomSeries]] = {}
    for s in series:
        one = by_folder and len(patients[tops[id(s)]]) == 1
        name = tops[id(s)] if one else re.sub(r"[^A-Za-z0-9_-]+", "_", s.patient_id) or root.name
        groups.setdefault(name, []).append(s)
    cases = []
    for name, members in sorted(groups.items()):
        parts, notes = [], []
        for s in members:
            why = s.why_no_volume()
            if why:
                notes.append(f"{s}: {why}")
            else:
                role = "ct" if s.modality == "CT" else "mri"
                parts.append(_Part(s, role, contrast_of(s.description) if role == "mri" else ""))
        masks = [p for p in _parts(_volumes(root / name, deep=True)) if p.role in _MASKS] if (root / name).is_dir() else []
        cases.append(_case(name, [*parts, *masks], contrast, notes))
    return cases


_FINDERS: dict[str, Callable[[Path, str], list[CaseSource]]] = {
    "isles24": _find_isles24,
    "bids": _find_bids,
    "apis": _find_apis,
    "cases": _find_cases,
    "pairs": _find_flat,
    "dicom": _find_dicom,
}


LAYOUTS = ("auto", *_FINDERS)


def _inventory(root: Path) -> str:
    """What a folder holds instead of pairs, in a few words."""
    entries = sorted(p for p in root.rglob("*") if not p.name.startswith("."))
    files = [p for p in entries if p.is_file()]
    volumes = [p for p in files if is_volume_file(p)]
    counts = Counter("".join(p.suffixes[-2:]) or "no ending" for p in files)
    kinds = ", ".join(f"{n} × {ending}" for ending, n in counts.most_common(4)) or "no file"
    named = ", ".join(str(p.relative_to(root)) for p in (volumes or files)[:3])
    return f"{len(files)} files ({kinds}) in {len(entries) - len(files)} folders{', such as ' + named if named else ''}"


def find_pairs(
    input_dir: str | Path, layout: str = "auto", *, contrast: str = "auto", masks_dir: str | Path | None = None
) -> Found:
    """Find the pairs of a folder.

    Args:
        input_dir: where the data lies.
        layout: one of :data:`LAYOUTS`.
        contrast: which MRI to take of several: auto (the first of :data:`CONTRAST_ORDER`), adc, dwi, flair, t2 or t1.
        masks_dir: ``<masks_dir>/<case>/`` with masks of other programs, which then stand in for the thresholds:
            ``brain_mask``, ``brain`` or ``synthstrip_mask``, and ``bone_mask`` or ``skull``, in NIfTI, MHA or NRRD.

    Raises:
        InputError: when there is no pair; the sentence says what was found instead.
    """
    root = Path(input_dir)
    if not root.is_dir():
        raise InputError(f"input_dir: expected a folder of MRI and CT, found no folder {root}")
    if layout not in LAYOUTS:
        raise InputError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    if contrast not in ("auto", *CONTRAST_ORDER[1:-1]):
        raise InputError(f"contrast: expected one of auto, {', '.join(CONTRAST_ORDER[1:-1])}, got {contrast!r}")
    tried: list[Found] = []
    for name in _FINDERS if layout == "auto" else [layout]:
        found = Found(name, sorted(_FINDERS[name](root, contrast), key=lambda c: c.case))
        if any(c.refused is None for c in found.cases):
            break
        tried.append(found)
    else:
        near = max(tried, key=lambda f: len(f.cases))
        seen = f"; the nearest to a pair was {near.cases[0].refused}" if near.cases else ""
        expected = "an MRI and a CT of one patient" + ("" if layout == "auto" else f" in layout {layout}")
        raise InputError(f"{root}: expected {expected}, found none among {_inventory(root)}{seen}")
    names = Counter(c.case for c in found.cases)
    for case in found.cases:
        if names[case.case] > 1:
            case.refused = f"{case.case}: expected one case of this name, got {names[case.case]}"
    if masks_dir is not None:
        _add_masks(found.cases, Path(masks_dir))
    found.splits = next((p for p in (root / "splits.json", root / "splits") if p.exists()), None)
    return found


def _add_masks(cases: Sequence[CaseSource], folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"masks_dir: expected a folder of masks, found no folder {folder}")
    for case in cases:
        own = _parts(_volumes(folder / case.case)) if (folder / case.case).is_dir() else []
        for role in ("brain_mask", "bone_mask"):
            candidates = [p.source for p in own if p.role == role and isinstance(p.source, Path)]
            if len(candidates) > 1 and case.refused is None:
                listed = ", ".join(map(str, candidates))
                case.refused = f"{case.case}: expected one {_ROLES[role]}, got {len(candidates)} candidates: {listed}"
            elif candidates:
                setattr(case, role, candidates[0])
