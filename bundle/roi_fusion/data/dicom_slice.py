# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the header of one DICOM image says, whatever junk it holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["B_VALUE_TAGS", "REPEATS", "DicomSlice", "b_value", "number_of", "numbers_of", "text_of", "whole_of"]

#: Tags that tell apart the images at one position of a series: b values, echoes, magnitude and phase, passes, time points.
REPEATS = ("DiffusionBValue", "EchoTime", "ImageType", "AcquisitionNumber", "TemporalPositionIdentifier")

#: Where makers put the b value before DICOM had a tag for it: Siemens, Philips, GE.
B_VALUE_TAGS = (0x0019100C, 0x20011003, 0x00431039)


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
        samples: numbers a pixel.
        kinds: ImageType in capitals.
        slope, intercept: of the stored numbers; NaN where the tag is missing.
        padding: stored number that is none; NaN where there is none such.
        repeats: text of the tags of :data:`REPEATS`.
        uid: SOPInstanceUID.
        inverted: whether low numbers are meant to be bright (MONOCHROME1).
        frame: number of the image in a file that holds several, from 1; 0 in a file that holds one.
        tiles: images in the square of a mosaic, which the frames are cut from; 0 where it is none.
    """

    path: Path
    position: np.ndarray
    orientation: np.ndarray
    pixel_mm: np.ndarray
    thickness_mm: float
    size: tuple[int, int]
    samples: int
    kinds: frozenset[str]
    slope: float
    intercept: float
    padding: float
    repeats: dict[str, str]
    uid: str = ""
    inverted: bool = False
    frame: int = 0
    tiles: int = 0

    @classmethod
    def of(cls, path: Path, header: Any) -> DicomSlice:
        """From a pydicom header, whatever junk it holds."""
        columns, rows = (whole_of(header, t) for t in ("Columns", "Rows"))
        return cls(
            path=path,
            position=numbers_of(header, "ImagePositionPatient", 3),
            orientation=numbers_of(header, "ImageOrientationPatient", 6),
            pixel_mm=numbers_of(header, "PixelSpacing", 2),
            thickness_mm=number_of(header, "SliceThickness"),
            size=(columns, rows),
            samples=whole_of(header, "SamplesPerPixel") or 1,
            kinds=frozenset(re.findall(r"[A-Z0-9_]+", text_of(header, "ImageType").upper())),
            slope=number_of(header, "RescaleSlope"),
            intercept=number_of(header, "RescaleIntercept"),
            padding=number_of(header, "PixelPaddingValue"),
            repeats={**{tag: text_of(header, tag) for tag in REPEATS}, "DiffusionBValue": b_value(header)},
            uid=text_of(header, "SOPInstanceUID"),
            inverted=text_of(header, "PhotometricInterpretation") == "MONOCHROME1",
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


def text_of(header: Any, tag: str | int) -> str:
    """A tag as text; empty where there is none that can be read."""
    try:
        return str(header.get(tag) or "")
    except Exception:  # pydicom converts a value when it is asked for, and raises what the junk leads it to
        return ""


def numbers_of(header: Any, tag: str, count: int) -> np.ndarray:
    """The numbers of a tag; NaN where there are not so many that can be read."""
    try:
        values = np.array([float(v) for v in header.get(tag)])
    except Exception:  # see text_of; also None and a single number
        values = np.empty(0)
    return values if len(values) == count else np.full(count, np.nan)


def number_of(header: Any, tag: str) -> float:
    """The number of a tag; NaN where there is none that can be read."""
    try:
        return float(header.get(tag))
    except Exception:  # see text_of
        return float("nan")


def whole_of(header: Any, tag: str) -> int:
    """The whole number of a tag; 0 where there is none that can be read."""
    value = number_of(header, tag)
    return int(value) if np.isfinite(value) else 0


def b_value(header: Any) -> str:
    """The b value as text, from DICOM's own tag or that of a maker; empty where there is none that can be read."""
    own = number_of(header, "DiffusionBValue")
    if np.isfinite(own):
        return f"{own:g}"
    for tag in B_VALUE_TAGS:
        try:
            value = header[tag].value
            value = value if isinstance(value, (str, bytes)) or not hasattr(value, "__getitem__") else value[0]
            text = value.decode("ascii") if isinstance(value, bytes) else str(value)
            return f"{float(text.split(chr(92))[0]) % 1e9:g}"  # GE adds a billion
        except Exception:  # absent, or junk
            continue
    return ""
