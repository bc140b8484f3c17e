# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Transforms that turn the network's prediction into result volumes in the MRI's units."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ...core.choices import HU_POINTS, SCALED_POINTS
from ...core.conflict import conflict_mask
from ...core.facts import facts_of
from ...core.intensity import IntensityMap, expand_hu, fusion_sources
from ...values import PREDICTION_CHANNELS
from ..grids import spacing_of

__all__ = ["FusionResultd", "MaskOutsided", "display_range"]

#: Percentiles of the brain that a viewer shows black and white: fluid and vessels keep a step, and bone, which lies far above
#: the brain, is white.
_BLACK, _WHITE = 0.5, 99.5


def display_range(fused: torch.Tensor, brain: torch.Tensor, share: torch.Tensor) -> tuple[float, float] | None:
    """Least and greatest value that a viewer should show of a fused volume for its brain to be seen.

    Args:
        fused: in MRI units, any shape.
        brain: mask of the brain, same shape.
        share: share of the MRI, same shape; blood and calcium, which come from the CT, do not count.

    Returns:
        Two rising values in MRI units; None where the brain is empty or flat.

    Example:
        >>> fused = torch.linspace(0, 1000, 1001)
        >>> display_range(fused, fused < 500, torch.ones(1001))
        (2.5, 496.5)
    """
    inside = torch.as_tensor(brain) > 0
    mri = inside & (torch.as_tensor(share) >= 0.5)
    values = np.asarray(torch.as_tensor(fused)[mri if bool(mri.any()) else inside], dtype=np.float64)
    if not values.size:
        return None
    low, high = (round(float(v), 4) for v in np.percentile(values, (_BLACK, _WHITE)))
    return (low, high) if high > low else None


class FusionResultd(MapTransform):
    """Split the inferer's output into result volumes ``[1, X, Y, Z]``.

    ``pred`` becomes the lesion mask (uint8); added are ``fused`` and ``residual`` in MRI units (the residual is what the fused
    volume would lose without its residual term), ``lesion_prob``, ``uncertainty``, ``provenance`` and ``conflict``, 1 where the
    CT's bone lies over brain of the MRI (:mod:`~roi_fusion.core.conflict`). The provenance is NaN where MRI and CT agree too
    closely to tell. ``display_range`` is that of :func:`display_range`, for :class:`MaskOutsided`. The inferer's output stays
    as ``prediction``.

    Args:
        keys: the inferer's output, ``[6, X, Y, Z]``.
        threshold: lesion probability above which a voxel is lesion; None takes the one of the weights, which the inferer's
            output carries (see :func:`~roi_fusion.core.facts.facts_of`).
        agreement: difference of the blended MRI and CT, in normalised units, below which the provenance is left open.
        hu_points, scaled_points: the curve that the CT was companded with, see :func:`~roi_fusion.core.intensity.compand_hu`.
    """

    def __init__(
        self,
        keys: str = "pred",
        threshold: float | None = None,
        agreement: float = 0.1,
        hu_points: Sequence[float] = HU_POINTS,
        scaled_points: Sequence[float] = SCALED_POINTS,
    ) -> None:
        super().__init__(keys)
        self.threshold, self.agreement, self.curve = threshold, agreement, (hu_points, scaled_points)

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
            "conflict": self._conflict(d, intensity),
        }
        d["display_range"] = display_range(out["fused"], torch.as_tensor(d["brain"]).cpu(), channel["provenance"])
        for key, volume in out.items():
            d[key] = MetaTensor(volume, meta=getattr(pred, "meta", None)) if isinstance(pred, MetaTensor) else volume
        d["prediction"] = pred
        d["inside"] = (
            MetaTensor(head.to(torch.uint8), meta=getattr(pred, "meta", None)) if isinstance(pred, MetaTensor) else head
        )
        return d

    def _conflict(self, d: Mapping[Hashable, Any], intensity: IntensityMap) -> torch.Tensor:
        """Where bone of the CT lies over brain of the MRI, uint8 ``[1, X, Y, Z]``; 0 of a case that lacks one of both."""
        mri, ct = torch.as_tensor(d["image"]).cpu().float()
        if d.get("missing") or not bool((mri != 0).any()) or not bool((ct != 0).any()):
            return torch.zeros_like(mri, dtype=torch.uint8)[None]
        hu = torch.where(ct != 0, expand_hu(intensity.normalised_to_ct_scale(ct), *self.curve), torch.full_like(ct, -1000.0))
        shown = torch.where(mri != 0, mri, mri.min())  # what a stripped MRI hides is dark, not its mean
        brain, bone = (np.asarray(torch.as_tensor(d[k]).cpu()[0]) > 0 for k in ("brain", "bone"))
        found = conflict_mask(shown.numpy(), hu.numpy(), brain, bone, spacing_of(d["image"]))
        return torch.from_numpy(found.astype(np.uint8))[None]


class MaskOutsided(MapTransform):
    """After the inversion to the MRI's grid: outside the head NaN in `nan_keys`, exactly 0 in the others.

    ``fused`` gets the case's ``display_range`` as ``cal_min`` and ``cal_max`` in its meta data, which
    :func:`~roi_fusion.data.results.write_volume` writes: here, because an inversion does not keep meta data.
    """

    def __init__(self, keys: Any, inside_key: str = "inside", nan_keys: Any = ("provenance",)) -> None:
        super().__init__(keys)
        self.inside_key, self.nan_keys = inside_key, tuple(nan_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        inside = torch.as_tensor(d[self.inside_key]) > 0
        for key in self.key_iterator(d):
            outside = float("nan") if key in self.nan_keys else 0
            d[key] = torch.where(inside, d[key], torch.full_like(d[key], outside))
        if isinstance(d.get("fused"), MetaTensor) and d.get("display_range"):
            d["fused"].meta["cal_min"], d["fused"].meta["cal_max"] = d["display_range"]
        return d
