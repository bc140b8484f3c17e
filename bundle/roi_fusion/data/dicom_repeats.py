# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Which images of a DICOM series are the volume, where several lie at one position: files that are there twice, b values,
directions, an ADC beside the images it was made of, magnitude and phase.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from .dicom import DicomSeries
from .dicom_pixels import read_planes
from .dicom_slice import REPEATS, DicomSlice

__all__ = ["one_pass"]

#: Of images that differ in ImageType, those with the first of these words are taken: a derived ADC map, the trace of
#: diffusion-weighted images, magnitudes.
_TYPES_IN_ORDER = (("ADC",), ("TRACEW", "TRACE", "ISOTROPIC"), ("M", "MAGNITUDE", "M_SE", "M_FFE"))


def one_pass(series: DicomSeries, slices: Sequence[DicomSlice]) -> tuple[list[DicomSlice], list[str]]:
    """The images with each position once, and notes on what was chosen.

    Images that are there twice count once. Of several kinds of images an ADC map is taken, else the trace, else magnitudes;
    of several b values the highest. Anything else that repeats is refused: echoes, passes, time points.

    Args:
        series: for messages.
        slices: all with a position.

    Raises:
        InputError: when positions repeat and nothing in the headers says which image to take.
    """
    kept, notes = _without_copies(slices)
    for tag in ("ImageType", "DiffusionBValue"):
        if not _repeats(kept):
            break
        groups = _groups(kept, tag)
        if len(groups) == 1:
            continue
        chosen = _by_type(groups) if tag == "ImageType" else max(groups, key=lambda b: float(b) if b else -1.0)
        if chosen is None:
            continue
        kept = groups[chosen]
        if tag == "ImageType":
            notes.append(f"of {len(groups)} kinds of images in one series, those of type {_word(kept[0])} taken")
        else:
            others = ", ".join(b or "none" for b in sorted(groups, key=lambda b: float(b) if b else -1.0) if b != chosen)
            notes.append(f"images of b value {chosen} taken, those of {others} passed over")
    if _repeats(kept):
        kept, told = _without_equals(series, kept)
        notes += told
    if not _repeats(kept):
        return kept, notes
    for tag in REPEATS:
        groups = _groups(kept, tag)
        if len(groups) > 1 and not any(_repeats(g) for g in groups.values()):
            raise InputError(f"{series}: expected one volume, got {len(groups)} that differ in {tag}")
    raise InputError(f"{series}: expected each slice position once, got positions that repeat")


def _repeats(slices: Sequence[DicomSlice]) -> bool:
    return len({_place(s) for s in slices}) < len(slices)


def _place(one: DicomSlice) -> tuple[float, ...]:
    return tuple(float(v) for v in np.round(one.position, 2) + 0.0)


def _groups(slices: Sequence[DicomSlice], tag: str) -> dict[str, list[DicomSlice]]:
    groups: dict[str, list[DicomSlice]] = {}
    for one in slices:
        groups.setdefault(one.repeats[tag], []).append(one)
    return groups


def _by_type(groups: dict[str, list[DicomSlice]]) -> str | None:
    for words in _TYPES_IN_ORDER:
        found = [text for text, group in groups.items() if group[0].kinds & set(words)]
        if len(found) == 1:
            return found[0]
        if found:
            return None
    return None


def _word(one: DicomSlice) -> str:
    return next(word for words in _TYPES_IN_ORDER for word in words if word in one.kinds)


def _without_copies(slices: Sequence[DicomSlice]) -> tuple[list[DicomSlice], list[str]]:
    """Files that are there twice, by the UID of the image."""
    seen: dict[tuple[str, int], DicomSlice] = {}
    for one in slices:
        seen.setdefault((one.uid or str(one.path), one.frame), one)
    copies = len(slices) - len(seen)
    return list(seen.values()), [f"{copies} images that are there twice counted once"] if copies else []


def _without_equals(series: DicomSeries, slices: Sequence[DicomSlice]) -> tuple[list[DicomSlice], list[str]]:
    """Images at one position with the same pixels, which were stored twice under two UIDs."""
    at: dict[tuple[float, ...], list[DicomSlice]] = {}
    for one in slices:
        at.setdefault(_place(one), []).append(one)
    for group in at.values():
        first, *others = (read_planes(series, [one])[0] for one in group)
        if any(not np.array_equal(first, other) for other in others):
            return list(slices), []
    copies = len(slices) - len(at)
    return [group[0] for group in at.values()], [f"{copies} images with the pixels of others at their place counted once"]
