# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What a prediction says about itself beside its channels. It travels as meta data of the prediction's tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError

__all__ = ["SPREAD_CAUSES", "CaseFacts", "facts_of", "facts_to_meta"]

#: What draws differ by: the noise alone, the mirrored input alone, both.
SPREAD_CAUSES = ("noise", "mirror", "both")

#: Keys of the meta data.
_KEYS = ("lesion_threshold", "volume_quantile", "guidance_energy", "lesion_spread", "lesion_apart_ml", "contrast", "features")


@dataclass(frozen=True)
class CaseFacts:
    """Facts about the prediction of one case.

    Attributes:
        lesion_threshold: lesion probability above which a voxel belongs to the mask; a constant of the weights.
        volume_quantile: quantile of the interval of the lesion volume, see
            :func:`~roi_fusion.metrics.calibration.volume_interval`; negative where the weights were not calibrated.
        guidance_energy: regional energy before and after each guided step of the first draw; empty without guidance.
        lesion_spread: mean deviation of the lesion probability between draws by its cause, see :data:`SPREAD_CAUSES`; None
            where it cannot be told.
        lesion_in_fluid_ml, lesion_outside_brain_ml: what was found there and taken away, see
            :func:`~roi_fusion.core.lesion_places.set_apart`.
        contrast: of :func:`~roi_fusion.core.contrast.contrast_facts`, ``[37]``; empty where nothing was recorded.
        features: mean of the network's deepest image features over the head, ``[C]``; empty where nothing was recorded.
    """

    lesion_threshold: float = 0.5
    volume_quantile: float = -1.0
    guidance_energy: Sequence[Sequence[float]] = ()
    lesion_spread: Mapping[str, float | None] | None = None
    lesion_in_fluid_ml: float = 0.0
    lesion_outside_brain_ml: float = 0.0
    contrast: Sequence[float] = ()
    features: Sequence[float] = ()


def facts_to_meta(facts: Sequence[CaseFacts]) -> dict[str, torch.Tensor]:
    """Facts of the cases of a batch as meta data of a ``MetaTensor``: tensors ``[B, …]``, which MONAI's decollation splits.

    Example:
        >>> meta = facts_to_meta([CaseFacts(0.3), CaseFacts(0.3)])
        >>> meta["lesion_threshold"].shape
        torch.Size([2])
    """
    spreads = [[(f.lesion_spread or {}).get(cause) for cause in SPREAD_CAUSES] for f in facts]
    columns = (
        [f.lesion_threshold for f in facts],
        [f.volume_quantile for f in facts],
        [[list(pair) for pair in f.guidance_energy] for f in facts],
        [[math.nan if v is None else v for v in spread] for spread in spreads],
        [[f.lesion_in_fluid_ml, f.lesion_outside_brain_ml] for f in facts],
        [list(f.contrast) for f in facts],
        [list(f.features) for f in facts],
    )
    return {key: torch.tensor(column, dtype=torch.float64) for key, column in zip(_KEYS, columns)}


def facts_of(prediction: Any) -> CaseFacts:
    """Facts that the prediction of one case carries.

    Args:
        prediction: ``MetaTensor`` ``[6, X, Y, Z]`` of one case, taken from the inferer's batch by decollation or by index.

    Raises:
        InputError: when the tensor carries none.

    Example:
        >>> from monai.data import MetaTensor
        >>> facts_of(MetaTensor(torch.zeros(6, 4, 4, 2), meta=facts_to_meta([CaseFacts(0.3)]))).lesion_threshold
        0.3
    """
    meta = getattr(prediction, "meta", {})
    missing = [key for key in _KEYS if key not in meta]
    if missing:
        raise InputError(f"prediction: expected one of SamplingInferer with its {missing[0]}, got a tensor without")
    # An index into a batch of one leaves its axis in the meta data, decollation removes it.
    threshold, quantile, energy, spread, apart, contrast, features = (
        torch.as_tensor(meta[key], dtype=torch.float64) for key in _KEYS
    )
    causes = zip(SPREAD_CAUSES, spread.reshape(3).tolist())
    in_fluid, outside = apart.reshape(2).tolist()
    return CaseFacts(
        lesion_threshold=float(threshold.reshape(())),
        volume_quantile=float(quantile.reshape(())),
        guidance_energy=energy.reshape(-1, 2).tolist() if energy.numel() else [],
        lesion_spread={cause: None if math.isnan(value) else value for cause, value in causes},
        lesion_in_fluid_ml=in_fluid,
        lesion_outside_brain_ml=outside,
        contrast=contrast.reshape(-1).tolist(),
        features=features.reshape(-1).tolist(),
    )
