# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Published stroke data by name: ISLES'22, ISLES'24, APIS, SOOP, ATLAS v2.0 and ISLES'15 SISS, as their downloads lay them out.

Names of files tell what a file is, so a tree is found from a folder above or below its own too. Sources of the layouts are in
``docs/public_data.md``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from roi_fusion.data.io import is_volume_file

from .names import case_name, contrast_of, role_of, stem_of
from .sources import CONTRAST_ORDER, CaseSource

__all__ = ["IMAGES", "PUBLIC_LAYOUTS", "find_public", "looks_like"]

#: Which images a case takes.
IMAGES = ("mri", "ct", "pair")

#: Folders inside of a published tree: one that is named by these is looked at from above, where its masks lie too.
_INNER = {"rawdata", "raw_data", "raw", "derivatives", "lesion_masks", "ct", "ncct", "adc"}


@dataclass
class _File:
    """One file of a tree: its case, part of the data set (train, test or empty), role, contrast and who drew it."""

    path: Path
    case: str
    part: str
    role: str
    contrast: str = ""
    rater: str = ""
    space: str = ""


def _part_of(path: Path) -> str:
    """``train`` or ``test`` where a folder above a file is named so, as ``Training`` or ``SISS2015_Testing``."""
    for folder in reversed(path.parts[:-1]):
        found = re.search(r"(?<![a-z])(train|test)(ing)?(?![a-z])", folder.lower())
        if found:
            return found[1]
    return ""


def _bids(subject: str, images: str, mask: str) -> Callable[[Path], _File | None]:
    """A reader of names ``sub-X[_ses-Y]_…``; the patterns are of what follows."""

    def read(path: Path) -> _File | None:
        stem = stem_of(path)
        head = re.match(rf"({subject})(?:_(ses-[A-Za-z0-9]+))?_(.+)$", stem, re.IGNORECASE)
        if head is None:
            return None
        space = re.search(r"(?:^|_)space-([A-Za-z0-9]+)", head[3])
        where = "" if space is None else space[1].lower()
        shared = {"case": head[1], "part": _part_of(path), "space": where}
        if re.search(rf"(?:^|_)(?:{mask})$", head[3], re.IGNORECASE):
            return _File(path, role="lesion_mask", **shared)
        found = re.search(rf"(?:^|_)({images})$", head[3], re.IGNORECASE)
        if found is None:
            return None
        if found[1].lower() == "ncct":
            return _File(path, role="ct", **shared)
        return _File(path, role="mri", contrast=contrast_of(found[1]) or "mri", **shared)

    return read


def _siss(path: Path) -> _File | None:
    """``<case>/VSD.Brain.XX.O.MR_DWI.70613/VSD.Brain.XX.O.MR_DWI.70613.nii``; the expert's mask is ``OT``."""
    stem = stem_of(path)
    image, mask = re.search(r"\.MR_(DWI|Flair|T1|T2)(?:\.|$)", stem, re.IGNORECASE), re.search(r"\.OT(?:\.|$)", stem)
    if not (image or mask) or any("spes" in folder.lower() for folder in path.parts):
        return None
    folder = path.parent.parent if re.match(r"(VSD|SMIR)\.", path.parent.name) else path.parent
    part = _part_of(path)
    case = f"{part}_{int(folder.name):02d}" if part and folder.name.isdigit() else folder.name
    if image is None:
        return _File(path, case, part, "lesion_mask")
    return _File(path, case, part, "mri", contrast_of(image[1]))


def _apis(path: Path) -> _File | None:
    """A folder for each kind of image, in it files or folders named by the case; masks end on the radiologist, ``_r1``."""
    for depth in (1, 2):
        if len(path.parts) <= depth + 1:
            return None
        kind = path.parts[-1 - depth]
        role, _ = role_of(kind)
        if role in ("ct", "mri", "lesion_mask"):
            break
    else:
        return None
    stem = stem_of(path)
    rater = re.search(r"(?:^|[_-])r(?:ater)?[_-]?(\d)$", stem, re.IGNORECASE) or re.search(r"[_-]r(\d)$", kind, re.IGNORECASE)
    plain = re.sub(r"[_-]r(?:ater)?[_-]?\d$", "", stem, flags=re.IGNORECASE)
    case = path.parts[-2] if depth == 2 else case_name(plain, "_") or plain
    part = next((p for p in ("train", "test") if case.lower().startswith(p)), _part_of(path))
    contrast = (contrast_of(kind) or "mri") if role == "mri" else ""
    return _File(path, case, part, role, contrast, f"r{rater[1]}" if rater else "")


_READERS: dict[str, Callable[[Path], _File | None]] = {
    "isles22": _bids(r"sub-strokecase\d+", "adc|dwi|flair", "msk"),
    "isles24": _bids(r"sub-stroke(?:case)?\d+", "ncct|adc|dwi", "lesion-msk"),
    "apis": _apis,
    "soop": _bids(r"sub-[A-Za-z0-9]+", "rec-ADC_dwi|rec-TRACE_dwi|FLAIR|T1w|T2w", "desc-lesion_mask"),
    "atlas2": _bids(r"sub-r\d+s\d+", "T1w", "desc-T1lesion_mask"),
    "isles15": _siss,
}

PUBLIC_LAYOUTS = tuple(_READERS)

#: What a tree of each name looks like, for the sentence when there is none.
_LOOKS = {
    "isles22": "sub-strokecase0001/ses-0001/… with derivatives/",
    "isles24": "raw_data/sub-stroke0001/ses-01/… with derivatives/",
    "apis": "raw/{ct,adc,lesion_masks}/train_000/…",
    "soop": "sub-1/dwi/sub-1_rec-TRACE_dwi.nii.gz with derivatives/lesion_masks/",
    "atlas2": "Training/R001/sub-r001s001/ses-1/anat/…_T1w.nii.gz",
    "isles15": "Training/1/VSD.Brain.XX.O.MR_DWI.70613/….nii",
}


def looks_like(name: str) -> str:
    """What the published tree of a name looks like, in a few words."""
    return _LOOKS[name]


def _files_below(root: Path) -> Iterator[Path]:
    """All volume files of a tree, sorted, those of links that lead nowhere too; hidden ones are left out."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if not n.startswith("."))
        yield from (Path(folder, f) for f in sorted(files) if not f.startswith(".") and is_volume_file(Path(f)))


def _outermost(root: Path) -> Path:
    """The folder that holds a whole tree, where `root` is a part of it."""
    root = root.resolve()
    while root.name.lower() in _INNER and root.parent != root:
        root = root.parent
    return root


def find_public(root: Path, name: str, contrast: str = "auto", images: str | None = None) -> list[CaseSource]:
    """The cases of published data.

    Args:
        root: folder of the data, or one above or below it.
        name: one of :data:`PUBLIC_LAYOUTS`.
        contrast: which MRI to take of several, see :func:`~.find.find_pairs`.
        images: one of :data:`IMAGES`; None takes pairs where the data have CT and MRI, else the MRI alone.

    Returns:
        Cases, sorted by name; those that lack an image or have two for one place are refused with a sentence.
    """
    has_ct = name in ("isles24", "apis")
    images = images or ("pair" if has_ct else "mri")
    read, groups = _READERS[name], dict[tuple[str, str], list[_File]]()
    for path in _files_below(_outermost(root)):
        found = read(path)
        if found is not None:
            groups.setdefault((found.case, _session(path) if name in ("atlas2", "soop", "isles22") else ""), []).append(found)
    sessions = {case: sum(c == case for c, _ in groups) for case, _ in groups}
    cases = []
    for (case, session), files in groups.items():
        one = f"{case}_{session}" if session and sessions[case] > 1 else case
        if len(files) > 1 or files[0].role != "lesion_mask":
            cases.append(_case(one, case, files, contrast, images))
        else:
            why = f"{one}: expected an image beside the lesion mask, found none but: {files[0].path}"
            cases.append(CaseSource(one, subject=case, refused=why))
    return sorted(cases, key=lambda c: c.case)


def _session(path: Path) -> str:
    found = re.search(r"_(ses-[A-Za-z0-9]+)_", path.name)
    return found[1] if found else ""


def _case(name: str, subject: str, files: Sequence[_File], contrast: str, images: str) -> CaseSource:
    case = CaseSource(name, subject=subject, part=next((f.part for f in files if f.part), ""))
    case.alone = "" if images == "pair" else images
    away = [f.path for f in files if f.path.is_symlink() and not f.path.exists()]
    if away:
        case.refused = (
            f"{name}: expected the content of {away[0]}, got a link to nothing (fetch it: datalad get, git annex get)"
        )
        return case
    contrasts = {f.contrast for f in files if f.role == "mri"}
    wanted = contrast if contrast != "auto" else next((c for c in CONTRAST_ORDER if c in contrasts), "")
    for role in ("mri", "ct"):
        if images not in (role, "pair"):
            continue
        found = _in_shared_space([f for f in files if f.role == role and (role == "ct" or f.contrast == wanted)])
        if len(found) > 1:
            case.refused = f"{name}: expected one {role.upper()}, got {len(found)} candidates: {_listed(found)}"
            return case
        if not found:
            kind = f"{wanted.upper()} " if role == "mri" and contrast != "auto" else ""
            missing = "a CT" if role == "ct" else f"{_article(kind)} {kind}MRI"
            case.refused = f"{name}: expected {missing}, found none but: {_listed(files)}"
            return case
        setattr(case, role, found[0].path)
    case.contrast = wanted if case.mri is not None else ""
    others = sorted(contrasts - {wanted})
    if others and case.mri is not None:
        case.notes.append(f"MRI: took {wanted}, passed over {', '.join(others)}")
    _take_masks(case, _in_shared_space([f for f in files if f.role == "lesion_mask"]))
    return case


def _article(kind: str) -> str:
    return "an" if kind[:1] in ("", "A", "F") else "a"


def _take_masks(case: CaseSource, masks: Sequence[_File]) -> None:
    raters = sorted({m.rater for m in masks})
    if len(raters) < len(masks):
        case.refused = f"{case.case}: expected one lesion mask a rater, got {len(masks)} candidates: {_listed(masks)}"
        return
    for rater, mask in sorted((m.rater, m.path) for m in masks):
        if case.lesion_mask is None:
            case.lesion_mask = mask
        else:
            case.more_masks[rater] = mask
    if len(raters) > 1:
        case.notes.append(f"lesion masks of {len(raters)} raters: lesion_mask is that of {raters[0]}")


def _in_shared_space(files: Sequence[_File]) -> list[_File]:
    """Those that were brought onto the space of the CT, where there are such; else all."""
    moved = [f for f in files if f.space == "ncct"]
    return moved or list(files)


def _listed(files: Sequence[_File]) -> str:
    return ", ".join(str(f.path) for f in files[:6]) + (", …" if len(files) > 6 else "")
