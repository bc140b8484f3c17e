# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from typing import Any

from roi_fusion_tools.benchmark.lesion_tables import lesions_table, scans_table
from roi_fusion_tools.unseen_heads import summarise_rows


def rows() -> list[dict[str, Any]]:
    stated = {"lesion_in_fluid_ml": 0.5, "lesion_outside_brain_ml": 0.25, "outside_training": ["contrast (2.0 times as far)"]}
    return [
        {"case": "a", "lesion_ml": 10.0, "lesion_pred_ml": 8.0, "lesion_dice": 0.8, "lesion_ml_interval": [5.0, 9.0], **stated},
        {"case": "b", "lesion_ml": 2.0, "lesion_pred_ml": 6.0, "lesion_dice": 0.4, "lesion_ml_interval": None, **stated},
        {"case": "c", "lesion_ml": 0.0, "lesion_pred_ml": 0.3, "lesion_ml_interval": [0.0, 1.0], **stated},
        {"case": "d", "lesion_ml": 0.0, "lesion_pred_ml": float("nan"), "lesion_ml_interval": None, **stated},
    ]


def content(name: str) -> dict[str, Any]:
    return {"parts": {name: {"mri": {"summary": summarise_rows(rows()), "cases": rows()}}}}


def test_means_stand_with_what_they_are_over() -> None:
    line = lesions_table(content("unseen heads")).splitlines()[2]
    assert line == "| unseen heads | MRI alone | 4 | 0.600 | 0.400 | – | 0.30 (1) | 50 % of 2 | 4 | 2.0 |"
    assert scans_table(content("unseen heads")).count("\n") == 1


def test_every_real_scan_has_a_row() -> None:
    found = scans_table(content("real scans")).splitlines()[2:]
    assert found[0] == "| a | MRI alone | 10.00 | 8.00 | 0.80 | 5.0–9.0 | 0.75 | contrast |"
    assert found[3].startswith("| d | MRI alone | 0.00 | – | – | none |")
    assert lesions_table(content("real scans")).count("\n") == 1
