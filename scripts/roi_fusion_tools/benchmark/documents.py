# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Words and tables from the benchmark's JSON: ``docs/benchmarks.md``, the model card's tables and the metadata's metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from ..studies import study_table
from .comparison import FUSION, LESION
from .lesion_tables import lesions_table, scans_table
from .networks import label_of
from .rules import NO_NETWORK

__all__ = ["benchmark_document", "eval_metrics", "model_card_parts", "quality_table", "robustness_table"]

_LABELS = {
    "brain_ssim": "brain SSIM",
    "bone_ssim": "bone SSIM",
    "brain_ssim_context": "brain SSIM, context",
    "bone_ssim_context": "bone SSIM, context",
    "seam_ratio": "seam ratio",
    "hyperdense_dice": "blood, calcium Dice",
    "hyperdense_shown": "blood, calcium shown, in guidance's own mask",
    "vif": "VIF",
    "qabf": "Qabf",
    "lesion_dice": "lesion Dice",
    "lesion_nsd_2mm": "NSD 2 mm",
    "lesion_hd95_mm": "HD95 mm",
    "lesion_f1": "lesion F1",
    "lesion_ece": "ECE",
    "lesion_brier": "Brier",
}


_STUDIES = {
    "steps": "Number of sampling steps",
    "guidance": "Guidance and what it replaces",
    "misregistration": "A CT beside its place",
    "uncertainty": "Uncertainty",
    "seams": "Tile by tile (160×160×16) against whole volumes: share of the MRI's range",
}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _cell(found: Mapping[str, Any] | None, metric: str) -> str:
    """Mean and bootstrap interval."""
    if not found or found.get("mean") is None:
        return "–"
    digits = 1 if metric == "lesion_hd95_mm" else 3
    if not isinstance(found["mean"], (int, float)):
        return str(found["mean"])
    text = f"{found['mean']:.{digits}f}"
    if found.get("ci95"):
        text += f" ({found['ci95'][0]:.{digits}f} … {found['ci95'][1]:.{digits}f})"
    return text


def quality_table(groups: Mapping[str, Mapping[str, Any]], metrics: Sequence[str], first: str = "method") -> str:
    """A row per group with mean and 95 % interval of each metric; groups that have none of them are left out.

    *cases* is over how many the first metric's mean is: a case without a lesion, and none predicted, has no Dice.
    """
    shown = {g: s for g, s in groups.items() if any((s.get(m) or {}).get("mean") is not None for m in metrics)}
    rows = [
        [g, str((s.get(metrics[0]) or {}).get("count", 0)), *(_cell(s.get(m), m) for m in metrics)] for g, s in shown.items()
    ]
    return _table([first, "cases", *(_LABELS[m] for m in metrics)], rows)


def _tests_table(tests: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            f"{t['ours']} − {t['other']}",
            _LABELS[t["metric"]],
            str(t["cases"]),
            f"{t['mean_difference']:+.3f} ({t['ci95'][0]:+.3f} … {t['ci95'][1]:+.3f})",
            f"{t['p_wilcoxon']:.1e}",
        ]
        for t in tests
    ]
    return _table(["pair", "metric", "cases", "mean difference (95 %)", "Wilcoxon p"], rows)


def _trainings_table(trainings: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            label_of(name),
            f"{t['parameters'] / 1e6:.1f} M",
            f"{t['learning_rate']:g}",
            str(t["steps"]),
            f"{t['minutes']:.1f}",
        ]
        for name, t in trainings.items()
    ]
    return _table(["network", "parameters", "learning rate", "steps", "minutes"], rows)


def _runs_table(speed: Mapping[str, Any]) -> str:
    runs = speed["files_to_files"]
    rows = [
        [
            str(r["num_inference_steps"]),
            str(r["num_samples"]),
            r["guidance"],
            str(r["threads"]),
            r["precision"],
            f"{r['case_s']:.1f}",
            f"{r['case_s'] / runs[0]['case_s']:.2f}",
            f"{r['peak_gb']:.2f}",
        ]
        for r in runs
    ]
    return _table(["steps", "draws", "guidance", "threads", "precision", "s a case", "to the first", "peak GB"], rows)


def robustness_table(robustness: Mapping[str, Any]) -> str:
    """A row per condition."""
    metrics = (*FUSION, *LESION[:3])

    def cell(value: Any, metric: str) -> str:
        return "–" if value is None else f"{value:.{1 if metric == 'lesion_hd95_mm' else 3}f}"

    rows = [[r["condition"], *(cell(r.get(m), m) for m in metrics)] for r in robustness["rows"]]
    return _table([f"{robustness['cases']} cases", *(_LABELS[m] for m in metrics)], rows)


def _worst_table(worst: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            str(w["case"]),
            str(w["contrast"]),
            f"{w['lesion_ml']:.2f}",
            f"{w['lesion_pred_ml']:.2f}",
            f"{w['lesion_dice']:.3f}",
            f"{w['brain_ssim']:.3f}",
            f"{w['bone_ssim']:.3f}",
        ]
        for w in worst
    ]
    return _table(["case", "contrast", "lesion mL", "found mL", "Dice", "brain SSIM", "bone SSIM"], rows)


def eval_metrics(quality: Mapping[str, Any]) -> dict[str, float]:
    """What ``metadata.json`` states: means of the shipped weights."""
    own = quality["methods"]["ROI Fusion"]
    return {m: round(float(own[m]["mean"]), 4) for m in (*FUSION, *LESION) if (own.get(m) or {}).get("mean") is not None}


def model_card_parts(quality: Mapping[str, Any], lesions: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The generated parts of ``README.md`` and of ``bundle/docs/README.md``.

    Args:
        quality, lesions: of ``quality.json`` and ``lesions.json``.
    """
    shared = next((n for n in quality["methods"] if n.startswith("ROI Fusion, first")), "")
    names = (
        "ROI Fusion",
        shared,
        "ROI Fusion, unguided",
        "average",
        "maximum",
        "paste",
        *NO_NETWORK,
        "ROI Fusion, one pass",
        "target",
    )
    methods = {n: quality["methods"][n] for n in names if n in quality["methods"]}
    headline = {n: quality["methods"][n] for n in ("ROI Fusion", "average", "maximum", "paste") if n in quality["methods"]}
    found = {} if lesions is None else {"unseen": lesions_table(lesions, ["unseen heads"]), "scans": scans_table(lesions)}
    return {
        **{f"lesions:{name}": table for name, table in found.items()},
        "quality:headline": quality_table(headline, (*FUSION[:5], "lesion_dice", "lesion_nsd_2mm")),
        "quality:fusion": quality_table(methods, FUSION),
        "quality:lesion": quality_table(methods, LESION),
        "quality:contrast": quality_table(quality["by_contrast"], ("brain_ssim", "bone_ssim", *LESION[:3]), "contrast"),
        "quality:volume": quality_table(quality["by_volume_class"], LESION[:4], "lesion"),
        "quality:worst": _worst_table(quality["worst_cases"]),
    }


def _of(quality: Mapping[str, Any], plain: bool) -> dict[str, Any]:
    """The methods that were measured on crops beside the plain diffusion, or all others."""
    return {n: m for n, m in quality["methods"].items() if ("plain diffusion" in n or "same crops" in n) is plain}


def _slices_table(scores: Mapping[str, Mapping[str, Any]], first: str = "method") -> str:
    names = ("brain_ssim", "bone_ssim", "VIF", "Qabf")
    rows = [[n, *(f"{v[m]:.3f}" if v.get(m) is not None else "–" for m in names)] for n, v in scores.items()]
    return _table([first, "brain SSIM", "bone SSIM", "VIF", "Qabf"], rows)


def _study_rows(study: Mapping[str, Any]) -> str:
    return study_table([{k: float("nan") if v is None else v for k, v in row.items()} for row in study["rows"]])


_FILTERS: dict[str, Callable[[Any], Any]] = {
    "machine": lambda d: ", ".join(f"{k} {v}" for k, v in d["versions"].items()),
    "fusion": lambda q: quality_table(_of(q, False), FUSION),
    "lesion": lambda q: quality_table(_of(q, False), LESION),
    "trainings": lambda q: _trainings_table(q["trainings"]),
    "has_plain": lambda q: bool(_of(q, True)),
    "plain": lambda q: quality_table(_of(q, True), FUSION),
    "tests": lambda q: _tests_table(q["tests"]),
    "by_contrast": lambda q: quality_table(q["by_contrast"], (*FUSION[:4], *LESION[:3]), "contrast"),
    "by_volume": lambda q: quality_table(q["by_volume_class"], LESION[:4], "lesion"),
    "worst": lambda q: _worst_table(q["worst_cases"]),
    "runs": _runs_table,
    "conditions": robustness_table,
    "study_rows": _study_rows,
    "slices": _slices_table,
    "lesions": lesions_table,
    "scans": scans_table,
}


def benchmark_document(results: str | Path, template: str | Path) -> str:
    """The whole of ``docs/benchmarks.md``; parts that were not run are not there.

    Args:
        results: folder of the JSON files.
        template: Jinja2, the words around the tables.
    """
    found = {f.stem: json.loads(f.read_text()) for f in sorted(Path(results).glob("*.json"))}
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters.update(_FILTERS)
    studies = [(title, found[f"study_{name}"]) for name, title in _STUDIES.items() if f"study_{name}" in found]
    parts = {name: found.get(name) for name in ("lesions", "quality", "speed", "robustness", "harvard")}
    return environment.from_string(Path(template).read_text()).render(**parts, studies=studies)
