# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What is said of a case's lesion: its volume, its interval or why there is none, and whether the weights know such cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..core.facts import CaseFacts, facts_of
from ..data.grids import spacing_of
from ..data.modes import mode_of
from ..metrics.calibration import volume_interval
from ..metrics.familiarity import CaseSignature, outside_training
from ..values import PREDICTION_CHANNELS

__all__ = ["apart_sentences", "lesion_statement", "signature_of", "unlike_training"]

#: Volume in mL from which a part that was told apart is worth a sentence.
_WORTH_SAYING_ML = 0.05


def signature_of(item: Mapping[str, Any], facts: CaseFacts) -> CaseSignature:
    """What a case is compared with known ones by.

    Args:
        item: the case after preprocessing.
        facts: that its prediction carries.
    """
    plausible = {k: float(v) for k, v in item.get("plausibility", {}).items()}
    spacing = [float(s) for s in spacing_of(item["image"])]
    head_ml = plausible.get("head_ct_ml", math.nan)
    numbers = {
        "plane_mm": max(spacing[:2]),
        "slice_mm": spacing[2],
        "slices": float(torch.as_tensor(item["image"]).shape[-1]),
        "head_ml": head_ml if math.isfinite(head_ml) else plausible.get("head_mri_ml", math.nan),
        "brain_ml": plausible.get("brain_ml", math.nan),
    }
    return CaseSignature(numbers, facts.contrast, facts.features)


def unlike_training(item: Mapping[str, Any], facts: CaseFacts, record: Mapping[str, Any]) -> list[str] | None:
    """In what a case is unlike all that the weights know, in words; None where nothing is known to compare with.

    Args:
        item: the case after preprocessing.
        facts: that its prediction carries.
        record: of the weights, see :func:`~roi_fusion.engine.weights.record_of`.
    """
    known = record.get("familiarity")
    return outside_training(signature_of(item, facts), known) if known else None


def lesion_statement(
    item: Mapping[str, Any], prediction: torch.Tensor, lesion_ml: float, record: Mapping[str, Any]
) -> dict[str, Any]:
    """The part of ``result.json`` about the lesion's volume.

    Args:
        item: the case after preprocessing.
        prediction: channels ``[6, X, Y, Z]`` of the inferer, with their facts.
        lesion_ml: volume of the mask.
        record: of the weights, see :func:`~roi_fusion.engine.weights.record_of`; its ``familiarity`` is what the weights know,
            its ``volume_quantiles`` are the interval's quantiles for the pair, the MRI alone and the CT alone.

    Returns:
        ``lesion_ml`` (None where a part of the brain was not seen and nothing was found), ``lesion_ml_is_lower_bound``,
        ``lesion_ml_interval`` with ``lesion_ml_interval_note`` where it is None, ``lesion_in_fluid_ml``,
        ``lesion_outside_brain_ml``, and ``outside_training``, None where nothing is known to compare with.
    """
    facts = facts_of(prediction)
    spacing = spacing_of(item["image"])
    unknown = unlike_training(item, facts, record)
    unseen = float(item.get("plausibility", {}).get("brain_unseen", 0.0)) > 0
    mode = mode_of(str(item.get("missing") or ""))
    quantiles = record.get("volume_quantiles") or {"pair": facts.volume_quantile}
    quantile = float(quantiles.get(mode, -1.0))
    note = None
    if unseen:  # what was not seen has no volume, and what was found is a part of it
        note = "a part of the brain was not seen"
    elif unknown:
        note = "outside of what the weights were trained on: " + "; ".join(unknown)
    elif quantile < 0:
        of = {"pair": "", "mri": " for the MRI alone", "ct": " for the CT alone"}[mode]
        note = f"the weights were not calibrated{of}"
    interval = None
    if note is None:
        probability = torch.as_tensor(prediction[PREDICTION_CHANNELS.index("lesion_prob")])
        interval = volume_interval(lesion_ml, probability, float(np.prod(spacing)) / 1000, quantile)
    return {
        "lesion_ml": None if unseen and not lesion_ml else round(lesion_ml, 4),
        "lesion_ml_is_lower_bound": unseen,
        "lesion_ml_interval": None if interval is None else [round(v, 4) for v in interval],
        "lesion_ml_interval_note": note,
        "lesion_in_fluid_ml": round(facts.lesion_in_fluid_ml, 4),
        "lesion_outside_brain_ml": round(facts.lesion_outside_brain_ml, 4),
        "outside_training": unknown,
    }


def apart_sentences(statement: Mapping[str, Any]) -> list[str]:
    """What was found where no stroke lesion lies, one sentence each."""
    places = {"lesion_in_fluid_ml": "in what the CT shows as fluid", "lesion_outside_brain_ml": "outside the brain"}
    return [
        f"{statement[key]:.2f} mL were found {where} and are not counted as lesion"
        for key, where in places.items()
        if statement[key] >= _WORTH_SAYING_ML
    ]
