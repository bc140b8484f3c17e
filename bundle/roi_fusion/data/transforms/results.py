# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Transforms that turn the network's prediction into result volumes in the MRI's units."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ...core.facts import facts_of
from ...core.intensity import IntensityMap, fusion_sources
from ...values import PREDICTION_CHANNELS

__all__ = ["FusionResultd", "MaskOutsided"]


class FusionResultd(MapTransform):
    """Split the inferer's output into result volumes ``[1, X, Y, Z]``.

    ``pred`` becomes the lesion mask (uint8); added are ``fused`` and ``residual`` in MRI units (the residual is what the fused
    volume would lose without its residual term), ``lesion_prob``, ``uncertainty`` and ``provenance``. The provenance is NaN
    where MRI and CT agree too closely to tell. The inferer's output stays as ``prediction``.

    Args:
        keys: the inferer's output, ``[6, X, Y, Z]``.
        threshold: lesion probability above which a voxel is lesion; None takes the one of the weights, which the inferer's
            output carries (see :func:`~roi_fusion.core.facts.facts_of`).
        agreement: difference of the blended MRI and CT, in normalised units, below which the provenance is left open.
    """

    def __init__(self, keys: str = "pred", threshold: float | None = None, agreement: float = 0.1) -> None:
        super().__init__(keys)
        self.threshold, self.agreement = threshold, agreement

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        # MONAI Label leaves the prediction on the device and the case's volumes on the CPU.
        pred, image = d[self.keys[0]].cpu(), torch.as_tensor(d["image"]).cpu()
        channel = {n: torch.as_tensor(pred[i : i + 1]) for i, n in enumerate(PREDICTION_CHANNELS)}
        threshold = facts_of(pred).lesion_threshold if self.threshold is None else self.threshold
        intensity = IntensityMap.from_case(d["intensity"])
        head = (image != 0).any(dim=0, keepdim=True)
        zero = torch.zeros_like(channel["fused"])
        fused = intensity.normalised_to_mri_units(channel["fused"])
        without = intensity.normalised_to_mri_units(channel["fused"] - channel["residual"])
        mri, ct = fusion_sources(image[None])
        open_question = (mri - ct)[0].abs() < self.agreement
        out = {
            "pred": ((channel["lesion_prob"] > threshold) & head).to(torch.uint8),
            "fused": torch.where(head, fused, zero),
            "residual": torch.where(head, fused - without, zero),
            "lesion_prob": torch.where(head, channel["lesion_prob"], zero),
            "uncertainty": torch.where(head, channel["uncertainty"], zero),
            "provenance": torch.where(head & ~open_question, channel["provenance"], torch.full_like(zero, float("nan"))),
        }
        for key, volume in out.items():
            d[key] = MetaTensor(volume, meta=getattr(pred, "meta", None)) if isinstance(pred, MetaTensor) else volume
        d["prediction"] = pred
        d["inside"] = (
            MetaTensor(head.to(torch.uint8), meta=getattr(pred, "meta", None)) if isinstance(pred, MetaTensor) else head
        )
        return d


class MaskOutsided(MapTransform):
    """After the inversion to the MRI's grid: outside the head NaN in `nan_keys`, exactly 0 in the others."""

    def __init__(self, keys: Any, inside_key: str = "inside", nan_keys: Any = ("provenance",)) -> None:
        super().__init__(keys)
        self.inside_key, self.nan_keys = inside_key, tuple(nan_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        inside = torch.as_tensor(d[self.inside_key]) > 0
        for key in self.key_iterator(d):
            outside = float("nan") if key in self.nan_keys else 0
            d[key] = torch.where(inside, d[key], torch.full_like(d[key], outside))
        return d
