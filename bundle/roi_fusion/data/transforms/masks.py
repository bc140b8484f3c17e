# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Transforms that add the head, brain, bone and hyperdense masks of a case."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.transforms import Transform
from scipy import ndimage

from ...core.blood import closed_brain, hyperdense_mask
from ...core.masks import cranial_masks, fill_slices, head_mask, largest_component
from ...errors import InputError
from ..grids import like, spacing_of
from .loading import file_of
from .shown import hidden_mask

__all__ = ["HeadMaskd", "RoiMasksd"]

#: Where everything but the background is this many times as large as what Otsu's threshold finds, it holds noisy air.
_MOST_BEYOND_OTSU = 1.6


class HeadMaskd(Transform):
    """Add ``head`` (uint8) from the CT: above `threshold_hu`, largest component, filled; MRI where there is no CT.

    Of an MRI with a constant background, such as a skull-stripped brain, the head is what is not background: Otsu's threshold
    would cut off its dark fluid. A ``head`` that a sample already has stays.

    Raises:
        InputError: when no head is found.
    """

    def __init__(
        self, ct_key: str = "ct", image_key: str = "image", head_key: str = "head", threshold_hu: float = -300.0
    ) -> None:
        self.ct_key, self.image_key, self.head_key, self.threshold_hu = ct_key, image_key, head_key, threshold_hu

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if self.head_key in d:
            return d
        source = self.ct_key if self.ct_key in d and d.get("missing") != "ct" else self.image_key
        volume = d[source]
        mask = head_mask(
            np.asarray(volume[0]),
            spacing_of(volume),
            modality="ct" if source == self.ct_key else "mri",
            threshold_hu=self.threshold_hu,
        )
        if mask.sum() < 64:
            raise InputError(f"{file_of(volume)}: expected a head, got {int(mask.sum())} voxels of tissue")
        if source == self.image_key:
            mask = _beyond_background(np.asarray(volume[0]), mask)
        d[self.head_key] = like(mask, d[self.image_key])
        return d


def _beyond_background(volume: np.ndarray, by_otsu: np.ndarray) -> np.ndarray:
    """What of an MRI is not constant background; Otsu's mask where there is none, or where noisy air lies around the head."""
    hidden = hidden_mask(volume)
    if not hidden.any():
        return by_otsu
    square = np.ones((3, 3, 1), bool)
    core = largest_component(ndimage.binary_opening(~hidden, square))
    shown = fill_slices(ndimage.binary_dilation(core, square) & ~hidden)  # with the tips that the opening cut off
    return shown if 64 <= shown.sum() <= _MOST_BEYOND_OTSU * float(by_otsu.sum()) else by_otsu


class RoiMasksd(Transform):
    """Add the regions that a case does not bring: ``brain``, ``bone`` and ``dense`` (blood or calcium) from the CT in HU;
    ``brain_known`` and ``bone_known`` say which it did bring.

    Masks that are present stay; the brain is limited to the head. Bone wins where it meets the brain. Without a CT no bone is
    known and the whole head counts as brain; without an MRI all of the head is ``dense``, to be taken from the CT.

    Raises:
        InputError: when neither file nor CT gives a brain.
    """

    def __init__(self, ct_key: str = "ct", head_key: str = "head") -> None:
        self.ct_key, self.head_key = ct_key, head_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        volume = d[self.ct_key]
        ct, head, spacing = np.asarray(volume[0]), np.asarray(d[self.head_key][0]) > 0, spacing_of(volume)
        given = {key: np.asarray(d[key][0]) > 0 for key in ("bone", "brain") if key in d}
        d.update({f"{key}_known": float(key in given) for key in ("bone", "brain")})
        if d.get("missing") == "ct":
            given = {"brain": head, **given, "bone": np.zeros_like(head)}
        bone, brain = cranial_masks(ct, head, spacing, **given)
        brain &= head
        if not brain.any():
            raise InputError(f"{file_of(volume)}: expected a brain inside the skull, found none in the CT")
        dense = head if d.get("missing") == "mri" else hyperdense_mask(ct, closed_brain(brain, bone, spacing), spacing)
        for key, mask in (("bone", bone & head), ("brain", brain), ("dense", dense)):
            d[key] = like(mask, volume)
        return d
