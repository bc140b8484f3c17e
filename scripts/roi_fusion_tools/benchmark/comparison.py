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
from .rules import RULES

__all__ = ["FUSION", "LESION", "compare", "grouped", "paired_value", "summarise_rows", "worst"]

#: No method wins ``hyperdense_dice``, ``vif`` and ``qabf`` by construction: their references are no input of any.
FUSION = (
    "brain_ssim",
    "bone_ssim",
    "brain_ssim_context",
    "bone_ssim_context",
    "seam_ratio",
    "hyperdense_dice",
    "vif",
    "qabf",
)


LESION = ("lesion_dice", "lesion_nsd_2mm", "lesion_hd95_mm", "lesion_f1", "lesion_ece", "lesion_brier")

#: Scores of a mask that say 1 where nothing is to be found and nothing was: a false alarm has 0.
_SHARES = ("lesion_dice", "lesion_nsd_2mm", "lesion_f1")


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


def paired_value(row: Mapping[str, Any], metric: str) -> float:
    """A value for a paired test: a lesion-free case in which nothing was found counts 1, as a false alarm there counts 0.

    Without this such a case has no value for the method that is right and would leave the test, and with it the other's false
    alarm. Distances have no such value; their tests are over cases in which both methods have one.

    Example:
        >>> silent = {"lesion_dice": math.nan, "n_empty_pred": 1.0, "n_empty_ref": 1.0}
        >>> paired_value(silent, "lesion_dice"), paired_value({**silent, "lesion_hd95_mm": math.nan}, "lesion_hd95_mm")
        (1.0, nan)
    """
    value = float(row.get(metric, math.nan))
    nothing = float(row.get("n_empty_pred", 0)) > 0 and float(row.get("n_empty_ref", 0)) > 0
    return 1.0 if math.isnan(value) and metric in _SHARES and nothing else value


def compare(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Paired comparison, case by case: the shipped weights against each rule in the fusion metrics; ours trained alike, and the
    shipped weights, against the other networks in those of the lesion.

    Wilcoxon's signed-rank test, two-sided; a bootstrap interval of the mean difference.
    """
    by_method: dict[str, dict[str, Mapping[str, Any]]] = {}
    for r in rows:
        by_method.setdefault(str(r["method"]), {})[str(r["case"])] = r
    pairs: list[tuple[str, str, Sequence[str]]]
    pairs = [("ROI Fusion", m, FUSION) for m in (*RULES, "ROI Fusion, unguided")]
    pairs += [(o, m, LESION[:3]) for o in (OURS, "ROI Fusion") for m in (*SEGMENTERS, nnunet.METHOD)]
    found = []
    for ours, other, metrics in pairs:
        a, b = by_method.get(ours, {}), by_method.get(other, {})
        for metric in metrics:
            differences = np.array([paired_value(a[c], metric) - paired_value(b[c], metric) for c in a if c in b])
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
