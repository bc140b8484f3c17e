# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Volumes from files as scanners and challenges give them: NIfTI, MHA, NRRD, and DICOM series sorted by their headers.

What cannot be placed in space or trusted in value is refused in one sentence: no orientation, missing slices, 16-bit overflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..errors import InputError
from .grids import shear_mm, straighten

__all__ = [
    "DicomSeries",
    "Volume",
    "check_pair",
    "is_volume_file",
    "looks_like_ct",
    "read_volume",
    "scan_dicom",
    "split_ending",
]

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


_NIFTI = (".nii.gz", ".nii")


_ITK = (".mha", ".mhd", ".nrrd", ".nhdr")


_NAMES = {"ct": "CT", "mr": "MRI"}


#: A stack that leans by less than this over its whole height needs no straightening.
_STRAIGHT_MM = 0.25


_TAGS = (
    "Modality",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "SeriesDescription",
    "SeriesNumber",
    "PatientID",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "InstanceNumber",
    "NumberOfFrames",
    "DiffusionBValue",
    "EchoTime",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "PixelPaddingValue",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelRepresentation",
    "ProtocolName",
)


#: Tags that tell apart the images at one position of a series: b values, echoes, magnitude and phase, passes, time points.
_REPEATS = ("DiffusionBValue", "EchoTime", "ImageType", "AcquisitionNumber", "TemporalPositionIdentifier")


@dataclass
class Volume:
    """One volume as read.

    Attributes:
        array: ``[X, Y, Z]``, float32.
        affine: index to RAS millimetres; the axes stand at right angles.
        source: the file or series, for messages.
        modality: ``"ct"``, ``"mr"``, or empty where the format does not say.
        notes: what was corrected on reading.
    """

    array: np.ndarray
    affine: np.ndarray
    source: str
    modality: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class DicomSeries:
    """The headers of one DICOM series.

    Attributes:
        uid: SeriesInstanceUID.
        patient_id: PatientID as it stands in the header; may be empty.
        study_uid: StudyInstanceUID; may be empty.
        modality: as the header says: CT, MR, …
        description: SeriesDescription and ProtocolName.
        number: SeriesNumber.
        slices: path and header of each file.
    """

    uid: str
    patient_id: str
    study_uid: str
    modality: str
    description: str
    number: int
    slices: list[tuple[Path, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        folder = self.slices[0][0].parent if self.slices else "."
        return f"{folder} (series {self.number} '{self.description}')"

    @property
    def files(self) -> list[Path]:
        return sorted(path for path, _ in self.slices)

    def why_no_volume(self) -> str | None:
        """Why this series is no volume at all, such as a localiser; None for one that can be read or refused."""
        if self.modality not in ("CT", "MR"):
            return f"a {self.modality or 'nameless'} series"
        kinds = {str(k).upper() for _, header in self.slices for k in (header.get("ImageType") or [])}
        if "LOCALIZER" in kinds or re.search(r"locali[sz]er|scout|topogram|survey|3-?plane", self.description.lower()):
            return "a localiser"
        orientations = {tuple(np.round(_numbers(h, "ImageOrientationPatient", 6), 1)) for _, h in self.slices}
        if len(orientations) > 1:
            return f"a localiser ({len(orientations)} orientations in one series)"
        if len(self.slices) < 3 and not any(int(h.get("NumberOfFrames") or 1) > 1 for _, h in self.slices):
            return f"a localiser ({len(self.slices)} images)"
        return None


def _numbers(header: Any, tag: str, count: int) -> np.ndarray:
    values = header.get(tag)
    if values is None or len(values) != count:
        return np.full(count, np.nan)
    return np.array([float(v) for v in values])


def split_ending(name: str) -> tuple[str, str]:
    """A volume file's name as what names it and its ending, of letters: DICOM UIDs and versions have dots of their own."""
    found = re.search(r"(\.nii)?\.[a-z]+$", name, flags=re.IGNORECASE)
    cut = found.start() if found else len(name)
    return name[:cut], name[cut:]


def is_volume_file(path: Path) -> bool:
    """Whether a name ends as NIfTI, MHA or NRRD."""
    return path.name.lower().endswith((*_NIFTI, *_ITK)) and not path.name.startswith(".")


def scan_dicom(paths: Iterable[Path]) -> list[DicomSeries]:
    """The series among some files, by patient and number. Files that are not DICOM are passed over; pixels are not read."""
    import pydicom

    series: dict[tuple[str, ...], DicomSeries] = {}
    for path in paths:
        with path.open("rb") as f:
            if f.read(132)[128:] != b"DICM":
                continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        except Exception as e:  # whatever a broken header raises
            raise InputError(f"{path}: expected a DICOM file, got one that cannot be read ({str(e)[:120]})") from None
        uids = (str(header.get(t) or "") for t in ("PatientID", "StudyInstanceUID"))
        key = (*uids, str(header.get("SeriesInstanceUID") or path.parent))
        if key not in series:
            described = " ".join(str(header.get(t) or "") for t in ("SeriesDescription", "ProtocolName")).strip()
            series[key] = DicomSeries(
                key[2], key[0], key[1], str(header.get("Modality") or ""), described, int(header.get("SeriesNumber") or 0)
            )
        series[key].slices.append((path, header))
    return sorted(series.values(), key=lambda s: (s.patient_id, s.study_uid, s.number, s.uid))


def read_volume(source: str | Path | DicomSeries) -> Volume:
    """Read one volume.

    Args:
        source: NIfTI, MHA or NRRD file, a folder that holds one DICOM series, or a series of :func:`scan_dicom`.

    Raises:
        InputError: when it cannot be read, is not 3-D, has no orientation, lacks slices, or its numbers overflowed.
    """
    if isinstance(source, DicomSeries):
        return _read_series(source)
    path = Path(source)
    if path.is_dir():
        found = scan_dicom(p for p in sorted(path.rglob("*")) if p.is_file())
        volumes = [s for s in found if s.why_no_volume() is None]
        if len(volumes) != 1:
            names = (
                "; ".join(f"{s.description or s.number}: {s.why_no_volume() or 'a volume'}" for s in found) or "no DICOM file"
            )
            raise InputError(f"{path}: expected one DICOM series with a volume, got {len(volumes)} ({names})")
        return _read_series(volumes[0])
    if not path.is_file():
        raise InputError(f"{path}: expected a volume, found no such file")
    name = path.name.lower()
    try:
        if name.endswith(_NIFTI):
            volume, stored = _read_nifti(path)
        elif name.endswith(_ITK):
            volume, stored = _read_itk(path)
        else:
            raise InputError(f"{path}: expected NIfTI, MHA, NRRD or a DICOM folder, got another ending")
    except InputError:
        raise
    except Exception as e:  # readers raise whatever broken bytes lead them to
        last = [line.strip() for line in str(e).splitlines() if line.strip()][-1:] or [type(e).__name__]
        raise InputError(f"{path}: expected a readable volume, got: {last[0][:160]}") from None
    if not np.isfinite(volume.array).all():
        count = int((~np.isfinite(volume.array)).sum())
        raise InputError(f"{path}: expected finite values, got {count} NaN or infinite voxels")
    _check_overflow(volume, stored)
    if np.abs(shear_mm(volume.array.shape, volume.affine)).max() > _STRAIGHT_MM:
        return _straightened(volume)
    return volume


def _check_3d(shape: Sequence[int], path: Path) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"{path}: expected a 3-D volume, got shape {list(shape)}")


def _read_nifti(path: Path) -> tuple[Volume, np.dtype]:
    image: Any = nib.load(path)
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    _check_3d(shape, path)
    codes = (int(image.header["sform_code"]), int(image.header["qform_code"]))
    affine = np.asarray(image.affine, dtype=np.float64)
    if not any(codes) or not abs(np.linalg.det(affine[:3, :3])) > 1e-9:
        raise InputError(f"{path}: expected an orientation (sform or qform), got none")
    return Volume(image.get_fdata(dtype=np.float32).reshape(shape), affine, str(path)), image.header.get_data_dtype()


def _read_itk(path: Path) -> tuple[Volume, np.dtype]:
    with path.open("rb") as f:
        head = f.read(8192).lower()
    expected = b"space directions" if path.suffix.lower() in (".nrrd", ".nhdr") else b"transformmatrix"
    placed = expected in head or b"orientation" in head or b"rotation" in head
    if not placed:
        raise InputError(f"{path}: expected an orientation ({expected.decode()} in the header), got none")
    itk = _load_itk()
    image = itk.imread(str(path))
    array = itk.array_from_image(image)
    _check_3d(array.shape, path)
    return Volume(array.T.astype(np.float32), _itk_affine(itk, image), str(path)), array.dtype


def _load_itk() -> Any:
    try:
        import itk
    except ImportError:
        raise InputError("MHA, NRRD and DICOM: expected the package itk (pip install itk), found none") from None
    return itk


def _itk_affine(itk: Any, image: Any) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    affine[:3, 3] = np.array(image.GetOrigin())
    return _LPS @ affine


def _check_overflow(volume: Volume, stored: np.dtype, padding: float | None = None) -> None:
    """Refuse numbers that ran over the end of 16 bits: air at 64536, or both ends of the range in one volume."""
    if stored.itemsize != 2 or stored.kind not in "iu":
        return
    values = volume.array if padding is None else volume.array[volume.array != padding]
    if values.size == 0:
        return
    low, high = float(values.min()), float(values.max())
    wrapped_air = stored.kind == "u" and low >= 0 and float(((values > 63_000) & (values < 65_536)).mean()) > 0.05
    if wrapped_air or (stored.kind == "i" and low <= -32_000 and high >= 32_000):
        raise InputError(f"{volume.source}: expected values that fit their 16 bits, got {low:g} to {high:g}: an overflow")


def _straightened(volume: Volume) -> Volume:
    shear = shear_mm(volume.array.shape, volume.affine)
    height = np.linalg.norm(volume.affine[:3, 2]) * max(volume.array.shape[2] - 1, 1)
    degrees = float(np.degrees(np.arcsin(min(1.0, float(np.linalg.norm(shear)) / height))))
    if degrees > 45:
        raise InputError(f"{volume.source}: expected a gantry tilt of 45° or less, got {degrees:.0f}°")
    outside = -1024.0 if volume.modality == "ct" or looks_like_ct(volume.array) else 0.0
    array, affine = straighten(volume.array, volume.affine, outside)
    return Volume(array, affine, volume.source, volume.modality, [*volume.notes, f"gantry tilt of {degrees:.1f}° corrected"])


def _one_pass(series: DicomSeries) -> list[tuple[Path, Any]]:
    """The slices, each position once: of several b values the highest, else a series with repeats is refused."""
    slices = series.slices

    def repeats(some: Sequence[tuple[Path, Any]]) -> bool:
        places = [tuple(np.round(_numbers(h, "ImagePositionPatient", 3), 2)) for _, h in some]
        return len(set(places)) < len(places)

    if not repeats(slices):
        return slices
    for tag in _REPEATS:
        groups: dict[str, list[tuple[Path, Any]]] = {}
        for item in slices:
            groups.setdefault(str(item[1].get(tag)), []).append(item)
        if len(groups) > 1 and not any(repeats(g) for g in groups.values()):
            if tag == "DiffusionBValue":
                return groups[max(groups, key=lambda b: float(b) if b != "None" else -1.0)]
            raise InputError(f"{series}: expected one volume, got {len(groups)} that differ in {tag}")
    raise InputError(f"{series}: expected each slice position once, got positions that repeat")


def _read_series(series: DicomSeries) -> Volume:
    why = series.why_no_volume()
    if why:
        raise InputError(f"{series}: expected a CT or MRI volume, got {why}")
    if any(int(h.get("NumberOfFrames") or 1) > 1 for _, h in series.slices):
        raise InputError(f"{series}: expected one slice a file, got multi-frame DICOM; convert it with dcm2niix first")
    slices = _one_pass(series)
    headers = [h for _, h in slices]
    positions = np.array([_numbers(h, "ImagePositionPatient", 3) for h in headers])
    orientation = _numbers(headers[0], "ImageOrientationPatient", 6)
    pixel = _numbers(headers[0], "PixelSpacing", 2)
    if not (np.isfinite(positions).all() and np.isfinite(orientation).all() and np.isfinite(pixel).all()):
        raise InputError(f"{series}: expected position, orientation and pixel spacing in every header, got slices without")
    sizes = {(int(h.Rows), int(h.Columns), *np.round(_numbers(h, "PixelSpacing", 2), 3)) for h in headers}
    if len(sizes) > 1:
        raise InputError(f"{series}: expected slices of one size and spacing, got {len(sizes)} kinds")
    normal = np.cross(orientation[:3], orientation[3:])
    heights = positions @ normal
    order = np.argsort(heights)
    gaps = np.diff(heights[order])
    usual = float(np.median(gaps))
    if gaps.max() > 1.4 * usual or gaps.min() < 0.6 * usual:
        index = int(np.argmax(np.abs(gaps - usual)))
        raise InputError(
            f"{series}: expected evenly spaced slices, got a step of {gaps[index]:.2f} mm where the others are {usual:.2f} mm "
            f"(after slice {index + 1} of {len(order)}): slices are missing"
        )
    step = (positions[order[-1]] - positions[order[0]]) / (len(order) - 1)
    straight = positions[order[0]] + np.arange(len(order))[:, None] * step
    off = float(np.linalg.norm(straight - positions[order], axis=1).max())
    if off > max(0.5 * usual, 1.0):
        raise InputError(f"{series}: expected slices on one straight line, got one {off:.1f} mm off")
    itk = _load_itk()
    planes = []
    for i in order:
        try:
            planes.append(np.squeeze(itk.array_from_image(itk.imread(str(slices[i][0])))).T)  # slope, intercept applied
        except RuntimeError as e:
            last = [line.strip() for line in str(e).splitlines() if line.strip()][-1]
            raise InputError(f"{slices[i][0]}: expected a readable image, got: {last[:160]}") from None
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = orientation[:3] * pixel[1], orientation[3:] * pixel[0]
    affine[:3, 2], affine[:3, 3] = step, positions[order[0]]
    modality = series.modality.lower()
    volume = Volume(np.stack(planes, -1).astype(np.float32), _LPS @ affine, str(series), modality)
    padding = headers[0].get("PixelPaddingValue")
    if padding is not None:
        value = float(padding) * float(headers[0].get("RescaleSlope") or 1) + float(headers[0].get("RescaleIntercept") or 0)
        _check_overflow(volume, planes[0].dtype, value)
        volume.array[volume.array == value] = -1024 if modality == "ct" else 0
    else:
        _check_overflow(volume, planes[0].dtype)
    if np.abs(shear_mm(volume.array.shape, volume.affine)).max() > _STRAIGHT_MM:
        return _straightened(volume)
    return volume


def looks_like_ct(array: np.ndarray) -> bool:
    """Whether values look like HU: a tenth or more of them air near -1000, some soft tissue, some bone."""
    sample = array[:: max(1, array.shape[0] // 64), :: max(1, array.shape[1] // 64)]
    air = float((sample < -800).mean())
    return air > 0.03 and bool((sample > 250).any()) and float(((sample > -150) & (sample < 150)).mean()) > 0.03


def check_pair(mri: Volume, ct: Volume) -> None:
    """Refuse a pair whose CT is not in HU, or whose roles are swapped. CT padding below -1024 is set to -1024.

    Raises:
        InputError: names the file, what was expected and what it got.
    """
    for volume, role in ((mri, "mr"), (ct, "ct")):
        if volume.modality and volume.modality != role:
            raise InputError(
                f"{volume.source}: expected the {_NAMES[role]}, got a series of modality {_NAMES[volume.modality]}"
            )
    like = (looks_like_ct(mri.array), looks_like_ct(ct.array))
    if like == (True, False):
        raise InputError(f"{mri.source}: expected the MRI, got values of a CT: MRI and CT ({ct.source}) look swapped")
    if like[0]:
        raise InputError(f"{mri.source}: expected the MRI, got values of a CT like {ct.source}")
    low, high = float(ct.array.min()), float(ct.array.max())
    if low < -20_000 or high > 32_000:
        raise InputError(f"{ct.source}: expected CT in HU, got values from {low:g} to {high:g}: a 16-bit overflow")
    if low > -200 or high < 300:
        raise InputError(
            f"{ct.source}: expected CT in HU (air near -1000, bone above 300), got values from {low:g} to {high:g}"
        )
    if low < -1024:
        ct.array = np.maximum(ct.array, -1024)
    if float(mri.array.min()) == float(mri.array.max()):
        raise InputError(f"{mri.source}: expected an MRI with contrast, got one constant value ({mri.array.flat[0]:g})")
