# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Compares methods case by case: means by group, paired tests, worst cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from roi_fusion.metrics.table import summarise

from .. import nnunet
from .networks import OURS
from .peers import SEGMENTERS

__all__ = ["FUSION", "LESION", "compare", "grouped", "summarise_rows", "worst"]

FUSION = ("brain_ssim", "bone_ssim", "brain_ssim_context", "bone_ssim_context", "seam_ratio", "hyperdense_shown")


LESION = ("lesion_dice", "lesion_nsd_2mm", "lesion_hd95_mm", "lesion_f1", "lesion_ece")


def summarise_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, median and bootstrap interval of every metric over rows of one method, by :func:`~.evaluation.summarise`."""
    same = [{"volume_class": "unknown", **r, "method": "roi_fusion"} for r in rows]
    return {k: v for k, v in summarise(same)["methods"]["roi_fusion"].items() if k not in ("lesion_ml",)}


def grouped(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Summaries of the rows of ROI Fusion for each value of the column `key`, with the number of cases."""
    own = [r for r in rows if r["method"] == "ROI Fusion"]
    groups = sorted({str(r[key]) for r in own})
    parts = {g: [r for r in own if r[key] == g] for g in groups}
    return {g: {"cases": len(p), **summarise_rows(p)} for g, p in parts.items()}


def compare(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Paired comparison, case by case: the shipped weights against each rule in the fusion metrics; ours trained alike, and the
    shipped weights, against the other networks in those of the lesion.

    Wilcoxon's signed-rank test, two-sided; a bootstrap interval of the mean difference.
    """
    by_method: dict[str, dict[str, Mapping[str, Any]]] = {}
    for r in rows:
        by_method.setdefault(str(r["method"]), {})[str(r["case"])] = r
    pairs: list[tuple[str, str, Sequence[str]]]
    pairs = [("ROI Fusion", m, FUSION) for m in ("average", "maximum", "paste", "Laplacian pyramid", "ROI Fusion, unguided")]
    pairs += [(o, m, LESION[:3]) for o in (OURS, "ROI Fusion") for m in (*SEGMENTERS, nnunet.METHOD)]
    found = []
    for ours, other, metrics in pairs:
        a, b = by_method.get(ours, {}), by_method.get(other, {})
        for metric in metrics:
            differences = np.array([float(a[c].get(metric, math.nan)) - float(b[c].get(metric, math.nan)) for c in a if c in b])
            differences = differences[np.isfinite(differences)]
            if len(differences) < 2:
                continue
            flat = bool(np.ptp(differences) == 0)
            low = high = float(differences.mean())
            if not flat:
                interval = stats.bootstrap(
                    (differences,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
                ).confidence_interval
                low, high = float(interval.low), float(interval.high)
            p = float(stats.wilcoxon(differences).pvalue) if np.any(differences) else 1.0
            found.append(
                {
                    "ours": ours,
                    "other": other,
                    "metric": metric,
                    "cases": len(differences),
                    "mean_difference": float(differences.mean()),
                    "ci95": [low, high],
                    "p_wilcoxon": p,
                }
            )
    return found


def worst(rows: Sequence[Mapping[str, Any]], count: int = 5) -> list[dict[str, Any]]:
    """The cases of the shipped weights with the lowest lesion Dice, lesion-free ones with a false alarm among them."""
    own = [r for r in rows if r["method"] == "ROI Fusion" and math.isfinite(float(r.get("lesion_dice", math.nan)))]
    own.sort(key=lambda r: r["lesion_dice"])
    keep = ("case", "contrast", "lesion_ml", "lesion_pred_ml", "lesion_dice", "brain_ssim", "bone_ssim")
    return [{k: r[k] for k in keep if k in r} for r in own[:count]]
