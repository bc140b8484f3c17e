# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Blood and calcium of a fused volume against a reference that no method sees.

``hyperdense_shown`` asks about voxels of the very mask that guidance pastes by, so a method that has the mask wins it. Here the
hyperdense region that a reader finds in the fused volume is compared with the truth of a phantom (``hyperdense_mask.nii.gz``
beside the images), or, where there is none, with what a reader's rule outlines on the CT. Neither is an input of any method.

The reader's rule. On the CT, after a 3x3 median in the slice: start where brain at least 5 mm from the skull is above 65 HU
over 0.1 mL or more; take the mean of the start; take the mean of the brain from 5 to 15 mm around it; outline all that hangs
together with the start, lies within 10 mm of it and 2 mm from the skull, and is nearer to the first mean than to the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage
from skimage.morphology import isotropic_dilation, isotropic_erosion

from ..core.masks import fill_slices

__all__ = ["HyperdenseReference", "hyperdense_dice", "readers_region", "shown_region"]

_START_HU, _START_ML, _START_MARGIN_MM = 65.0, 0.1, 5.0
_RING_MM = (5.0, 15.0)
_REACH_MM, _MARGIN_MM = 10.0, 2.0
#: CT number from which a reader of the fused volume calls a voxel hyperdense.
_SHOWN_HU = 45.0


def _space(brain: np.ndarray, bone: np.ndarray, spacing_mm: Sequence[float], margin_mm: float) -> np.ndarray:
    """Inside of the skull without a margin in plane: holes filled, and bays as wide as 12 mm."""
    out = fill_slices(brain)
    for k in np.flatnonzero(out.any((0, 1))):
        wide = isotropic_dilation(np.pad(out[..., k], 16), 6, spacing=spacing_mm[:2])
        closed = isotropic_erosion(wide, 6, spacing=spacing_mm[:2])[16:-16, 16:-16] & ~bone[..., k]
        out[..., k] = isotropic_erosion(np.pad(closed, 1, mode="edge"), margin_mm, spacing=spacing_mm[:2])[1:-1, 1:-1]
    return out


def readers_region(ct_hu: np.ndarray, brain: np.ndarray, bone: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """What the reader's rule of this module outlines on a CT.

    Args:
        ct_hu: CT in HU, ``[X, Y, Z]``.
        brain, bone: boolean masks of the same shape.
        spacing_mm: voxel size along the array axes, in mm.

    Returns:
        Boolean mask of the same shape.
    """
    seen = ndimage.median_filter(ct_hu.astype(np.float32), size=(3, 3, 1))
    start = _space(brain, bone, spacing_mm, _START_MARGIN_MM) & (seen > _START_HU)
    within = _space(brain, bone, spacing_mm, _MARGIN_MM)
    parts, count = ndimage.label(start)
    out = np.zeros(start.shape, bool)
    reach = [math.ceil(_RING_MM[1] / s) + 1 for s in spacing_mm]
    for n, at in enumerate(ndimage.find_objects(parts, count), start=1):
        box = tuple(slice(max(s.start - r, 0), s.stop + r) for s, r in zip(at, reach))
        own = parts[box] == n
        if own.sum() * float(np.prod(spacing_mm)) / 1000 < _START_ML:
            continue
        away = ndimage.distance_transform_edt(~own, sampling=spacing_mm)
        ring = within[box] & (away > _RING_MM[0]) & (away < _RING_MM[1]) & (seen[box] < _SHOWN_HU)
        brain_hu = float(seen[box][ring].mean()) if ring.any() else 35.0
        level = (float(seen[box][own].mean()) + brain_hu) / 2
        out[box] |= ndimage.binary_propagation(own, mask=own | (within[box] & (away <= _REACH_MM) & (seen[box] > level)))
    return out


class HyperdenseReference:
    """The reference of one case, the same for all methods that are measured on it.

    Args:
        brain, bone: boolean masks of the reference, ``[X, Y, Z]``.
        spacing_mm: voxel size along the array axes, in mm.
        truth: reads the boolean mask of true blood and calcium, same shape, once a metric asks for it; where it finds none, and
            without it, the reader's rule is asked.
    """

    def __init__(
        self,
        brain: np.ndarray,
        bone: np.ndarray,
        spacing_mm: Sequence[float],
        truth: Callable[[], np.ndarray | None] = lambda: None,
    ) -> None:
        self.brain, self.bone, self.spacing_mm, self._truth = brain, bone, tuple(spacing_mm), truth
        self._region: np.ndarray | None = None
        self._space: np.ndarray | None = None

    def regions(self, ct_hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The reference, and the inside of the skull that both regions are compared in, 2 mm from bone.

        Args:
            ct_hu: CT in HU, ``[X, Y, Z]``.
        """
        if self._region is None:
            self._region = self._truth()
        if self._region is None:
            self._region = readers_region(ct_hu, self.brain, self.bone, self.spacing_mm)
        if self._space is None:
            self._space = _space(self.brain, self.bone, self.spacing_mm, _MARGIN_MM)
        return self._region, self._space


def shown_region(fused: np.ndarray, mri: np.ndarray, ct: np.ndarray, fused_hu: np.ndarray, space: np.ndarray) -> np.ndarray:
    """What a reader of the fused volume sees as hyperdense: nearer to the CT than to the MRI, and above 45 HU when read as CT.

    Args:
        fused, mri, ct: in normalised units, ``[X, Y, Z]``; the CT as it is blended.
        fused_hu: the fused volume read as CT, in HU.
        space: boolean mask of where it is looked for.
    """
    return space & (np.abs(fused - ct) < np.abs(fused - mri)) & (fused_hu > _SHOWN_HU)


def hyperdense_dice(shown: np.ndarray, reference: np.ndarray) -> float:
    """Dice of both regions; NaN where the reference holds nothing, for then there is nothing to show.

    Example:
        >>> blood = np.array([1, 1, 0, 0], bool)
        >>> hyperdense_dice(np.array([1, 0, 0, 0], bool), blood), hyperdense_dice(blood, np.zeros(4, bool))
        (0.6666666666666666, nan)
    """
    if not reference.any():
        return math.nan
    return 2.0 * float((shown & reference).sum()) / float(shown.sum() + reference.sum())
