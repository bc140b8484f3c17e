# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The tables of an evaluation, as text and for a page: a line for each metric, a column for each method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..values import read_json

__all__ = ["METRICS", "SMALLER_IS_BETTER", "metrics_table", "metrics_text"]

_METHODS = {
    "roi_fusion": "ROI Fusion",
    "average": "average",
    "maximum": "maximum",
    "paste": "paste (CT bone into MRI)",
    "target": "training target F*",
}

#: Column of ``metrics.csv`` → title and number of digits.
METRICS = {
    "lesion_dice": ("lesion Dice", 3),
    "lesion_nsd_2mm": ("NSD 2 mm", 3),
    "lesion_hd95_mm": ("HD95 mm", 1),
    "lesion_f1": ("lesion F1", 3),
    "lesion_volume_difference_ml": ("volume difference mL", 2),
    "lesion_ece": ("ECE", 3),
    "lesion_brier": ("Brier", 3),
    "brain_ssim": ("brain SSIM", 3),
    "bone_ssim": ("bone SSIM", 3),
    "brain_ssim_context": ("brain SSIM, context", 3),
    "bone_ssim_context": ("bone SSIM, context", 3),
    "brain_psnr": ("brain PSNR dB", 1),
    "bone_psnr": ("bone PSNR dB", 1),
    "global_ssim": ("global SSIM", 3),
    "seam_ratio": ("seam ratio", 2),
    "hyperdense_shown": ("blood and calcium shown", 2),
    "conflict_ml": ("CT bone over MRI brain, mL", 1),
}

SMALLER_IS_BETTER = {"lesion_hd95_mm", "lesion_ece", "lesion_brier", "conflict_ml"}


def _cell(entry: Mapping[str, Any] | None, digits: int) -> dict[str, str]:
    if not entry or entry.get("mean") is None:
        return {"value": "–", "ci": ""}
    if isinstance(entry["mean"], str):
        return {"value": "∞" if entry["mean"] == "inf" else entry["mean"], "ci": ""}
    ci = entry.get("ci95")
    text = f"{ci[0]:.{digits}f} … {ci[1]:.{digits}f}" if ci and not any(isinstance(c, str) for c in ci) else ""
    return {"value": f"{entry['mean']:.{digits}f}", "ci": text}


def metrics_table(blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of some methods or volume classes.

    Args:
        blocks: metrics by method or class, as ``summary.json`` holds them.

    Returns:
        ``head``, the names of the columns; ``cases`` for each column, empty for a method; and ``rows`` with ``name`` and
        ``cells`` of ``value`` and interval ``ci``.
    """
    names = [m for m in METRICS if any(m in b for b in blocks.values())]
    return {
        "head": [_METHODS.get(k, k) for k in blocks],
        "cases": [b.get("cases", "") for b in blocks.values()],
        "rows": [
            {"name": METRICS[m][0], "cells": [_cell(b.get(m), METRICS[m][1]) for b in blocks.values()]}
            for m in names
            if any((b.get(m) or {}).get("mean") is not None for b in blocks.values())
        ],
    }


def metrics_text(output_dir: str | Path) -> str:
    """The means of ``summary.json`` as a text table, a line per metric and a column per method.

    Args:
        output_dir: folder of an evaluation.

    Raises:
        InputError: when there is no summary.
    """
    path = Path(output_dir) / "summary.json"
    if not path.is_file():
        raise InputError(f"{path}: expected the summary of an evaluation, found no such file")
    try:
        summary = read_json(path)
        table = metrics_table(summary["methods"])
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path}: expected the summary of an evaluation, got {type(e).__name__}: {str(e)[:160]!r}") from None
    width = max((len(r["name"]) for r in table["rows"]), default=10)
    width = max(width, len(f"{summary['cases']} cases"))
    lines = [f"{summary['cases']} cases".ljust(width) + "".join(f"  {n.split(' (')[0]:>18}" for n in table["head"])]
    lines += [r["name"].ljust(width) + "".join(f"  {c['value']:>18}" for c in r["cells"]) for r in table["rows"]]
    return "\n".join(lines)
