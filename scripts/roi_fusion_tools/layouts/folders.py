# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Layouts told by names of files and folders: case folders, flat pairs, BIDS, and the challenges ISLES'24 and APIS."""

from __future__ import annotations

import logging
from pathlib import Path

from roi_fusion.data.io import is_volume_file
from roi_fusion.data.nifti import MGH
from roi_fusion.data.splits import subject_of

from .names import OTHER_MASK, case_name, contrast_of, role_of, stem_of
from .sources import MASKS, CaseSource, Part, folders_in, make_case, part_of, parts_of, volumes_in

__all__ = ["find_apis", "find_bids", "find_cases", "find_flat", "find_isles24"]

logger = logging.getLogger(__name__)


def find_cases(root: Path, contrast: str) -> list[CaseSource]:
    """``<case>/{ct, mri or a contrast}``, also below ``preproc/``."""
    tried: list[list[CaseSource]] = []
    for base in (root, root / "preproc"):
        groups = [(f, parts_of(volumes_in(f))) for f in folders_in(base)]
        cases = [
            make_case(folder.name, parts, contrast, subject=subject_of(folder.name, folder))
            for folder, parts in groups
            if any(p.role in ("ct", "mri") for p in parts)
        ]
        if any(c.refused is None for c in cases):
            return cases
        tried.append(cases)
    return max(tried, key=len)


def find_flat(root: Path, contrast: str) -> list[CaseSource]:
    """``x_mri`` beside ``x_ct`` in one folder."""
    groups: dict[str, list[Part]] = {}
    for path in volumes_in(root):
        part = part_of(path)
        if part is not None:
            groups.setdefault(case_name(stem_of(path)) or root.name, []).append(part)
    named = {name: parts for name, parts in groups.items() if any(p.role != OTHER_MASK for p in parts)}
    for name, parts in groups.items():
        if name not in named:  # x_head_mask is no case of its own, but belongs to x
            owner = max((n for n in named if name.startswith(n)), key=len, default="")
            if owner:
                named[owner] += parts
            else:
                logger.warning("left alone, as the name says neither lesion nor stroke: %s", parts[0].source)
    return [make_case(name, parts, contrast, subject=subject_of(name)) for name, parts in sorted(named.items())]


def find_bids(root: Path, contrast: str, pattern: str = "sub-*", derived_mri: bool = False) -> list[CaseSource]:
    """Subjects and sessions of BIDS; masks, and with `derived_mri` MRI where there is no other, below ``derivatives/``."""
    bases = [b for b in (root, root / "rawdata", root / "raw_data") if folders_in(b, pattern)]
    if not bases:
        return []
    raw = bases[0]
    tops = [d for d in (root / "derivatives", raw / "derivatives", raw.parent / "derivatives") if d.is_dir()]
    cases = []
    for subject in folders_in(raw, pattern):
        patient = subject_of(subject.name, subject)
        derived = {
            p for d in tops for folder in d.rglob(subject.name) if folder.is_dir() for p in volumes_in(folder, deep=True)
        }
        beside = parts_of(sorted(p for p in derived if not p.name.lower().endswith(MGH)))  # FreeSurfer's brain.mgz is no mask
        masks = [p for p in beside if p.role in (*MASKS, OTHER_MASK)]
        images = parts_of(volumes_in(subject, deep=True))
        if derived_mri and not any(p.role == "mri" for p in images):
            images += [p for p in beside if p.role == "mri"]
        sessions = {s.name: [p for p in images if s in Path(str(p.source)).parents] for s in folders_in(subject, "ses-*")}
        whole = {n: s for n, s in sessions.items() if {"ct", "mri"} <= {p.role for p in s}}
        if len(whole) > 1:  # a pair in each session; else CT and MRI of different sessions make one
            for name, session in whole.items():
                own = [m for m in masks if name in Path(str(m.source)).parts]
                cases.append(make_case(f"{subject.name}_{name}", [*session, *own], contrast, subject=patient))
        else:
            cases.append(make_case(subject.name, [*images, *masks], contrast, subject=patient))
    return cases


def find_isles24(root: Path, contrast: str) -> list[CaseSource]:
    """ISLES'24; as published in 2025, DWI and ADC lie below ``derivatives/`` alone, on the grid of the NCCT."""
    return find_bids(root, contrast, "sub-stroke*", derived_mri=True)


def find_apis(root: Path, contrast: str) -> list[CaseSource]:
    """APIS: a folder for each kind of image, in it files or folders named by the case."""
    for base in (root / "raw", root):
        folders = {f.name.lower(): f for f in folders_in(base)}
        if "ct" not in folders and "ncct" not in folders:
            continue
        groups: dict[str, list[Part]] = {}
        for name, folder in folders.items():
            role, _ = role_of(name)
            if not role:
                continue
            kind = (contrast_of(name) or "mri") if role == "mri" else ""
            for entry in sorted(folder.iterdir()):
                if entry.is_dir():
                    for path in volumes_in(entry):
                        groups.setdefault(entry.name, []).append(Part(path, role, kind))
                elif is_volume_file(entry):
                    case = case_name(stem_of(entry), "_") or stem_of(entry)
                    groups.setdefault(case, []).append(Part(entry, role, kind))
        return [make_case(name, parts, contrast, subject=subject_of(name)) for name, parts in sorted(groups.items())]
    return []
