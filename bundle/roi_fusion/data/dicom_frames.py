# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The images of one DICOM file: of enhanced multi-frame files each frame, of a mosaic each tile."""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .dicom_slice import REPEATS, DicomSlice, b_value, number_of, numbers_of, text_of

__all__ = ["slices_of", "whole_root"]

logger = logging.getLogger(__name__)

#: What tells the frames at one position apart: the functional group, its tag, and the tag of single images that means the same.
_FRAME_REPEATS = (
    ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("MRImageFrameTypeSequence", "FrameType", "ImageType"),
    ("CTImageFrameTypeSequence", "FrameType", "ImageType"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    ("FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"),
)


def slices_of(path: Path, header: Any) -> list[DicomSlice]:
    """The images of a file by its header; a file without functional groups and tiles holds one."""
    one = DicomSlice.of(path, header)
    if "MOSAIC" in one.kinds:
        return _tiles(one)
    per_frame = _items(header, "PerFrameFunctionalGroupsSequence")
    if not per_frame:
        return [one]
    shared = next(iter(_items(header, "SharedFunctionalGroupsSequence")), None)
    return [_frame(one, number, [frame, shared]) for number, frame in enumerate(per_frame, start=1)]


def _items(header: Any, tag: str) -> list[Any]:
    try:
        return list(header.get(tag) or [])
    except Exception:  # see text_of
        return []


def _frame(one: DicomSlice, number: int, groups: list[Any]) -> DicomSlice:
    """A frame of a multi-frame file; what stands in its own groups comes before what all share."""

    def group(name: str) -> Any:
        found = (item for g in groups if g is not None for item in _items(g, name))
        return next(found, {})

    repeats = {tag: one.repeats[tag] for tag in REPEATS}
    for name, tag, plain in _FRAME_REPEATS:
        repeats[plain] = text_of(group(name), tag) or repeats[plain]
    repeats["DiffusionBValue"] = b_value(group("MRDiffusionSequence")) or repeats["DiffusionBValue"]
    scaling = group("PixelValueTransformationSequence")
    measures = group("PixelMeasuresSequence")
    return replace(
        one,
        position=numbers_of(group("PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation=numbers_of(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        pixel_mm=numbers_of(measures, "PixelSpacing", 2),
        thickness_mm=number_of(measures, "SliceThickness"),
        kinds=one.kinds | frozenset(re.findall(r"[A-Z0-9_]+", repeats["ImageType"].upper())),
        slope=number_of(scaling, "RescaleSlope"),
        intercept=number_of(scaling, "RescaleIntercept"),
        repeats=repeats,
        frame=number,
    )


def _tiles(one: DicomSlice) -> list[DicomSlice]:
    """The slices of a mosaic, in which Siemens wrote a volume as one image; their places are as nibabel reads them.

    A mosaic whose private header cannot be read stays one image without a position, which the reader refuses.
    """
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns on import that only Siemens' files work: these are Siemens' own
        from nibabel.nicom.dicomwrappers import MosaicWrapper

    try:
        wrapper = MosaicWrapper(pydicom.dcmread(one.path, stop_before_pixels=True, force=True))
        rows, columns, count = (int(n) for n in wrapper.image_shape)
        affine = np.asarray(wrapper.affine, dtype=float)  # rows, columns and slices to LPS millimetres
    except Exception as e:  # whatever a junk header raises
        logger.warning("%s: expected the places of a mosaic's slices in its header, got none (%s)", one.path, str(e)[:120])
        return [replace(one, position=np.full(3, np.nan))]
    tiles = whole_root(count) ** 2
    return [
        replace(one, position=affine[:3, 3] + k * affine[:3, 2], size=(columns, rows), frame=k + 1, tiles=tiles)
        for k in range(count)
    ]


def whole_root(count: int) -> int:
    """Tiles along an edge of the square that holds so many."""
    return int(np.ceil(np.sqrt(count)))
