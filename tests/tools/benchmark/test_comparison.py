# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from roi_fusion_tools.benchmark.comparison import compare


def test_paired_tests_are_scipys() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 0.1, 12), rng.normal(0.6, 0.1, 12)
    rows = [{"method": "ours", "case": str(i), "lesion_dice": v} for i, v in enumerate(a)]
    rows += [{"method": "segresnet", "case": str(i), "lesion_dice": v} for i, v in enumerate(b)]
    (found,) = compare(rows)
    assert found["mean_difference"] == pytest.approx((a - b).mean())
    assert found["p_wilcoxon"] == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert found["ci95"][0] < (a - b).mean() < found["ci95"][1]
    rows[0]["lesion_dice"] = float("nan")
    assert compare(rows)[0]["cases"] == 11
