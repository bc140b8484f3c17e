# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Pairs among DICOM series: by folder where each patient has one, else by the PatientID as it stands in the headers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from roi_fusion.data.io import DicomSeries, is_volume_file, scan_dicom
from roi_fusion.data.naming import Naming, tells_a_patient

from .names import OTHER_MASK, contrast_of, safe_name, short_hash
from .sources import MASKS, CaseSource, Part, make_case, parts_of, volumes_in

__all__ = ["find_dicom"]

logger = logging.getLogger(__name__)


def find_dicom(root: Path, contrast: str, naming: Naming | None = None) -> list[CaseSource]:
    """Pairs of the DICOM files below a folder; masks are the NIfTI, MHA or NRRD files in the patient's folder.

    Args:
        root: the folder.
        contrast: which MRI to take of several.
        naming: gives cases and subjects their names; None: they keep those of folders and patients.
    """
    hashed = naming is not None and naming.hashed
    root = root.absolute() if hashed else root  # so that no short name is sought in texts
    series = scan_dicom(p for p in sorted(root.rglob("*")) if p.is_file() and not is_volume_file(p))
    cases = []
    for name, subject, members in _patients(root, series):
        masks = []
        if (root / name).is_dir():
            masks = [p for p in parts_of(volumes_in(root / name, deep=True)) if p.role in (*MASKS, OTHER_MASK)]
        if naming is None or not hashed:
            cases += _cases(name, subject, members, masks, contrast)
        else:
            cases += _hidden_cases(root, name, subject, members, masks, contrast, naming)
    return cases


def _hidden_cases(
    root: Path, name: str, subject: str, members: list[DicomSeries], masks: list[Part], contrast: str, naming: Naming
) -> list[CaseSource]:
    """:func:`_cases` under names that tell no patient, in whose messages no path stands."""
    ids = {s.patient_id for s in members}
    patient = naming.patient(members[0].patient_id, "") if len(ids) == 1 and tells_a_patient(*ids) else ""
    case = patient if patient and subject == name else naming.noted(naming.name(name, "case"), name)
    for s in members:
        s.shown_as = case
    found = _cases(case, patient or naming.noted(naming.name(subject, "case"), subject), members, masks, contrast, naming)
    for one in found:
        one.original = name + one.case.removeprefix(case)
        roles: dict[str, Path] = {}
        for role, path in one.files():
            roles.setdefault(role, path)
        for role, first in roles.items():
            one.hidden[str(first)] = one.hidden[str(first.resolve())] = naming.shown(one.case, role, first)
        one.hidden |= {str(m.source): f"{case}, a mask" for m in masks if str(m.source) not in one.hidden}
        one.hidden |= {str(root / name): case, str((root / name).resolve()): case}
        one.refused, one.notes = one.hide(one.refused), one.hide(one.notes)
    return found


def _patients(root: Path, series: Sequence[DicomSeries]) -> list[tuple[str, str, list[DicomSeries]]]:
    """Name of the case, subject and series of each patient, sorted by name.

    Folders of the top level are patients where any holds both CT and MR. Else, as with ``CT/`` and ``MR/``, and for a folder
    that holds several, the raw PatientID tells them apart; where it is empty, the study does.
    """
    tops = {id(s): s.files[0].relative_to(root).parts[0] for s in series}
    nested = all(len(s.files[0].relative_to(root).parts) > 1 for s in series)
    modalities: dict[str, set[str]] = {}
    ids: dict[str, set[str]] = {}
    for s in series:
        modalities.setdefault(tops[id(s)], set()).add(s.modality)
        ids.setdefault(tops[id(s)], set()).add(s.patient_id)
    by_folder = nested and any({"CT", "MR"} <= m for m in modalities.values())
    groups: dict[tuple[str, str], list[DicomSeries]] = {}
    for s in series:
        if by_folder and len(ids[tops[id(s)]]) == 1:
            key = ("folder", tops[id(s)])
        elif tells_a_patient(s.patient_id):
            key = ("patient", s.patient_id)
        elif s.study_uid:
            key = ("study", s.study_uid)
        else:
            key = ("parent", str(s.files[0].parent.relative_to(root)))
        groups.setdefault(key, []).append(s)
    names = _unique_names(list(groups))
    subjects: dict[str, str] = {}  # one patient may lie in several folders
    out = []
    for key, members in sorted(groups.items(), key=lambda item: names[item[0]]):
        patient = members[0].patient_id
        subject = subjects.setdefault(patient, names[key]) if tells_a_patient(patient) else names[key]
        out.append((names[key], subject, members))
    return out


def _unique_names(keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A name of each group that no other has, also where upper and lower case are one."""
    names = {}
    for kind, text in keys:
        unnamed = kind in ("study", "parent")
        names[kind, text] = f"unnamed-{short_hash(text)}" if unnamed else safe_name(text, plain=kind == "patient")
    lower = [n.lower() for n in names.values()]
    return {key: f"{n}-{short_hash(key[1])}" if lower.count(n.lower()) > 1 else n for key, n in names.items()}


def _why_no_volume(series: DicomSeries) -> str | None:
    try:
        return series.why_no_volume()
    except Exception as e:  # whatever a junk header raises: one series never ends the search
        logger.debug("%s", series, exc_info=True)
        return f"its headers cannot be read ({type(e).__name__}: {str(e)[:100]})"


def _cases(
    name: str,
    subject: str,
    members: Sequence[DicomSeries],
    masks: Sequence[Part],
    contrast: str,
    naming: Naming | None = None,
) -> list[CaseSource]:
    """One case of a patient, or one of each study that holds both a CT and an MRI where there are several of these."""
    parts: list[tuple[str, Part]] = []
    notes = []
    for s in members:
        why = _why_no_volume(s)
        if why:
            notes.append(f"{s}: {why}")
        else:
            role = "ct" if s.modality == "CT" else "mri"
            parts.append((s.study_uid, Part(s, role, contrast_of(s.description) if role == "mri" else "")))
    studies: dict[str, list[Part]] = {}
    for uid, part in parts:
        studies.setdefault(uid, []).append(part)
    whole = {uid: own for uid, own in studies.items() if {"ct", "mri"} <= {p.role for p in own}}
    if not whole and len(studies) > 1 and not tells_a_patient(members[0].patient_id):
        notes.append(f"no PatientID in the headers: {len(studies)} studies taken for one patient, as one folder holds them")
    if len(whole) < 2:
        one = next(iter(whole.values()), [p for _, p in parts])
        left = [f"{p.source}: of another study" for u, p in parts if whole and u not in whole]
        return [make_case(name, [*one, *masks], contrast, [*notes, *left], subject)]
    left = [f"{p.source}: of a study without a pair" for u, p in parts if u not in whole]
    if masks:
        left.append(f"left alone, as {len(whole)} studies are there: {', '.join(str(m.source) for m in masks)}")
    ends = {uid: short_hash(uid) if naming is None else naming.name(uid, "study", 8) for uid in whole}
    return [make_case(f"{name}_{ends[uid]}", own, contrast, [*notes, *left], subject) for uid, own in whole.items()]
