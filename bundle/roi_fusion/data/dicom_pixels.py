# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The pixels of DICOM images, scaled. Single images are read by ITK, which knows the compressions of scanners; frames of
multi-frame files, mosaics and inverted images by pydicom, which for some compressions needs a further package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .dicom import DicomSeries
from .dicom_frames import whole_root
from .dicom_slice import DicomSlice
from .itk_bridge import load_itk
from .itk_files import last_line

__all__ = ["read_planes"]

#: Compressions that pydicom reads with a further package, and the package.
_PACKAGES = {
    "1.2.840.10008.1.2.4.50": "pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.51": "pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.57": "pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.70": "pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg-openjpeg",
}


def read_planes(series: DicomSeries, slices: Sequence[DicomSlice]) -> tuple[np.ndarray, np.dtype, list[str]]:
    """The scaled pixels ``[X, Y, Z]``, the type on disk, and notes. A slice without scaling takes that of the others.

    Raises:
        InputError: when pixels cannot be read, or slices are scaled in several ways and some in none.
    """
    missing = [s for s in slices if not (np.isfinite(s.slope) and np.isfinite(s.intercept))]
    scaled = [s for s in slices if np.isfinite(s.slope) and np.isfinite(s.intercept)]
    scalings = {(s.slope, s.intercept) for s in scaled} if 0 < len(missing) < len(slices) else set()
    if len(scalings) > 1:
        raise InputError(
            f"{series}: expected RescaleSlope and RescaleIntercept in every slice, got {len(missing)} without, "
            f"and {len(scalings)} different ones in the others"
        )
    notes = [f"{len(missing)} slices without RescaleSlope or RescaleIntercept took those of the others"] if scalings else []
    planes, stored = [], None
    frames_of = lru_cache(maxsize=1)(lambda path: _frames(path, series.file(path)))  # the frames of a file follow each other
    for image in slices:
        plane, kind = _plane(image, frames_of, series.file(image.path))
        if plane.shape != image.size:
            raise InputError(f"{series.file(image.path)}: expected an image of {image.size} pixels, got {plane.shape}")
        stored = stored or kind
        if scalings and not (np.isfinite(image.slope) and np.isfinite(image.intercept)):
            slope, intercept = next(iter(scalings))
            plane = (plane.astype(np.float32) - _or(image.intercept, 0)) / _or(image.slope, 1) * slope + intercept
        planes.append(plane)
    assert stored is not None
    return np.stack(planes, -1).astype(np.float32), stored, notes


def _or(value: float, default: float) -> float:
    return value if np.isfinite(value) else default


def _plane(image: DicomSlice, frames_of: Callable[[Path], np.ndarray], where: str) -> tuple[np.ndarray, np.dtype]:
    """The scaled pixels ``[X, Y]`` of an image, and their type on disk."""
    if image.frame or image.inverted:
        frames = frames_of(image.path)
        if image.tiles:
            stored = _tile(frames[0], image)
        elif image.frame > len(frames):
            raise InputError(f"{where}: expected {image.frame} frames, got {len(frames)}")
        else:
            stored = frames[max(image.frame, 1) - 1]
        return (stored * np.float64(_or(image.slope, 1)) + _or(image.intercept, 0)).T, stored.dtype
    itk = load_itk()
    try:
        plane = np.squeeze(itk.array_from_image(itk.imread(str(image.path)))).T  # slope, intercept applied
    except RuntimeError as e:
        raise InputError(f"{where}: expected a readable image, got: {last_line(e)}") from None
    return plane, plane.dtype


def _tile(square: np.ndarray, image: DicomSlice) -> np.ndarray:
    columns, rows = image.size
    across = whole_root(image.tiles)
    down, right = divmod(image.frame - 1, across)
    return square[down * rows : (down + 1) * rows, right * columns : (right + 1) * columns]


def _frames(path: Path, where: str) -> np.ndarray:
    """The stored pixels of a file, ``[frames, rows, columns]``."""
    import pydicom

    header: Any = pydicom.dcmread(path, force=True)
    try:
        array = np.asarray(header.pixel_array)
    except Exception as e:  # decoders raise whatever broken bytes lead them to
        syntax: Any = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", "")
        package = _PACKAGES.get(str(syntax))
        if package and "missing" in str(e):
            raise InputError(
                f"{where}: expected a package that reads {syntax.name} (pip install {package}), found none"
            ) from None
        raise InputError(f"{where}: expected readable pixels, got: {last_line(e)}") from None
    return array if array.ndim == 3 else array[None]
