# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""DICOM headers: which series lie among some files, and which of their images make up a volume. Pixels are not read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["REPEATS", "DicomSeries", "DicomSlice", "scan_dicom"]

logger = logging.getLogger(__name__)

_TAGS = (
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
    "NumberOfFrames",
    "DiffusionBValue",
    "EchoTime",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "PixelPaddingValue",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ProtocolName",
)

#: Tags that tell apart the images at one position of a series: b values, echoes, magnitude and phase, passes, time points.
REPEATS = ("DiffusionBValue", "EchoTime", "ImageType", "AcquisitionNumber", "TemporalPositionIdentifier")

#: So many images of another orientation or size are scouts inside a series, as long as the stack has four times as many.
_MAX_SCOUTS = 3

_LOCALISER = r"locali[sz]er|scout|topogram|survey|3-?plane"


@dataclass
class DicomSlice:
    """What one file's header says; NaN, 0 or empty where it says nothing that can be read.

    Attributes:
        path: the file.
        position: of the centre of the first pixel, ``[3]``, LPS millimetres.
        orientation: directions of rows and columns, ``[6]``.
        pixel_mm: distance of rows and of columns, ``[2]``.
        thickness_mm: SliceThickness.
        size: columns and rows.
        frames, samples: images in the file, numbers a pixel.
        kinds: ImageType in capitals.
        slope, intercept: of the stored numbers; NaN where the tag is missing.
        padding: stored number that is none; NaN where there is none such.
        repeats: text of the tags of :data:`REPEATS`.
    """

    path: Path
    position: np.ndarray
    orientation: np.ndarray
    pixel_mm: np.ndarray
    thickness_mm: float
    size: tuple[int, int]
    frames: int
    samples: int
    kinds: frozenset[str]
    slope: float
    intercept: float
    padding: float
    repeats: dict[str, str]

    @classmethod
    def of(cls, path: Path, header: Any) -> DicomSlice:
        """From a pydicom header, whatever junk it holds."""
        columns, rows = (_whole(header, t) for t in ("Columns", "Rows"))
        return cls(
            path=path,
            position=_numbers(header, "ImagePositionPatient", 3),
            orientation=_numbers(header, "ImageOrientationPatient", 6),
            pixel_mm=_numbers(header, "PixelSpacing", 2),
            thickness_mm=_number(header, "SliceThickness"),
            size=(columns, rows),
            frames=_whole(header, "NumberOfFrames") or 1,
            samples=_whole(header, "SamplesPerPixel") or 1,
            kinds=frozenset(re.findall(r"[A-Z0-9_]+", _text(header, "ImageType").upper())),
            slope=_number(header, "RescaleSlope"),
            intercept=_number(header, "RescaleIntercept"),
            padding=_number(header, "PixelPaddingValue"),
            repeats={tag: _text(header, tag) for tag in REPEATS},
        )

    @property
    def placed(self) -> bool:
        """Whether position, orientation (two directions at right angles) and pixel size are known."""
        directions = self.orientation.reshape(2, 3)
        upright = np.abs(directions @ directions.T - np.eye(2)).max() < 0.05  # false with NaN
        return bool(upright and np.isfinite(self.position).all() and (self.pixel_mm > 0).all())

    def goes_with(self, other: DicomSlice) -> bool:
        """Whether two images can be slices of one stack; one without a readable orientation goes with every other."""
        turned = np.abs(self.orientation - other.orientation).max() > 0.05  # false with NaN
        return self.size == other.size and not turned


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
        slices: header of each file.
        notes: what was passed over on scanning.
    """

    uid: str
    patient_id: str
    study_uid: str
    modality: str
    description: str
    number: int
    slices: list[DicomSlice] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        folder = self.slices[0].path.parent if self.slices else "."
        return f"{folder} (series {self.number} '{self.description}')"

    @property
    def files(self) -> list[Path]:
        """Paths of all images, sorted."""
        return sorted(s.path for s in self.slices)

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
            return f"a {self.modality or 'nameless'} series"
        main, _ = self.stack()
        if not main or re.search(_LOCALISER, self.description.lower()):
            return "a localiser"
        known = [s.orientation for s in main if np.isfinite(s.orientation).all()]
        turns = {tuple(np.round(o, 1) + 0.0) for o in known}
        if known and np.ptp(known, axis=0).max() > 0.05:
            return f"a localiser ({len(turns)} orientations in one series)"
        if len(main) < 3 and not any(s.frames > 1 for s in main):
            return f"a localiser ({len(main)} images)"
        return None


def _text(header: Any, tag: str) -> str:
    try:
        return str(header.get(tag) or "")
    except Exception:  # pydicom converts a value when it is asked for, and raises what the junk leads it to
        return ""


def _numbers(header: Any, tag: str, count: int) -> np.ndarray:
    try:
        values = np.array([float(v) for v in header.get(tag)])
    except Exception:  # see _text; also None and a single number
        values = np.empty(0)
    return values if len(values) == count else np.full(count, np.nan)


def _number(header: Any, tag: str) -> float:
    try:
        return float(header.get(tag))
    except Exception:  # see _text
        return float("nan")


def _whole(header: Any, tag: str) -> int:
    value = _number(header, tag)
    return int(value) if np.isfinite(value) else 0


def _looks_like_dicom(head: bytes) -> bool:
    """By the first 132 bytes: the mark behind the preamble, or, without a preamble, a low element of group 2 or 8."""
    bare = len(head) > 8 and head[:2] in (b"\x02\0", b"\x08\0") and head[2] < 0x20 and head[3] == 0
    return head[128:] == b"DICM" or bare


def scan_dicom(paths: Iterable[Path]) -> list[DicomSeries]:
    """The series among some files, by patient, study and number. Files that are not DICOM are passed over.

    A file that begins as DICOM and cannot be read is passed over too, with a note on the series beside it.

    Args:
        paths: files; pixels are not read.
    """
    import pydicom

    series: dict[tuple[str, str, str], DicomSeries] = {}
    broken: list[Path] = []
    for path in paths:
        with path.open("rb") as f:
            head = f.read(132)
        if not _looks_like_dicom(head):
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
        except Exception as e:  # whatever a broken header raises
            logger.warning("%s: expected a DICOM file, got one that cannot be read (%s)", path, str(e)[:120])
            broken.append(path)
            continue
        if not (_text(header, "Modality") or _text(header, "SeriesInstanceUID")):  # an index (DICOMDIR), or no DICOM at all
            continue
        key = (_text(header, "PatientID"), _text(header, "StudyInstanceUID"), _text(header, "SeriesInstanceUID"))
        key = (*key[:2], key[2] or str(path.parent))
        if key not in series:
            described = " ".join(_text(header, t) for t in ("SeriesDescription", "ProtocolName")).strip()
            number = _whole(header, "SeriesNumber")
            series[key] = DicomSeries(key[2], key[0], key[1], _text(header, "Modality"), described, number)
        series[key].slices.append(DicomSlice.of(path, header))
    _note_broken(list(series.values()), broken)
    return sorted(series.values(), key=lambda s: (s.patient_id, s.study_uid, s.number, s.uid))


def _note_broken(series: Sequence[DicomSeries], broken: Sequence[Path]) -> None:
    for one in series:
        folders = {s.path.parent for s in one.slices}
        lost = [p.name for p in broken if p.parent in folders]
        if lost:
            one.notes.append(f"{len(lost)} DICOM files beside it cannot be read and were passed over: {', '.join(lost[:3])}")
