# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from roi_fusion.core.facts import CaseFacts, facts_to_meta
from roi_fusion.engine.lesion_statement import apart_sentences, lesion_statement
from roi_fusion.metrics.familiarity import CaseSignature, fit_familiarity
from roi_fusion.values import PREDICTION_CHANNELS


def case(**more: Any) -> dict[str, Any]:
    affine = torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0]))
    facts = {"head_ct_ml": 3000.0, "head_mri_ml": 2800.0, "brain_ml": 1300.0, "brain_unseen": 0.0}
    return {"image": MetaTensor(torch.zeros(2, 8, 8, 20), affine=affine), "plausibility": facts, **more}


def prediction(quantile: float = 1.0, in_fluid_ml: float = 0.0) -> torch.Tensor:
    channels = torch.zeros(1, len(PREDICTION_CHANNELS), 8, 8, 20)
    channels[:, PREDICTION_CHANNELS.index("lesion_prob"), :4, :4, :4] = 0.5
    facts = CaseFacts(0.5, quantile, lesion_in_fluid_ml=in_fluid_ml, contrast=[0.0] * 4, features=[0.0] * 6)
    return MetaTensor(channels, meta=facts_to_meta([facts]))[0]


def familiarity(slice_mm: float) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    numbers = {"plane_mm": 1.0, "slices": 20.0, "head_ml": 3000.0, "brain_ml": 1300.0, "slice_mm": slice_mm}
    cases = [CaseSignature(numbers, rng.normal(0, 1, 4).tolist(), rng.normal(0, 1, 6).tolist()) for _ in range(60)]
    fitted = fit_familiarity(cases)
    assert fitted is not None
    return fitted


def test_a_known_case_has_an_interval_and_no_note() -> None:
    said = lesion_statement(case(), prediction(), 2.0, {"familiarity": familiarity(5.0)})
    assert said["outside_training"] == []
    assert said["lesion_ml_interval_note"] is None
    low, high = said["lesion_ml_interval"]
    assert low < said["lesion_ml"] == 2.0 < high


def test_an_unknown_case_is_named_and_has_none() -> None:
    said = lesion_statement(case(), prediction(), 2.0, {"familiarity": familiarity(1.0)})
    assert said["lesion_ml_interval"] is None
    assert said["lesion_ml"] == 2.0
    assert said["outside_training"] == ["slices of 5.0 mm (known: 1.0 to 1.0 mm)"]
    assert "slices of 5.0 mm" in said["lesion_ml_interval_note"]


def test_without_known_cases_nothing_is_claimed() -> None:
    said = lesion_statement(case(), prediction(), 2.0, {})
    assert said["outside_training"] is None
    assert said["lesion_ml_interval"] is not None


@pytest.mark.parametrize(("missing", "words"), [("ct", "for the MRI alone"), ("mri", "for the CT alone")])
def test_each_mode_has_its_own_quantile_or_none(missing: str, words: str) -> None:
    without = lesion_statement(case(missing=missing), prediction(), 2.0, {})
    assert without["lesion_ml_interval"] is None
    assert words in without["lesion_ml_interval_note"]
    mode = {"ct": "mri", "mri": "ct"}[missing]
    wide = lesion_statement(case(missing=missing), prediction(), 2.0, {"volume_quantiles": {"pair": 1.0, mode: 2.0}})
    pair = lesion_statement(case(), prediction(), 2.0, {"volume_quantiles": {"pair": 1.0, mode: 2.0}})
    assert wide["lesion_ml_interval"][1] > pair["lesion_ml_interval"][1]


def test_what_was_not_seen_has_no_volume() -> None:
    item = case()
    item["plausibility"]["brain_unseen"] = 1.0
    said = lesion_statement(item, prediction(), 0.0, {})
    assert said["lesion_ml"] is None
    assert said["lesion_ml_interval"] is None
    assert said["lesion_ml_is_lower_bound"] is True
    assert "not seen" in said["lesion_ml_interval_note"]


def test_what_was_told_apart_is_said() -> None:
    said = lesion_statement(case(), prediction(in_fluid_ml=1.25), 2.0, {})
    assert apart_sentences(said) == ["1.25 mL were found in what the CT shows as fluid and are not counted as lesion"]
    assert apart_sentences(lesion_statement(case(), prediction(), 2.0, {})) == []
