# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from helpers import table_rows
from roi_fusion.metrics.table import summarise, write_tables


def test_the_summary_counts_what_is_missing_and_brackets_the_mean(tmp_path: Path) -> None:
    table = table_rows()
    summary = write_tables(tmp_path, table)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    own = summary["methods"]["roi_fusion"]
    dice = [r["lesion_dice"] for r in table if r["method"] == "roi_fusion"][1:]
    assert own["lesion_dice"]["mean"] == pytest.approx(np.mean(dice), abs=1e-6)
    assert own["lesion_dice"]["median"] == pytest.approx(np.median(dice), abs=1e-6)
    assert (own["lesion_dice"]["count"], own["lesion_dice"]["missing"]) == (29, 1)
    low, high = own["lesion_dice"]["ci95"]
    assert low < np.mean(dice) < high
    assert (high - low) == pytest.approx(2 * 1.96 * np.std(dice) / 29**0.5, rel=0.25)
    assert summary["counts"] == {"n_empty_pred": 1, "n_empty_ref": 1, "fused_at_bounds": 0}
    assert summary["methods"]["paste"]["bone_psnr"]["mean"] == "inf"
    assert summary["methods"]["paste"]["brain_ssim"]["ci95"] == [1.0, 1.0]
    assert sum(c["cases"] for c in summary["by_volume_class"].values()) == 30
    assert summarise(table) == summary  # the bootstrap is seeded


def test_the_table_leaves_missing_cells_empty(tmp_path: Path) -> None:
    write_tables(tmp_path, table_rows())
    with (tmp_path / "metrics.csv").open() as f:
        table = list(csv.DictReader(f))
    assert len(table) == 60
    assert table[0]["lesion_dice"] == ""
    assert table[1]["bone_psnr"] == "inf"
    assert table[1]["lesion_dice"] == ""
    assert set(table[0]) >= {"case", "method", "volume_class", "lesion_ml", "brain_ssim"}
