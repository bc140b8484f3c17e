# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What DICOM results take over from the images that they were made of, and nothing else: patient, study, place."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, import_needed
from ..dicom import DicomSeries, DicomSlice
from ..dicom_volume import volume_slices
from ..io import dicom_series_of
from ..itk_bridge import LPS

__all__ = ["DicomSource", "grid_of", "identities", "load_highdicom", "read_source", "result_key", "uid_of"]

#: Attributes of patient and study that go along; no others leave the source.
_KEPT = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientIdentityRemoved",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)

#: Of these a result needs to have one, be it empty.
_NEVER_ABSENT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName"),
)

#: Without these nothing can refer to an image.
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")

#: How the MRI was taken, which a derived MR image tells too.
_ACQUISITION = (
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "MagneticFieldStrength",
    "PatientPosition",
)
_ACQUISITION_FURTHER = ("RepetitionTime", "EchoTime", "EchoTrainLength", "InversionTime")

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "roi-fusion")


def load_highdicom() -> Any:
    """The package highdicom.

    Raises:
        InputError: when it is not installed.
    """
    missing = 'dicom: expected the package highdicom (pip install "roi-fusion[dicom]"), found none'
    highdicom = import_needed("highdicom", missing)
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it tells of every attribute that it copies
    return highdicom


@dataclass
class DicomSource:
    """The MRI series that results lie on.

    Attributes:
        path: for messages.
        images: a header for each of its images, or the one of a multi-frame file, bottom to top; only what results take over.
        slices: what the reader took from them.
        acquisition: attributes on how the MRI was taken.
        further: such headers of the CT, where it is DICOM of the same study.
    """

    path: str
    images: list[Any]
    slices: list[DicomSlice]
    acquisition: dict[str, Any]
    further: list[Any]

    def image_at(self, position: np.ndarray, orientation: np.ndarray) -> tuple[Any, int] | None:
        """The image and the frame (from 1) whose plane is at a place; None where results lie between the planes.

        Args:
            position: of the first pixel's centre, ``[3]``, LPS millimetres.
            orientation: directions of rows and columns, ``[6]``.
        """
        for number, one in enumerate(self.slices):
            if np.abs(one.position - position).max() < 0.01 and np.abs(one.orientation - orientation).max() < 1e-3:
                return (self.images[0], one.frame) if one.frame else (self.images[number], 1)
        return None


def read_source(mri: str | Path, ct: str | Path | None = None) -> DicomSource:
    """What results take over from the images that they were made of.

    Args:
        mri: folder or file of the MRI's series.
        ct: of the CT; left out where it is no DICOM.

    Raises:
        InputError: when the MRI is no DICOM series, or its headers lack what results refer to.
    """
    series = dicom_series_of(mri, "mr")
    if series is None:
        raise InputError(f"{mri}: expected the MRI as a DICOM series for results as DICOM, got a file of another kind")
    slices, _ = volume_slices(series)
    headers = _headers(slices)
    for header in headers.values():
        missing = [tag for tag in _REQUIRED if not str(header.get(tag) or "")]
        if missing:
            raise InputError(f"{series}: expected {' and '.join(missing)} in the header for results as DICOM, got none")
    frames = {str(h.FrameOfReferenceUID) for h in headers.values()}
    if len(frames) > 1:
        raise InputError(f"{series}: expected one frame of reference for results as DICOM, got {len(frames)}")
    first = next(iter(headers.values()))
    acquisition = {tag: first[tag].value for tag in (*_ACQUISITION, *_ACQUISITION_FURTHER) if tag in first}
    patient = _patient(first)
    images = [_image(headers[s.path], s, patient) for s in slices]
    if slices[0].frame:
        images = [_multi_frame(images[0], slices)]
    return DicomSource(str(series), images, slices, acquisition, _further(ct, patient))


def result_key(mri: Sequence[str], ct: Sequence[str], facts: Mapping[str, Any]) -> str:
    """A text that is the same for the same images, weights and settings; every UID of a result is made of it.

    Args:
        mri, ct: SOP instance UIDs of the images, or hashes of files.
        facts: of ``result.json``.
    """
    settings = {k: facts.get(k) for k in ("seed", "num_inference_steps", "num_samples", "guidance", "guidance_masks")}
    weights = (facts.get("weights") or {}).get("sha256", "")
    version = (facts.get("versions") or {}).get("roi_fusion", "")
    parts = [sorted(mri), sorted(ct), weights, settings, bool(facts.get("registration")), version]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def uid_of(key: str, *names: str | int) -> str:
    """A UID below 2.25 that is the same for the same key and names."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join([key, *map(str, names)])).int}"


def identities(path: str | Path | None, role: str) -> list[str]:
    """What tells one input from every other: UIDs of a DICOM series' images, the hash of another file."""
    if path is None or not str(path):
        return []
    series = dicom_series_of(path, role)
    if series is not None:
        return [s.uid for s in series.slices]
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest()]


def _headers(slices: Sequence[DicomSlice]) -> dict[Path, Any]:
    import pydicom

    paths = dict.fromkeys(s.path for s in slices)
    tags = (*_KEPT, *_REQUIRED, *_ACQUISITION, *_ACQUISITION_FURTHER, "PositionReferenceIndicator", "Modality")
    return {p: pydicom.dcmread(p, stop_before_pixels=True, specific_tags=list(tags), force=True) for p in paths}


def _patient(header: Any) -> Any:
    """Patient and study of a header, what must not be absent added as empty."""
    from pydicom import Dataset

    kept = Dataset()
    for tag in _KEPT:
        if tag in header:
            kept.add(header[tag])
        elif tag in _NEVER_ABSENT:
            setattr(kept, tag, None if tag.endswith(("Date", "Time")) else "")
    return kept


def _image(header: Any, one: DicomSlice, patient: Any) -> Any:
    from pydicom import Dataset

    out = Dataset()
    out.update(patient)
    for tag in (*_REQUIRED, "Modality", "PositionReferenceIndicator"):
        if tag in header:
            out.add(header[tag])
    out.Columns, out.Rows = one.size
    out.ImagePositionPatient = [_decimal(v) for v in one.position]
    out.ImageOrientationPatient = [_decimal(v) for v in one.orientation]
    out.PixelSpacing = [_decimal(v) for v in one.pixel_mm]
    out.SliceThickness = _decimal(one.thickness_mm) if np.isfinite(one.thickness_mm) else None
    return out


def _multi_frame(image: Any, slices: Sequence[DicomSlice]) -> Any:
    """The header of a multi-frame file with the place of each of its frames."""
    from pydicom import Dataset, Sequence

    def group(**items: Any) -> Dataset:
        item = Dataset()
        for name, value in items.items():
            setattr(item, name, value)
        return item

    by_frame = {s.frame: s for s in slices}
    image.NumberOfFrames = max(f for f in by_frame if f is not None)
    measures = group(PixelSpacing=image.PixelSpacing, SliceThickness=image.SliceThickness)
    orientation = group(ImageOrientationPatient=image.ImageOrientationPatient)
    image.SharedFunctionalGroupsSequence = Sequence(
        [group(PixelMeasuresSequence=Sequence([measures]), PlaneOrientationSequence=Sequence([orientation]))]
    )
    places = []
    for number in range(1, image.NumberOfFrames + 1):
        place = (by_frame[number] if number in by_frame else slices[0]).position
        position = group(ImagePositionPatient=[_decimal(v) for v in place])
        places.append(group(PlanePositionSequence=Sequence([position])))
    image.PerFrameFunctionalGroupsSequence = Sequence(places)
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(image, tag)
    return image


def _further(ct: str | Path | None, patient: Any) -> list[Any]:
    series: DicomSeries | None = dicom_series_of(ct, "ct") if ct is not None and str(ct) else None
    if series is None:
        return []
    slices, _ = volume_slices(series)
    headers = _headers(slices)
    if any(not str(h.get(tag) or "") for h in headers.values() for tag in _REQUIRED[:4]):
        return []
    if any(h.StudyInstanceUID != patient.StudyInstanceUID for h in headers.values()):  # an object refers to its own study alone
        return []
    return [_image(h, next(s for s in slices if s.path == p), patient) for p, h in headers.items()]


def _decimal(value: float) -> Any:
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value), auto_format=True)


def grid_of(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position ``[3]`` of the first plane, step to the next and orientation ``[6]`` of a volume, in LPS millimetres.

    Args:
        affine: index to RAS millimetres.
    """
    lps = LPS @ affine
    unit = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    return lps[:3, 3], lps[:3, 2], np.concatenate([unit[:, 0], unit[:, 1]])
