# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A volume from the slices of a DICOM series: sorted and checked by their headers, scaled, on an even and upright grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.interpolate import interp1d

from ..errors import InputError
from .dicom import DicomSeries
from .dicom_choice import series_contrast
from .dicom_pixels import read_planes
from .dicom_repeats import one_pass
from .dicom_slice import DicomSlice
from .itk_bridge import LPS
from .volume import Volume, check_affine, check_overflow, check_size, straightened

__all__ = ["read_series", "volume_slices"]

#: Steps between slices may differ by this share of the usual one.
_UNEVEN = 0.4

#: A step longer than so many thicknesses has lost slices.
_MAX_GAP = 1.5


def volume_slices(series: DicomSeries) -> tuple[list[DicomSlice], list[str]]:
    """The images that make up the volume of a series, bottom to top, and notes on what was passed over.

    Raises:
        InputError: when the series is no volume, repeats positions, or its headers do not say where slices lie.
    """
    why = series.why_no_volume()
    if why:
        raise InputError(f"{series}: expected a CT or MRI volume, got {why}")
    main, scouts = series.stack()
    notes = list(series.notes)
    if scouts:
        notes.append(f"{len(scouts)} images of another orientation or size (scouts) passed over")
    _placed(series, main)
    dtype = np.dtype([("", np.uint8)] * 3) if main[0].samples > 1 else np.dtype(np.int16)
    places = {tuple(np.round(s.position, 2)) for s in main}
    check_size((*main[0].size, len(places)), dtype, str(series))
    slices, told = one_pass(series, main)
    return sorted(slices, key=lambda s: float(s.position @ _normal(slices))), [*notes, *told]


def read_series(series: DicomSeries) -> Volume:
    """Read a series of :func:`~roi_fusion.data.dicom.scan_dicom`.

    A thin base with a thick vault, as older CTs were taken, is resampled to the thinner spacing; a tilted gantry is
    straightened; scouts and images that are there twice are passed over. Notes tell all of it.

    Raises:
        InputError: when the series is no volume, lacks slices, repeats them, or its numbers overflowed.
    """
    slices, notes = volume_slices(series)
    heights, thin = _heights(series, slices)
    affine = _affine(series, slices, heights)
    check_affine(affine, (*slices[0].size, len(slices)), str(series))
    array, stored, told = read_planes(series, slices)
    volume = Volume(array, affine, str(series), series.modality.lower(), [*notes, *told])
    volume.contrast = series_contrast(series) if volume.modality == "mr" else ""
    padding = slices[0].padding
    if np.isfinite(padding):
        value = padding * _or(slices[0].slope, 1) + _or(slices[0].intercept, 0)
        check_overflow(volume, stored, value)
        volume.array[volume.array == value] = -1024 if volume.modality == "ct" else 0
    else:
        check_overflow(volume, stored)
    if volume.modality == "mr" and slices[0].inverted:
        volume.array = volume.array.max() + volume.array.min() - volume.array
        volume.notes.append("grey values inverted, as the header says that low ones are bright (MONOCHROME1)")
    return straightened(volume if thin is None else _evened(volume, heights, thin))


def _or(value: float, default: float) -> float:
    return value if np.isfinite(value) else default


def _placed(series: DicomSeries, slices: Sequence[DicomSlice]) -> None:
    """Refuse where a header does not say where a slice lies, or slices differ in size."""
    lost = [series.file(s.path) for s in slices if not s.placed]
    if lost:
        raise InputError(
            f"{series}: expected position, orientation and pixel spacing in every header, got {len(lost)} slices without "
            f"(such as {lost[0]})"
        )
    sizes = {(*s.size, *np.round(s.pixel_mm, 3)) for s in slices}
    if len(sizes) > 1:
        raise InputError(f"{series}: expected slices of one size and spacing, got {len(sizes)} kinds")


def _normal(slices: Sequence[DicomSlice]) -> np.ndarray:
    return np.cross(slices[0].orientation[:3], slices[0].orientation[3:])


def _heights(series: DicomSeries, slices: Sequence[DicomSlice]) -> tuple[np.ndarray, float | None]:
    """Height of every slice along the normal, and the spacing to resample to; None where the slices are even."""
    heights = np.array([float(s.position @ _normal(slices)) for s in slices])
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    if usual > 0 and gaps.max() <= (1 + _UNEVEN) * usual and gaps.min() >= (1 - _UNEVEN) * usual:
        return heights, None
    thickness = np.array([s.thickness_mm for s in slices])
    for join in range(2, len(gaps) - 2):
        lower, upper = gaps[:join], gaps[join + 1 :]
        both = float(np.median(lower)), float(np.median(upper))
        even = all(np.abs(g - m).max() < 0.05 * m for g, m in zip((lower, upper), both))
        whole = all(m <= _MAX_GAP * _or(t, m) for m, t in zip(both, (thickness[0], thickness[-1])))
        if even and whole and 0 < gaps[join] <= 1.05 * max(both) and max(both) <= 3 * min(both):
            return heights, min(both)
    index = int(np.argmax(np.abs(gaps - usual)))
    raise InputError(
        f"{series}: expected evenly spaced slices, got a step of {gaps[index]:.2f} mm where the others are {usual:.2f} mm "
        f"(after slice {index + 1} of {len(slices)}): slices are missing"
    )


def _affine(series: DicomSeries, slices: Sequence[DicomSlice], heights: np.ndarray) -> np.ndarray:
    """Index to RAS millimetres of the slices as they are counted; refused where they do not lie on one straight line."""
    positions = np.array([s.position for s in slices])
    travel = (positions[-1] - positions[0]) / (heights[-1] - heights[0])  # for each millimetre of height
    off = float(np.linalg.norm(positions[0] + np.outer(heights - heights[0], travel) - positions, axis=1).max())
    step = (heights[-1] - heights[0]) / (len(slices) - 1)
    if off > max(0.5 * step, 1.0):
        raise InputError(f"{series}: expected slices on one straight line, got one {off:.1f} mm off")
    first = slices[0]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.orientation[:3] * first.pixel_mm[1], first.orientation[3:] * first.pixel_mm[0]
    affine[:3, 2], affine[:3, 3] = travel * step, positions[0]
    return LPS @ affine


def _evened(volume: Volume, heights: np.ndarray, step: float) -> Volume:
    """The volume with slices every `step` mm; between two slices linear, along the tilt where there is one."""
    count = round((heights[-1] - heights[0]) / step) + 1
    at = np.minimum(heights[0] + step * np.arange(count), heights[-1])
    affine = volume.affine.copy()
    affine[:3, 2] *= step * (len(heights) - 1) / (heights[-1] - heights[0])
    steps = sorted({round(float(g), 1) for g in (np.diff(heights)[0], np.diff(heights)[-1])})
    told = f"slices every {steps[0]:g} mm and every {steps[-1]:g} mm resampled to every {step:.2g} mm"
    array = interp1d(heights, volume.array, axis=-1, assume_sorted=True)(at).astype(np.float32)
    return replace(volume, array=array, affine=affine, notes=[*volume.notes, told], forms={}, resampled=True)
