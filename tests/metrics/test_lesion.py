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
