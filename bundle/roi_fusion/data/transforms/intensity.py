# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Transforms that scale MRI and CT and record the constants of the scaling."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from ...core.choices import HU_POINTS, SCALED_POINTS
from ...core.intensity import TYPICAL_SCALES, compand_hu, soft_knee
from ...errors import InputError
from .loading import file_of

__all__ = ["CompandHUd", "RecordMeanStdd", "SoftKneed"]


class SoftKneed(MapTransform):
    """:func:`~roi_fusion.core.intensity.soft_knee` beyond [`lower`, `upper`]."""

    def __init__(self, keys: KeysCollection, lower: float = 0.05, upper: float = 1.0, room: float = 1.0) -> None:
        super().__init__(keys)
        self.limits = (lower, upper, room)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = soft_knee(d[key], *self.limits)
        return d


class CompandHUd(MapTransform):
    """:func:`~roi_fusion.core.intensity.compand_hu`: HU → [0.05, 1] through fixed points."""

    def __init__(
        self,
        keys: KeysCollection,
        hu_points: Sequence[float] = HU_POINTS,
        scaled_points: Sequence[float] = SCALED_POINTS,
    ) -> None:
        super().__init__(keys)
        rising = all(b > a for points in (hu_points, scaled_points) for a, b in pairwise(points))
        if len(hu_points) != len(scaled_points) or len(hu_points) < 2 or not rising:
            raise InputError(
                f"hu_points and scaled_points: expected two rising lists of one length, got {hu_points} and {scaled_points}"
            )
        self.points = (tuple(map(float, hu_points)), tuple(map(float, scaled_points)))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = compand_hu(d[key].float(), *self.points)
        return d


class RecordMeanStdd(MapTransform):
    """Note in ``intensity`` the extremes over the head, and the mean and deviation that the following ``NormalizeIntensityd``
    removes.

    Args:
        keys: volumes that are exactly 0 outside the head.
        names: prefix of the two constants, one per key.
    """

    def __init__(self, keys: KeysCollection, names: Sequence[str] = ("mri", "ct")) -> None:
        super().__init__(keys)
        self.names = tuple(names)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        intensity = dict(d.get("intensity", {}))
        for key, name in self.key_iterator(d, self.names):
            if d.get("missing") == name:
                intensity[f"{name}_mean"], intensity[f"{name}_std"] = TYPICAL_SCALES[name]
                intensity[f"{name}_min"], intensity[f"{name}_max"] = 0.05, 1.0
                continue
            plain = d[key].as_tensor()
            values = plain[plain != 0]
            intensity[f"{name}_mean"], intensity[f"{name}_std"] = float(values.mean()), float(values.std(unbiased=False))
            intensity[f"{name}_min"], intensity[f"{name}_max"] = float(values.min()), float(values.max())
            if not intensity[f"{name}_std"] > 1e-6:
                raise InputError(f"{file_of(d[key])}: expected contrast inside the head, got a constant head")
        d["intensity"] = intensity
        return d
