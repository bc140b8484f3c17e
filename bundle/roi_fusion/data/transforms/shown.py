# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What an MRI shows: the constant background of a skull-stripped brain or around a field of view is no tissue.

Statistics of the normalisation are taken over what is shown, or the zeros around a stripped brain would shift every value.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import ScaleIntensityRange, Transform
from monai.transforms.utils_pytorch_numpy_unification import percentile
from scipy import ndimage

from ...core.masks import fill_slices
from ...errors import InputError
from ..grids import like
from .loading import file_of

__all__ = ["ScaleShownd", "ShownRegiond", "background_of", "hidden_mask"]

#: Constant background inside the head below this share of it is left alone: air cells of a masked ADC map, say.
_LEAST_HIDDEN = 0.10
#: A volume has a constant background when one value takes this share of it.
_LEAST_BACKGROUND = 0.15


def background_of(volume: np.ndarray) -> float | None:
    """The constant value of a volume's background, None where no value takes 15 % of it.

    >>> background_of(np.pad(np.random.default_rng(0).random((8, 8, 8)), 4))
    0.0
    """
    values, counts = np.unique(volume[::2, ::2], return_counts=True)
    most = int(np.argmax(counts))
    return float(values[most]) if counts[most] >= _LEAST_BACKGROUND * counts.sum() else None


def hidden_mask(volume: np.ndarray) -> np.ndarray:
    """Where a volume ``[X, Y, Z]`` holds coherent constant background, boolean; single voxels of that value do not count."""
    background = background_of(volume)
    if background is None:
        return np.zeros(volume.shape, bool)
    flat = np.pad(volume == background, [(1, 1), (1, 1), (0, 0)], constant_values=True)
    return ndimage.binary_opening(flat, np.ones((3, 3, 1), bool))[1:-1, 1:-1]


class ShownRegiond(Transform):
    """Add ``mri_shown`` and ``ct_shown``, what each image shows; ``partly_shown``: the MRI hides a part of the head.

    The CT shows all of the head, the MRI what is not constant background. An image that is missing shows nothing, so that it is
    exactly 0 after the normalisation. What only the CT shows comes from the CT in the fused volume, so it joins ``dense``.

    Raises:
        InputError: when the MRI shows nothing inside the head.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        head = np.asarray(d["head"][0]) > 0
        nothing, mri = np.zeros_like(head), head
        d["partly_shown"] = 0.0
        if d.get("missing") != "mri":
            hidden = hidden_mask(np.asarray(d["image"][0])) & head
            if hidden.sum() > _LEAST_HIDDEN * max(int(head.sum()), 1):
                mri = fill_slices(head & ~hidden)
                d["partly_shown"] = 1.0
                if mri.sum() < 64:
                    raise InputError(
                        f"{file_of(d['image'])}: expected tissue inside the CT's head, got {int(mri.sum())} voxels"
                    )
                d["dense"] = like((np.asarray(d["dense"][0]) > 0) | (head & ~mri), d["dense"])
        d["mri_shown"] = like(nothing if d.get("missing") == "mri" else mri, d["head"])
        d["ct_shown"] = like(nothing if d.get("missing") == "ct" else head, d["head"])
        return d


class ScaleShownd(Transform):
    """Scale the MRI so that two percentiles reach `b_min` and `b_max`, and note in ``intensity`` how.

    As MONAI's ``ScaleIntensityRangePercentilesd`` over the whole volume; over what is shown alone where a part of the head is
    hidden or the MRI is alone, so that a stripped brain is scaled alike with a CT and without.

    Raises:
        InputError: when both percentiles are equal.
    """

    def __init__(
        self,
        key: str = "image",
        lower: float = 1,
        upper: float = 99,
        b_min: float = 0.05,
        b_max: float = 1.0,
        room: float = 1.0,
    ) -> None:
        self.key, self.lower, self.upper, self.b_min, self.b_max, self.room = key, lower, upper, b_min, b_max, room

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        plain = d[self.key].as_tensor()
        limits: Sequence[float] = (0.0, 1.0)
        if d.get("missing") != "mri":
            alone = d.get("missing") == "ct" or d["partly_shown"]
            values = plain[d["mri_shown"].as_tensor() > 0] if alone else plain
            limits = torch.as_tensor(percentile(values, (self.lower, self.upper))).tolist()
        low, high = limits
        if not high > low:
            raise InputError(
                f"{file_of(d[self.key])}: expected an MRI with contrast, "
                f"got {low:g} at both percentiles {self.lower} and {self.upper}"
            )
        d["intensity"] = {
            **d.get("intensity", {}),
            "mri_low": low,
            "mri_high": high,
            "lower": self.b_min,
            "upper": self.b_max,
            "room": self.room,
        }
        d[self.key] = ScaleIntensityRange(low, high, self.b_min, self.b_max, clip=False)(d[self.key])
        return d
