# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Which series of a DICOM folder is the MRI or the CT that was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .dicom import DicomSeries

__all__ = ["CONTRAST_ORDER", "MODEL", "choose_series", "contrast_of", "series_contrast"]

#: Which MRI is taken where there are several contrasts; the name ``mri`` says that the user chose.
CONTRAST_ORDER = ("mri", "adc", "dwi", "flair", "t2", "t1", "")

#: ManufacturerModelName of what this program writes, which it never takes as input.
MODEL = "ROI Fusion"

_NAMES = {"ct": "CT", "mr": "MRI"}


def contrast_of(text: str) -> str:
    """The MRI contrast that a name or a series description tells: adc, dwi, flair, t2, t1, or empty.

    Example:
        >>> contrast_of("ep2d_diff_TRACEW"), contrast_of("Sag T1 MPRAGE")
        ('dwi', 't1')
    """
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


def choose_series(folder: str | Path, found: Sequence[DicomSeries], role: str = "", shown_as: str = "") -> DicomSeries:
    """The one series that is the MRI or the CT; a note of it says what was passed over.

    Series that are no volume (localisers, reports, single images) and what this program wrote do not count. Where `role` is
    given, only series of its modality do. Of several MRI series the first contrast of :data:`CONTRAST_ORDER` is taken, as
    descriptions and image types tell it. Whatever then leaves a choice is refused: two CTs, two series of one contrast.

    Args:
        folder: that they lie in, for messages.
        found: of :func:`~roi_fusion.data.dicom.scan_dicom`.
        role: ``"mr"``, ``"ct"``, or empty where either will do.
        shown_as: what stands in messages in place of the folder.

    Raises:
        InputError: when there is no such series, several that nothing tells apart, or several patients.
    """
    folder = shown_as or folder
    for s in found:
        s.shown_as = s.shown_as or shown_as
    why_not = {id(s): _why_not(s, role) for s in found}
    fitting = [s for s in found if why_not[id(s)] is None]
    if len({s.patient_id for s in fitting}) > 1:
        raise InputError(f"{folder}: expected the images of one patient, got {len({s.patient_id for s in fitting})} PatientIDs")
    passed = 0
    if role == "mr" and len(fitting) > 1:
        contrasts = {id(s): series_contrast(s) for s in fitting}
        first = min(contrasts.values(), key=CONTRAST_ORDER.index)
        taken = [s for s in fitting if contrasts[id(s)] == first]
        passed, fitting = len(fitting) - len(taken), taken
    if len(fitting) == 1:
        if passed:
            kind = series_contrast(fitting[0]).upper() or "unknown contrast"
            fitting[0].notes.append(f"of {passed + 1} MRI series, number {fitting[0].number} ({kind}) taken")
        return fitting[0]
    names = "; ".join(f"series {s.number}: {why_not[id(s)] or _volume(s)}" for s in found) or "no DICOM file"
    wanted = {"mr": "an MRI volume", "ct": "a CT volume", "": "a volume"}[role]
    advice = "; name a file of the one to take" if len(fitting) > 1 else ""
    raise InputError(f"{folder}: expected one DICOM series with {wanted}, got {len(fitting)} ({names}){advice}")


def _why_not(series: DicomSeries, role: str) -> str | None:
    if series.model == MODEL:
        return "a result of ROI Fusion"
    why = series.why_no_volume()
    if why is None and role and series.modality.lower() != role:
        return f"a {_NAMES[series.modality.lower()]} series"
    return why


def _volume(series: DicomSeries) -> str:
    contrast = series_contrast(series).upper() if series.modality == "MR" else series.modality
    return f"a volume ({contrast})" if contrast else "a volume"


def series_contrast(series: DicomSeries) -> str:
    """The contrast of an MRI series, as its description or else its image types tell; empty where neither does."""
    types = " ".join(sorted(series.slices[0].kinds)).replace("_", " ")
    return contrast_of(series.description) or contrast_of(types)
