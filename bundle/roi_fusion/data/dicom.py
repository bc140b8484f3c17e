# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""DICOM headers: which series lie among some files, and which of their images make up a volume. Pixels are not read."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .dicom_frames import slices_of
from .dicom_slice import B_VALUE_TAGS, DicomSlice, text_of, whole_of

__all__ = ["DicomSeries", "begins_as_dicom", "scan_dicom"]

logger = logging.getLogger(__name__)

_TAGS: tuple[str | int, ...] = (
    "SOPClassUID",
    "Modality",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "SeriesNumber",
    "PatientID",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "SOPInstanceUID",
    "PhotometricInterpretation",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ManufacturerModelName",
    "DiffusionBValue",
    "EchoTime",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "PixelPaddingValue",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ProtocolName",
    *B_VALUE_TAGS,
)

#: So many images of another orientation or size are scouts inside a series, as long as the stack has four times as many.
_MAX_SCOUTS = 3

#: What may stand in messages; a header may hold anything else there.
_MODALITIES = {"CR", "DX", "KO", "MG", "NM", "OT", "PR", "PT", "REG", "RTSTRUCT", "SEG", "SR", "US", "XA"}

_LOCALISER = r"locali[sz]er|scout|topogram|survey|3-?plane"


@dataclass
class DicomSeries:
    """The headers of one DICOM series.

    Attributes:
        uid: SeriesInstanceUID.
        patient_id: PatientID as the header has it, which may be empty or hold any character.
        study_uid: StudyInstanceUID.
        modality: as the header says: CT, MR, …
        description: SeriesDescription and ProtocolName.
        number: SeriesNumber; 0 where it is none.
        model: ManufacturerModelName.
        slices: header of each image.
        notes: what was passed over on scanning.
        shown_as: what stands in messages and results in place of the folder, whose name may be a patient's.
    """

    uid: str
    patient_id: str
    study_uid: str
    modality: str
    description: str
    number: int
    model: str = ""
    slices: list[DicomSlice] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shown_as: str = ""

    def __str__(self) -> str:
        folder = self.slices[0].path.parent if self.slices else "."
        return f"{self.shown_as or folder} (series {self.number})"  # descriptions may hold anything, also names

    def file(self, path: Path) -> str:
        """What a file is called in messages: by its path, or by its place among the files where the folder is not shown."""
        return f"{self}, file {self.files.index(path) + 1} of {len(self.files)}" if self.shown_as else str(path)

    @property
    def files(self) -> list[Path]:
        """Paths of all images, sorted."""
        return sorted({s.path for s in self.slices})

    def stack(self) -> tuple[list[DicomSlice], list[DicomSlice]]:
        """The images that make up the volume, and scouts that lie in the same series.

        Without scouts all images are the stack, be they of one kind or not.
        """
        groups: list[list[DicomSlice]] = []
        localisers = [s for s in self.slices if "LOCALIZER" in s.kinds]
        for image in self.slices:
            if "LOCALIZER" in image.kinds:
                continue
            group = next((g for g in groups if image.goes_with(g[0])), None)
            if group is None:
                groups.append([image])
            else:
                group.append(image)
        groups.sort(key=len, reverse=True)
        main, others = (groups[0], [s for g in groups[1:] for s in g]) if groups else ([], [])
        if len(others) > _MAX_SCOUTS or 4 * len(others) > len(main):
            main, others = [*main, *others], []
        return main, [*localisers, *others]

    def why_no_volume(self) -> str | None:
        """Why this series is no volume at all, such as a localiser; None for one that can be read or refused."""
        if self.modality not in ("CT", "MR"):
            return f"a {self.modality if self.modality in _MODALITIES else 'nameless'} series"
        main, _ = self.stack()
        if not main or re.search(_LOCALISER, self.description.lower()):
            return "a localiser"
        known = [s.orientation for s in main if np.isfinite(s.orientation).all()]
        turns = {tuple(np.round(o, 1) + 0.0) for o in known}
        if known and np.ptp(known, axis=0).max() > 0.05:
            return f"a localiser ({len(turns)} orientations in one series)"
        if len(main) < 3:
            return f"a localiser ({len(main)} images)"
        return None


def begins_as_dicom(path: Path) -> bool:
    """By the first 132 bytes: the mark behind the preamble, or, without a preamble, a low element of group 2 or 8."""
    with path.open("rb") as f:
        head = f.read(132)
    bare = len(head) > 8 and head[:2] in (b"\x02\0", b"\x08\0") and head[2] < 0x20 and head[3] == 0
    return head[128:] == b"DICM" or bare


def scan_dicom(paths: Iterable[Path]) -> list[DicomSeries]:
    """The series among some files, by patient, study and number. Files that are not DICOM are passed over.

    A file that begins as DICOM and cannot be read is passed over too, with a note on the series beside it.

    Args:
        paths: files; pixels are not read.
    """
    import pydicom
    from pydicom.tag import Tag

    series: dict[tuple[str, str, str], DicomSeries] = {}
    broken: list[Path] = []
    for path in paths:
        if not begins_as_dicom(path):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # they quote what a header holds
                header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[Tag(t) for t in _TAGS], force=True)
        except Exception as e:  # whatever a broken header raises
            logger.debug("%s: expected a DICOM file, got one that cannot be read (%s)", path, str(e)[:120])
            broken.append(path)
            continue
        if not (text_of(header, "Modality") or text_of(header, "SeriesInstanceUID")):  # an index (DICOMDIR), or no DICOM at all
            continue
        key = (text_of(header, "PatientID"), text_of(header, "StudyInstanceUID"), text_of(header, "SeriesInstanceUID"))
        key = (*key[:2], key[2] or str(path.parent))
        if key not in series:
            described = " ".join(text_of(header, t) for t in ("SeriesDescription", "ProtocolName")).strip()
            number = whole_of(header, "SeriesNumber")
            modality, model = text_of(header, "Modality"), text_of(header, "ManufacturerModelName")
            series[key] = DicomSeries(key[2], key[0], key[1], modality, described, number, model)
        series[key].slices += slices_of(path, header)
    _note_broken(list(series.values()), broken)
    if broken:
        logger.warning("%d files begin as DICOM and cannot be read: passed over", len(broken))
    return sorted(series.values(), key=lambda s: (s.patient_id, s.study_uid, s.number, s.uid))


def _note_broken(series: Sequence[DicomSeries], broken: Sequence[Path]) -> None:
    for one in series:
        folders = {s.path.parent for s in one.slices}
        lost = sum(p.parent in folders for p in broken)
        if lost:
            one.notes.append(f"{lost} DICOM files beside it cannot be read and were passed over")
