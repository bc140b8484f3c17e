# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The search: each layout in turn until one gives a pair."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from roi_fusion.data.io import is_volume_file
from roi_fusion.data.naming import Naming
from roi_fusion.errors import InputError

from .dicom import find_dicom
from .folders import find_apis, find_bids, find_cases, find_flat, find_isles24
from .names import OTHER_MASK, safe_name
from .public import IMAGES, PUBLIC_LAYOUTS, find_public, looks_like
from .sources import CONTRAST_ORDER, ROLES, CaseSource, Found, parts_of, volumes_in

__all__ = ["LAYOUTS", "find_pairs"]

logger = logging.getLogger(__name__)

_FINDERS: dict[str, Callable[[Path, str], list[CaseSource]]] = {
    "isles24": find_isles24,
    "bids": find_bids,
    "apis": find_apis,
    "cases": find_cases,
    "pairs": find_flat,
    "dicom": find_dicom,
}


LAYOUTS = ("auto", *_FINDERS, *(name for name in PUBLIC_LAYOUTS if name not in _FINDERS))


def _inventory(root: Path, with_names: bool = True) -> str:
    """What a folder holds instead of pairs, in a few words."""
    entries = sorted(p for p in root.rglob("*") if not p.name.startswith("."))
    files = [p for p in entries if p.is_file()]
    volumes = [p for p in files if is_volume_file(p)]
    counts = Counter("".join(p.suffixes[-2:]) or "no ending" for p in files)
    kinds = ", ".join(f"{n} × {ending}" for ending, n in counts.most_common(4)) or "no file"
    named = ", ".join(str(p.relative_to(root)) for p in volumes[:3] if with_names)
    return f"{len(files)} files ({kinds}) in {len(entries) - len(files)} folders{', such as ' + named if named else ''}"


def find_pairs(
    input_dir: str | Path,
    layout: str = "auto",
    *,
    contrast: str = "auto",
    masks_dir: str | Path | None = None,
    images: str | None = None,
    naming: Naming | None = None,
) -> Found:
    """Find the pairs of a folder, or the cases of published data.

    Args:
        input_dir: where the data lies.
        layout: one of :data:`LAYOUTS`.
        contrast: which MRI to take of several: auto (the first of :data:`CONTRAST_ORDER`), adc, dwi, flair, t2 or t1.
        masks_dir: ``<masks_dir>/<case>/`` with masks of other programs, which then stand in for the thresholds:
            ``brain_mask``, ``brain`` or ``synthstrip_mask``, and ``bone_mask`` or ``skull``, in NIfTI, MHA or NRRD.
        images: mri, ct or pair, of published data; None: what they have.
        naming: gives cases of DICOM their names; None: they keep those of folders and patients.

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
    if images is not None and (images not in IMAGES or layout not in PUBLIC_LAYOUTS):
        raise InputError(
            f"images: expected one of {', '.join(IMAGES)} with a layout of {', '.join(PUBLIC_LAYOUTS)}, got {images}"
        )
    tried: list[Found] = []
    for name in _FINDERS if layout == "auto" else [layout]:
        found = Found(name, sorted(_search(root, name, contrast, images, layout == "auto", naming), key=lambda c: c.case))
        if any(c.refused is None for c in found.cases):
            break
        tried.append(found)
    else:
        near = max(tried, key=lambda f: len(f.cases))
        seen = f"; the nearest to a pair was {near.cases[0].refused}" if near.cases else ""
        dicom = any(f.layout == "dicom" and f.cases for f in tried)
        with_names = not (dicom and naming is not None and naming.hashed)  # folders of patients have their names
        expected = "an MRI and a CT of one patient" + ("" if layout == "auto" else f" in layout {layout}")
        if layout in PUBLIC_LAYOUTS:
            expected = f"the tree of {layout}, {looks_like(layout)}"
        raise InputError(f"{root}: expected {expected}, found none among {_inventory(root, with_names)}{seen}")
    if found.layout == "bids" or (found.layout == "isles24" and layout == "auto"):
        _name_left_out(root, found, contrast)
    for case in found.cases:
        case.case = safe_name(case.case)
        case.subject = safe_name(case.subject or case.case)
    names = Counter(c.case for c in found.cases)
    for case in found.cases:
        if names[case.case] > 1:
            case.refused = f"{case.case}: expected one case of this name, got {names[case.case]}"
    if masks_dir is not None:
        _add_masks(found.cases, Path(masks_dir))
    found.splits = next((p for p in (root / "splits.json", root / "splits") if p.exists()), None)
    return found


def _search(root: Path, name: str, contrast: str, images: str | None, auto: bool, naming: Naming | None) -> list[CaseSource]:
    """The cases of one layout; published data that are asked for by name are found from above and below too."""
    if name == "dicom":
        return find_dicom(root, contrast, naming)
    if auto or name not in PUBLIC_LAYOUTS:
        return _FINDERS[name](root, contrast)
    return find_public(root, name, contrast, images)


def _name_left_out(root: Path, found: Found, contrast: str) -> None:
    """Say which folders beside the subjects hold a pair too: a search that takes some must not lose the others unseen."""
    taken = {Path(str(path)) for case in found.cases for _, path in case.files()}
    left = [c.case for c in find_cases(root, contrast) if c.refused is None and not {p for _, p in c.files()} & taken]
    if left:
        listed = ", ".join(left[:5]) + (", …" if len(left) > 5 else "")
        folders, them = ("folder", "it") if len(left) == 1 else ("folders", "them")
        what = f"left out {len(left)} {folders} with a pair: {listed} (--layout cases takes {them})"
        logger.warning("layout %s: %s", found.layout, what)


def _add_masks(cases: Sequence[CaseSource], folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"masks_dir: expected a folder of masks, found no folder {folder}")
    for case in cases:
        own_folder = folder.absolute() / case.original if case.original else folder / case.case
        own = parts_of(volumes_in(own_folder)) if own_folder.is_dir() else []
        if case.original:
            case.hidden[str(own_folder)] = case.case
        unsaid = [str(p.source) for p in own if p.role == OTHER_MASK]
        if unsaid:
            case.notes.append(case.hide(f"left alone, as the name says neither brain nor bone: {', '.join(unsaid)}"))
        for role in ("brain_mask", "bone_mask"):
            candidates = [p.source for p in own if p.role == role and isinstance(p.source, Path)]
            if len(candidates) > 1 and case.refused is None:
                listed = ", ".join(map(str, candidates))
                case.refused = case.hide(f"{case.case}: expected one {ROLES[role]}, got {len(candidates)} candidates: {listed}")
            elif candidates:
                setattr(case, role, candidates[0])
