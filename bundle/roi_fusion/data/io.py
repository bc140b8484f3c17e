# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The one door through which volumes come in, whoever asks: NIfTI, MGH, MHA, NRRD, and DICOM series sorted by their headers.

What cannot be placed in space or trusted in value is refused in one sentence; what was corrected stands in a note.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..values import listed_files
from .dicom import DicomSeries, begins_as_dicom, scan_dicom
from .dicom_choice import choose_series
from .dicom_volume import read_series
from .itk_files import ITK, last_line, read_itk
from .nifti import MGH, NIFTI, read_nifti
from .volume import Volume, check_overflow, looks_like_ct, straightened

__all__ = [
    "DicomSeries",
    "Volume",
    "check_pair",
    "dicom_files",
    "dicom_series_of",
    "is_volume_file",
    "looks_like_ct",
    "read_volume",
    "scan_dicom",
    "split_ending",
]

_NAMES = {"ct": "CT", "mr": "MRI"}


def split_ending(name: str) -> tuple[str, str]:
    """A volume file's name as what names it and its ending, of letters: DICOM UIDs and versions have dots of their own."""
    found = re.search(r"(\.nii)?\.[a-z]+$", name, flags=re.IGNORECASE)
    cut = found.start() if found else len(name)
    return name[:cut], name[cut:]


def is_volume_file(path: Path) -> bool:
    """Whether a name ends as NIfTI, MGH, MHA or NRRD."""
    return path.name.lower().endswith((*NIFTI, *MGH, *ITK)) and not path.name.startswith(".")


def dicom_files(path: str | Path) -> list[Path]:
    """The files that a path stands for, sorted, as far as their names leave it open that they are DICOM.

    Args:
        path: folder, also with folders in it; file; or several with commas between.
    """
    listed, path = listed_files(path), Path(path)
    if path.is_dir():
        files = [] if any(is_volume_file(p) for p in path.iterdir()) else sorted(path.rglob("*"))
    else:
        files = listed or [path]
    return [p for p in files if p.is_file() and not is_volume_file(p)]


def read_volume(source: str | Path | DicomSeries, *, as_stored: bool = False, role: str = "", shown_as: str = "") -> Volume:
    """Read one volume.

    Every file is judged by its header first: nothing is read that is larger than
    :data:`~roi_fusion.data.volume.MAX_VOXELS`, complex, coloured, or placed where no scanner places a head.

    Args:
        source: NIfTI, MGH, MHA or NRRD file, a folder of DICOM files or one of them (see :func:`dicom_series_of`), or a series
            of :func:`scan_dicom`.
        as_stored: leave a file's voxels, grid and place as they are, for who writes results back onto them: a gantry tilt
            (shear), NaN and a missing orientation are then the caller's to judge. A DICOM series is always straightened.
        role: ``"mr"`` or ``"ct"`` picks a series of that kind from a folder that holds several.
        shown_as: what stands in messages in place of a DICOM series' path, see :mod:`~roi_fusion.data.naming`.

    Returns:
        The volume, its axes at right angles unless `as_stored`.

    Raises:
        InputError: when it cannot be read, is not 3-D, has no orientation, lacks slices, or its numbers overflowed.

    Example:
        >>> read_volume("p1/ct.nii.gz").array.shape  # doctest: +SKIP
        (256, 256, 26)
    """
    if isinstance(source, DicomSeries):
        return _finite(read_series(source))
    path = Path(source)
    if path.is_dir() or listed_files(path):
        series = dicom_series_of(path, role, shown_as)
        assert series is not None  # a folder is one or is refused
        return _finite(read_series(series))
    if not path.is_file():
        raise InputError(f"{path}: expected a volume, found no such file")
    name = path.name.lower()
    try:
        if name.endswith((*NIFTI, *MGH)):
            volume, stored = read_nifti(path)
        elif name.endswith(ITK):
            volume, stored = read_itk(path)
        else:
            series = dicom_series_of(path, role, shown_as)
            if series is None:
                raise InputError(f"{path}: expected NIfTI, MGH, MHA, NRRD, DICOM or a DICOM folder, got another ending")
            return _finite(read_series(series))
    except InputError:
        raise
    except Exception as e:  # readers raise whatever broken bytes lead them to
        raise InputError(f"{path}: expected a readable volume, got: {last_line(e)}") from None
    check_overflow(volume, stored)
    if as_stored:
        return volume
    if not volume.placed:
        raise InputError(f"{path}: expected an orientation (sform or qform), got none")
    return straightened(_finite(volume))


def _finite(volume: Volume) -> Volume:
    if not np.isfinite(volume.array).all():
        count = int((~np.isfinite(volume.array)).sum())
        raise InputError(f"{volume.source}: expected finite values, got {count} NaN or infinite voxels")
    return volume


def dicom_series_of(path: str | Path, role: str = "", shown_as: str = "") -> DicomSeries | None:
    """The DICOM series that a path stands for; None where it is a file of another kind, or not there.

    A folder stands for the one series below it that fits, see :func:`~roi_fusion.data.dicom_choice.choose_series`; a file for
    the series that it is part of, with what lies beside it; a list of files, with commas between, for itself.

    Args:
        path: folder, file or list of files.
        role: ``"mr"``, ``"ct"``, or empty where either will do.
        shown_as: what stands in messages in place of the path; the path itself when it is empty.

    Raises:
        InputError: when a folder holds no such series, or several.
    """
    path, listed = Path(path), listed_files(path)
    if listed:
        for one in listed:
            if not one.is_file():
                raise InputError(f"{shown_as or one}: expected a DICOM file, found no such file")
        return choose_series(path, scan_dicom(listed), role, shown_as)
    if path.is_dir():
        return choose_series(path, scan_dicom(p for p in sorted(path.rglob("*")) if p.is_file()), role, shown_as)
    if not path.is_file() or is_volume_file(path) or not begins_as_dicom(path):
        return None
    found = scan_dicom(p for p in sorted(path.parent.iterdir()) if p.is_file())
    series = next((s for s in found if path in s.files), None)
    if series is None:
        return None
    series.shown_as = shown_as
    if role and series.modality in ("CT", "MR") and series.modality.lower() != role:
        where = shown_as or path
        raise InputError(f"{where}: expected the {_NAMES[role]}, got a file of a series of modality {series.modality}")
    return series


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
