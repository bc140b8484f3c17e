# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Tables of ``lesions.json``: a row per data set and images, a row per real scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .lesions import worst_factor

__all__ = ["lesions_table", "scans_table"]

_IMAGES = {"pair": "MRI and CT", "mri": "MRI alone", "ct": "CT alone"}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *rows))


def _number(value: Any, digits: int) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def lesions_table(content: Mapping[str, Any], names: Sequence[str] | None = None) -> str:
    """Means over each data set that has reference lesions.

    Args:
        content: of ``lesions.json``.
        names: data sets to show; None shows all but the real scans.
    """
    rows = []
    for name, modes in content["parts"].items():
        if name.startswith("real") or (names is not None and name not in names):
            continue
        for mode, result in modes.items():
            s = result["summary"]
            coverage = f"{100 * s['interval_coverage']:.0f} % of {s['intervals']}" if s["intervals"] else "no interval"
            false = f"{_number(s['false_ml_nine_of_ten'], 2)} ({s['lesion_free_cases']})" if s["lesion_free_cases"] else "–"
            rows.append(
                [
                    name,
                    _IMAGES[mode],
                    str(s["cases"]),
                    _number(s["lesion_dice"], 3),
                    _number(s["lesion_dice_below_5_ml"], 3),
                    _number(s["lesion_nsd_2mm"], 3),
                    false,
                    coverage,
                    str(s["outside_training"]),
                    _number(worst_factor(result["cases"]), 1),
                ]
            )
    head = [
        "data",
        "images",
        "cases",
        "Dice",
        "Dice, < 5 mL",
        "NSD 2 mm",
        "false mL (cases)",
        "interval holds",
        "flagged",
        "worst",
    ]
    return _table(head, rows)


def scans_table(content: Mapping[str, Any]) -> str:
    """One row per real scan."""
    rows = []
    for name, modes in content["parts"].items():
        if not name.startswith("real"):
            continue
        for mode, result in modes.items():
            for row in result["cases"]:
                interval = row.get("lesion_ml_interval")
                reference = row["lesion_ml"]
                rows.append(
                    [
                        str(row["case"]),
                        _IMAGES[mode],
                        _number(reference, 2),
                        _number(row["lesion_pred_ml"], 2),
                        _number(row.get("lesion_dice"), 2),
                        "none" if not interval else f"{interval[0]:.1f}–{interval[1]:.1f}",
                        _number(row.get("lesion_in_fluid_ml", 0.0) + row.get("lesion_outside_brain_ml", 0.0), 2),
                        "; ".join(t.split(" (")[0] for t in row.get("outside_training") or []) or "no",
                    ]
                )
    head = ["scan", "images", "reference mL", "found mL", "Dice", "90 % interval", "told apart mL", "outside training"]
    return _table(head, rows)
