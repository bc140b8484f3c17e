# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from roi_fusion.errors import InputError
from roi_fusion.metrics.calibration import (
    Draws,
    brier_score,
    conformal_quantile,
    expected_calibration_error,
    fit_temperature,
    fit_threshold,
    reliability_curve,
    volume_interval,
)


def simulated(rng: np.random.Generator, temperature: float = 1.0, voxels: int = 4000) -> Draws:
    """A lesion whose logits are `temperature` times too large."""
    logit = rng.normal(-0.5, 1.5, voxels)
    label = rng.random(voxels) < 1 / (1 + np.exp(-logit))
    lesion = np.stack([logit * temperature] * 2)
    return Draws(lesion, np.full_like(lesion, 30.0), label, np.ones(voxels, bool), 0.01)


def test_the_temperature_of_overconfident_logits_is_found() -> None:
    rng = np.random.default_rng(0)
    for true in (0.6, 1.0, 2.5):
        assert fit_temperature([simulated(rng, true) for _ in range(6)]) == pytest.approx(true, rel=0.1)


def test_the_threshold_is_that_of_the_best_dice() -> None:
    rng = np.random.default_rng(1)
    cases = [simulated(rng) for _ in range(4)]
    found = fit_threshold(cases, 1.0)

    def dice(threshold: float) -> float:
        masks = [(c.probability(1.0) > threshold, c.label) for c in cases]
        return float(np.mean([2 * (m & y).sum() / (m.sum() + y.sum()) for m, y in masks]))

    assert dice(found) == max(dice(t) for t in np.arange(0.2, 0.801, 0.02).round(2))
    assert 0.2 < found < 0.5  # Dice wants more than the even odds would give
    free = simulated(rng)
    free = Draws(free.lesion * 0 - 0.2, free.brain, np.zeros_like(free.label), free.judged, free.voxel_ml)  # 0.45 everywhere
    assert found < 0.44 < fit_threshold([*cases, *[free] * 4], 1.0)  # no false alarm for a little more Dice


def test_the_interval_holds_the_volume_of_nine_cases_in_ten() -> None:
    rng = np.random.default_rng(2)

    def case() -> Draws:
        return simulated(rng, voxels=int(rng.integers(50, 400)))

    quantile = conformal_quantile([case() for _ in range(300)], 1.0, 0.5)
    held = []
    for _ in range(600):
        new = case()
        p = new.probability(1.0)
        interval = volume_interval((p > 0.5).sum() * new.voxel_ml, torch.tensor(p), new.voxel_ml, quantile)
        assert interval is not None
        held.append(interval[0] <= new.label.sum() * new.voxel_ml <= interval[1])
    assert 0.85 < np.mean(held) < 0.95
    assert volume_interval(1.0, torch.rand(5), 0.01, -1.0) is None  # never fitted


def test_too_little_to_fit_is_refused() -> None:
    rng = np.random.default_rng(3)
    with pytest.raises(InputError, match=r"expected at least 9 pairs with a lesion mask, because .* fitted on fewer, got 8"):
        conformal_quantile([simulated(rng)] * 8, 1.0, 0.5)
    assert math.isfinite(conformal_quantile([simulated(rng)] * 9, 1.0, 0.5))
    empty = Draws(np.zeros((1, 4)), np.zeros((1, 4)), np.zeros(4, bool), np.zeros(4, bool), 0.01)
    for fit in (lambda: fit_temperature([empty]), lambda: fit_threshold([empty], 1.0)):
        with pytest.raises(InputError, match="calibration: expected cases"):
            fit()


def test_calibration_matches_its_definition() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(20000)
    truth = rng.random(20000) < p
    region = np.ones_like(truth)
    assert expected_calibration_error(p, truth, region) < 0.02
    assert expected_calibration_error(np.full_like(p, 0.9), truth, region) == pytest.approx(0.9 - truth.mean(), abs=1e-9)
    assert brier_score(p, truth, region) == pytest.approx(((p - truth) ** 2).mean())
    curve = reliability_curve(np.array([0.05, 0.95, 1.0]), np.array([0, 1, 1]), np.ones(3))
    assert curve["count"].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert curve["confidence"][9] == pytest.approx(0.975)
    assert math.isnan(brier_score(p, truth, np.zeros_like(truth)))
    assert math.isnan(expected_calibration_error(p, truth, np.zeros_like(truth)))
    with pytest.raises(InputError, match="probabilities from 0 to 1"):
        brier_score(p * 2, truth, region)
