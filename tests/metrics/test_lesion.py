# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest
import torch

from roi_fusion.metrics.lesion import LesionMetrics, lesion_region


def test_the_lesion_region_reaches_as_far_as_asked() -> None:
    ref = np.zeros((41, 41, 9), bool)
    ref[20, 20, 4] = True
    region = lesion_region(np.zeros_like(ref), ref, spacing_mm=(1, 1, 6), margin_mm=10)
    inside = np.argwhere(region) - [20, 20, 4]
    distance = np.linalg.norm(inside * [1, 1, 6], axis=1)
    assert distance.max() <= 10
    assert region.sum() == (np.linalg.norm((np.argwhere(np.ones_like(ref)) - [20, 20, 4]) * [1, 1, 6], axis=1) <= 10).sum()


def test_lesion_metrics_of_cases_with_different_spacing() -> None:
    metric = LesionMetrics()
    ref = torch.zeros(1, 9, 9, 9)
    ref[0, 4, 4, 4] = 1
    pred = torch.zeros(1, 9, 9, 9)
    pred[0, 4, 4, 6] = 1
    assert metric(pred, ref, spacing_mm=(1, 1, 5))["lesion_hd95_mm"] == 10
    assert metric(pred, ref, spacing_mm=(1, 1, 0.5))["lesion_hd95_mm"] == 1
    metric(torch.zeros_like(ref), torch.zeros_like(ref), spacing_mm=(1, 1, 1))
    means = metric.aggregate()
    assert means["lesion_hd95_mm"] == pytest.approx(5.5)
    assert (means["n_empty_pred"], means["n_empty_ref"]) == (1, 1)


def test_calibration_is_judged_in_one_region_whatever_a_method_marks() -> None:
    """Broad false doubt costs the same just below the threshold as just above it, but for what it is more."""
    label, brain = torch.zeros(1, 40, 40, 4), torch.zeros(1, 40, 40, 4)
    brain[:, 4:36, 4:36] = 1
    label[:, 18:22, 18:22, 1:3] = 1
    found = {}
    for doubt in (0.45, 0.55):
        probability = torch.where(label > 0, 0.9, doubt) * brain
        row = LesionMetrics()(probability, label, spacing_mm=(1, 1, 5), threshold=0.5, brain=brain)
        inside = np.asarray(brain > 0)
        p, y = np.asarray(probability)[inside], np.asarray(label)[inside]
        assert row["lesion_brier"] == pytest.approx(np.mean((p - y) ** 2))
        found[doubt] = row
    assert found[0.45]["lesion_ece"] == pytest.approx(found[0.55]["lesion_ece"], abs=0.11)
    assert found[0.45]["lesion_ece"] > 0.4
    without = LesionMetrics()(probability, label, spacing_mm=(1, 1, 5), threshold=0.5)
    assert np.isnan(without["lesion_ece"])
