# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Where the parts of a case lie, and one case of the parts that lie together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roi_fusion.data.dicom_choice import CONTRAST_ORDER
from roi_fusion.data.io import DicomSeries, is_volume_file
from roi_fusion.data.naming import hidden

from .names import OTHER_MASK, role_of, stem_of

__all__ = [
    "CONTRAST_ORDER",
    "MASKS",
    "ROLES",
    "CaseSource",
    "Found",
    "Part",
    "folders_in",
    "make_case",
    "part_of",
    "parts_of",
    "volumes_in",
]

Source = Path | DicomSeries

ROLES = {
    "ct": "CT",
    "mri": "MRI",
    "lesion_mask": "lesion mask",
    "brain_mask": "brain mask",
    "bone_mask": "bone mask",
}

MASKS = ("lesion_mask", "bone_mask", "brain_mask")


@dataclass
class CaseSource:
    """Where the parts of one case lie.

    Attributes:
        case: its name in the output.
        mri, ct: file or DICOM series.
        lesion_mask, brain_mask, bone_mask: files, where there are any.
        contrast: of the MRI, as far as names tell.
        subject: the patient; cases of one patient never stand in two parts of a split. The case's name where none is known.
        notes: what was passed over.
        refused: one sentence, where the case has no pair.
        alone: ``"mri"`` or ``"ct"`` where the case is that image alone.
        more_masks: rater → lesion mask of whoever else drew one.
        part: ``"train"`` or ``"test"``, where the data set's authors say so.
        original: name of the case in the raw data, where another one was given to it.
        hidden: path or other text that may name a patient → what stands in results and messages in its place.
    """

    case: str
    mri: Source | None = None
    ct: Source | None = None
    lesion_mask: Path | None = None
    brain_mask: Path | None = None
    bone_mask: Path | None = None
    contrast: str = ""
    subject: str = ""
    notes: list[str] = field(default_factory=list)
    refused: str | None = None
    alone: str = ""
    more_masks: dict[str, Path] = field(default_factory=dict)
    part: str = ""
    original: str = ""
    hidden: dict[str, str] = field(default_factory=dict)

    def hide(self, content: Any) -> Any:
        """Texts, also in lists and dictionaries, without what may name a patient."""
        return hidden(content, self.hidden)

    def files(self) -> list[tuple[str, Path]]:
        """Role and path of every input file."""
        out: list[tuple[str, Path]] = []
        for role in ROLES:
            source = getattr(self, role)
            if isinstance(source, DicomSeries):
                out += [(role, p) for p in source.files]
            elif source is not None:
                out.append((role, source))
        return out + [(f"lesion_mask_{rater}", path) for rater, path in self.more_masks.items()]


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
        what = ("case" if len(good) == 1 else "cases") if any(c.alone for c in good) else "pairs"
        parts = [f"{len(good)} {what} ({', '.join(f'{n} {k}' for k, n in sorted(contrasts.items()))})"]
        parts += [
            f"{sum(getattr(c, r) is not None for c in good)} with {ROLES[r]}"
            for r in ("lesion_mask", "brain_mask", "bone_mask")
        ]
        parts.append(f"{len(self.cases) - len(good)} refused")
        return f"layout {self.layout}: " + ", ".join(parts)


@dataclass
class Part:
    """One image or mask of a case, and what its name says that it is."""

    source: Source
    role: str
    contrast: str = ""


def part_of(path: Path) -> Part | None:
    """What a volume file is, by its name; None where the name tells nothing or something that is no part of a pair."""
    role, contrast = role_of(stem_of(path))
    return Part(path, role, contrast) if role else None


def parts_of(files: Iterable[Path]) -> list[Part]:
    """The parts of a case among some files; others are left out."""
    return [part for part in map(part_of, files) if part is not None]


def volumes_in(folder: Path, deep: bool = False) -> list[Path]:
    """Volume files of a folder, sorted; with `deep` those of its folders too."""
    paths = folder.rglob("*") if deep else folder.iterdir()
    return sorted(p for p in paths if p.is_file() and is_volume_file(p))


def folders_in(root: Path, pattern: str = "*") -> list[Path]:
    """Folders of a folder that match a pattern, sorted; hidden ones are left out."""
    return sorted(p for p in root.glob(pattern) if p.is_dir() and not p.name.startswith(".")) if root.is_dir() else []


def make_case(name: str, parts: Sequence[Part], contrast: str, notes: Sequence[str] = (), subject: str = "") -> CaseSource:
    """One case of the parts that lie together; refused when a role has no candidate or more than one."""
    case = CaseSource(name, notes=list(notes), subject=subject or name)
    unsaid = [str(p.source) for p in parts if p.role == OTHER_MASK]
    if unsaid:
        case.notes.append(f"left alone, as the name says neither lesion nor stroke: {', '.join(unsaid)}")
    by_role = {role: [p for p in parts if p.role == role] for role in ROLES}
    contrasts = {p.contrast for p in by_role["mri"]}
    expected = contrast if contrast != "auto" else next((c for c in CONTRAST_ORDER if c in contrasts), "")
    others = sorted(c for c in contrasts if c != expected)
    by_role["mri"] = [p for p in by_role["mri"] if p.contrast == expected]
    if others and by_role["mri"]:
        case.notes.append(f"MRI: took {expected}, passed over {', '.join(c or 'unknown contrasts' for c in others)}")
    for role, candidates in by_role.items():
        if len(candidates) > 1:
            listed = ", ".join(str(p.source) for p in candidates)
            case.refused = f"{name}: expected one {ROLES[role]}, got {len(candidates)} candidates: {listed}"
            return case
        if candidates:
            setattr(case, role, candidates[0].source)
    case.contrast = "" if expected == "mri" else expected
    missing = [ROLES[r] for r in ("mri", "ct") if not by_role[r]]
    if missing:
        there = "; ".join([*(str(p.source) for p in parts), *notes]) or "nothing"
        no = " and no ".join(missing)
        if contrast != "auto" and contrasts and "MRI" in missing:
            no = f"MRI of contrast {contrast}"
        case.refused = f"{name}: expected an MRI and a CT, found no {no} but: {there}"
    return case
