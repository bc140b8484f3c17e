# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import math

import numpy as np
import pytest

from roi_fusion.metrics.familiarity import CaseSignature, fit_familiarity, outside_training

_NUMBERS = {"plane_mm": 1.0, "slice_mm": 5.0, "slices": 24.0, "head_ml": 3000.0, "brain_ml": 1300.0}


def signature(rng: np.random.Generator, shift: float = 0.0, **numbers: float) -> CaseSignature:
    own = {k: v * float(rng.uniform(0.8, 1.25)) for k, v in _NUMBERS.items()}
    return CaseSignature(
        {**own, **numbers}, (rng.normal(0, 1, 12) + shift).tolist(), (rng.normal(0, 1, 30) * np.linspace(0.1, 3, 30)).tolist()
    )


@pytest.fixture(scope="module")
def known() -> dict:
    rng = np.random.default_rng(0)
    fitted = fit_familiarity([signature(rng) for _ in range(200)])
    assert fitted is not None
    return json.loads(json.dumps(fitted))


def test_most_cases_of_the_same_kind_are_known(known: dict) -> None:
    rng = np.random.default_rng(1)
    strange = [bool(outside_training(signature(rng), known)) for _ in range(100)]
    assert sum(strange) <= 10


@pytest.mark.parametrize(
    ("name", "value", "words"), [("slice_mm", 20.0, "slices of 20.0 mm"), ("brain_ml", 90.0, "a brain of 90 mL")]
)
def test_a_number_beyond_the_known_range_is_named_with_it(known: dict, name: str, value: float, words: str) -> None:
    found = outside_training(signature(np.random.default_rng(2), **{name: value}), known)
    assert any(words in f and "known:" in f for f in found)


def test_a_number_that_was_not_measured_says_nothing(known: dict) -> None:
    found = outside_training(signature(np.random.default_rng(2), brain_ml=math.nan), known)
    assert not any("brain" in f for f in found)


def test_another_contrast_is_named(known: dict) -> None:
    found = outside_training(signature(np.random.default_rng(3), shift=6.0), known)
    assert any(f.startswith("contrast") for f in found)
    assert not any("network" in f for f in found)


def test_a_vector_of_another_length_is_unknown(known: dict) -> None:
    case = signature(np.random.default_rng(4))._replace(features=[0.0, 1.0])
    assert any("network" in f for f in outside_training(case, known))


def test_nothing_is_claimed_without_enough_cases() -> None:
    rng = np.random.default_rng(5)
    assert fit_familiarity([signature(rng) for _ in range(19)]) is None
    assert outside_training(signature(rng), None) == []
