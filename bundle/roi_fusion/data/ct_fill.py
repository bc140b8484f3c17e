# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Where a CT shows nothing: the padding of scanners and the constant fill of registration programs."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

__all__ = ["AIR_HU", "constant_border", "repair_ct"]

#: Air, and what stands where a CT shows nothing.
AIR_HU = -1024.0
#: Below this no tissue and no air lies: padding of the scanner. A CT number of air is -1000, noise reaches -1100. Higher would
#: clip noise, lower would leave padding in the statistics.
PADDING_HU = -1100.0
#: A constant at the border above this is no air but the fill of a registration (0 HU is water), or the window's floor.
FILL_HU = -500.0
#: Share of a CT below :data:`PADDING_HU` that is said; noise alone reaches there in some voxels.
PADDING_SHARE = 0.005


def constant_border(array: np.ndarray, above: float = -math.inf) -> np.ndarray:
    """Where an array holds exactly one value from its border inwards: what a program filled in, not what a scanner measured.

    Args:
        array: ``[X, Y, Z]``.
        above: values up to this do not count, unless they fill whole planes.

    Returns:
        Boolean: parts of one value that holds a fifth or more of a face, that touch the border and take a thousandth of the
        volume or more; and whole planes of one value at either end of an axis.
    """
    out = np.zeros(array.shape, bool)
    values = set()
    for axis in range(3):
        for end in (0, -1):
            seen, counts = np.unique(array.take(end, axis), return_counts=True)
            if counts.max() >= 0.2 * counts.sum() and seen[counts.argmax()] > above:
                values.add(float(seen[counts.argmax()]))
        others = tuple(a for a in range(3) if a != axis)
        flat = array.min(others) == array.max(others)
        varied = np.flatnonzero(~flat)
        if varied.size:
            inner = slice(varied[0], varied[-1] + 1)
            flat[inner] = False
        out[tuple(flat if a == axis else slice(None) for a in range(3))] = True
    for value in values:
        parts, _ = ndimage.label(array == value)
        sizes = np.bincount(parts.ravel())
        at_border = {int(n) for axis in range(3) for end in (0, -1) for n in np.unique(parts.take(end, axis))} - {0}
        large = [n for n in at_border if sizes[n] >= max(array.size // 1000, 8)]
        out |= np.isin(parts, large)
    return out


def repair_ct(ct_hu: np.ndarray, where: str = "CT") -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Air where a CT shows nothing: padding below any CT number, and the constant fill of registration programs.

    Args:
        ct_hu: CT, ``[X, Y, Z]``.
        where: its file, for the sentences.

    Returns:
        The CT; where nothing was measured (boolean; whole planes of air too); and sentences on what was changed.
    """
    notices = []
    padding = ct_hu < PADDING_HU
    unseen = constant_border(ct_hu, above=FILL_HU)
    fill = unseen & (ct_hu > FILL_HU)
    if padding.mean() >= PADDING_SHARE:
        notices.append(
            f"{where}: {100 * padding.mean():.1f} % of the CT is padding down to {ct_hu.min():g}, taken for air ({AIR_HU:g} HU)"
        )
    if fill.any():
        notices.append(
            f"{where}: {100 * fill.mean():.1f} % of the CT is filled with {ct_hu[fill].flat[0]:g} from the border inwards, "
            "taken for not measured and set to air"
        )
    if not padding.any() and not fill.any():
        return ct_hu, unseen, notices
    return np.where(padding | fill, np.asarray(AIR_HU, ct_hu.dtype), ct_hu), unseen, notices
