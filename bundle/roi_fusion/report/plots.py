# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Plots of an evaluation or a training from its files: metrics per method, Dice by lesion volume, reliability, curves."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..data.grids import spacing_mm
from ..data.io import read_volume
from ..data.results import read_result, result_folders
from ..metrics.calibration import reliability_curve
from ..metrics.lesion import lesion_region

__all__ = ["dice_by_volume", "evaluation_figures", "figure_uri", "fusion_by_method", "history_figures", "reliability_diagram"]

_FUSION = {
    "brain_ssim_context": "brain SSIM, context",
    "bone_ssim_context": "bone SSIM, context",
    "seam_ratio": "seam ratio",
}


def _values(rows: Sequence[Mapping[str, str]], method: str, name: str) -> list[float]:
    return [float(r[name]) for r in rows if r["method"] == method and r.get(name) not in (None, "", "inf")]


def fusion_by_method(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Fusion metrics by method: every case as a dot, the median as a line.

    Args:
        rows: rows of ``metrics.csv``.
    """
    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    jitter = np.random.default_rng(0)
    for ax, (name, title) in zip(figure.subplots(1, len(_FUSION)), _FUSION.items()):
        for k, method in enumerate(methods):
            values = _values(rows, method, name)
            colour = "tab:blue" if method == "roi_fusion" else "tab:gray"
            ax.plot(k + jitter.uniform(-0.15, 0.15, len(values)), values, ".", color=colour, alpha=0.6)
            if values:
                ax.hlines(np.median(values), k - 0.3, k + 0.3, color=colour, linewidth=2)
        ax.set_xticks(range(len(methods)), [m.replace("roi_fusion", "ours") for m in methods], rotation=30, fontsize=8)
        ax.set_title(title, fontsize=10)
        ax.grid(alpha=0.3, axis="y")
    return figure


def dice_by_volume(rows: Sequence[Mapping[str, str]]) -> Figure | None:
    """Lesion Dice against lesion volume in mL, with the limits of the volume classes dashed.

    Args:
        rows: rows of ``metrics.csv``.

    Returns:
        The figure, or None when no Dice was measured.
    """
    measured = [r for r in rows if r["method"] == "roi_fusion" and r.get("lesion_dice") and float(r["lesion_ml"] or 0) > 0]
    if not measured:
        return None
    figure = Figure(figsize=(4.7, 3.4), layout="constrained")
    ax = figure.subplots()
    ax.plot([float(r["lesion_ml"]) for r in measured], [float(r["lesion_dice"]) for r in measured], "o", alpha=0.7)
    for limit in (5, 20):
        ax.axvline(limit, linestyle="--", linewidth=1, color="gray")
    ax.set(xscale="log", xlabel="lesion volume, mL", ylabel="Dice", ylim=(-0.03, 1.03), title="lesion Dice by volume")
    ax.grid(alpha=0.3)
    return figure


def reliability_diagram(cases: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], num_bins: int = 10) -> Figure | None:
    """Reliability diagram of the lesion probability over the dilated lesion regions of all cases.

    Args:
        cases: predicted probability, reference and region of each case, ``[X, Y, Z]``.
        num_bins: number of equally wide bins.

    Returns:
        The figure, or None when all regions are empty.
    """
    used = [c for c in cases if c[2].any()]
    if not used:
        return None
    p, r = (np.concatenate([c[i][c[2]] for c in used]) for i in (0, 1))
    curve = reliability_curve(p, r, np.ones(p.shape, bool), num_bins=num_bins)
    figure = Figure(figsize=(4.7, 3.4), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    ax.plot(curve["confidence"], curve["frequency"], "o-")
    for x, y, n in zip(curve["confidence"], curve["frequency"], curve["count"]):
        if n:
            ax.annotate(f"{int(n):,}", (x, y), fontsize=6, textcoords="offset points", xytext=(3, -9), color="gray")
    ax.set(xlabel="predicted probability", ylabel="share that is lesion", xlim=(0, 1), ylim=(0, 1), title="reliability")
    ax.grid(alpha=0.3)
    return figure


def evaluation_figures(folder: str | Path) -> dict[str, Figure]:
    """Plots of an evaluation by name; those whose files are missing are left out.

    Args:
        folder: folder of results with ``metrics.csv`` and ``<case>/result.json``.
    """
    folder = Path(folder)
    if not (folder / "metrics.csv").is_file():
        return {}
    with (folder / "metrics.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    found: dict[str, Figure | None] = {"fusion": fusion_by_method(rows), "Dice by volume": dice_by_volume(rows)}
    scored = {r["case"] for r in rows if r["method"] == "roi_fusion" and r.get("lesion_dice")}
    cases = []
    for case in result_folders(folder):
        label = Path((read_result(case) or {}).get("mri", "")).parent / "lesion_mask.nii.gz"
        if case.name not in scored or not label.is_file() or not (case / "lesion_prob.nii.gz").is_file():
            continue
        predicted = read_volume(case / "lesion_prob.nii.gz", as_stored=True)
        probability, reference = predicted.array, read_volume(label, as_stored=True).array > 0
        if probability.shape == reference.shape:
            spacing = spacing_mm(predicted.affine).tolist()
            region = lesion_region(probability > 0.5, reference, spacing_mm=spacing, margin_mm=10.0)
            cases.append((probability, reference, region))
    found["reliability"] = reliability_diagram(cases)
    return {name: figure for name, figure in found.items() if figure is not None}


def figure_uri(figure: Figure, dpi: int = 70) -> str:
    """Render a figure to a data URI of a PNG.

    Args:
        figure: figure to render.
        dpi: dots per inch.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def history_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Curves of a training by name: loss components, gradient shares, regional SSIM beside the baselines, lesion scores.

    Args:
        rows: rows of ``history.jsonl``, at least one.
    """
    epochs = [r["epoch"] for r in rows]
    validated = [r for r in rows if r.get("validation")]

    def draw(
        title: str, series: Mapping[str, tuple[list, list]], log: bool = False, dashed: Mapping[str, float] | None = None
    ) -> Figure:
        figure = Figure(figsize=(6.2, 3.6), layout="constrained")
        ax = figure.subplots()
        for name, (x, y) in series.items():
            ax.plot(x, y, label=name, marker="o" if len(x) < 40 else None, markersize=3)
        for name, level in (dashed or {}).items():
            ax.axhline(level, linestyle="--", linewidth=1, color="gray")
            ax.annotate(name, (0.01, level), xycoords=("axes fraction", "data"), fontsize=7, va="bottom", color="gray")
        ax.set(title=title, xlabel="epoch", yscale="log" if log else "linear")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
        if series:
            ax.legend(fontsize=7)
        return figure

    def over_epochs(prefix: str) -> dict[str, tuple[list, list]]:
        names = [k for k in rows[-1] if k.startswith(prefix)]
        return {n.removeprefix(prefix): (epochs, [r.get(n, math.nan) for r in rows]) for n in names}

    def over_validations(*names: str) -> dict[str, tuple[list, list]]:
        have = [n for n in names if any(n in r["validation"] for r in validated)]
        return {n: ([r["epoch"] for r in validated], [r["validation"].get(n, math.nan) for r in validated]) for n in have}

    figures = {"loss components": draw("loss components, unweighted", over_epochs("loss_"), log=True)}
    if any(k.startswith("gradient_share_") for k in rows[-1]):
        figures["gradient shares"] = draw("share of the gradient", over_epochs("gradient_share_"))
    if validated:
        paste = validated[-1].get("baselines", {}).get("paste", {})
        levels = {f"paste {n}": paste[n] for n in ("brain_ssim_context", "bone_ssim_context") if n in paste}
        names = ("brain_ssim", "bone_ssim", "brain_ssim_context", "bone_ssim_context")
        figures["regional SSIM"] = draw("regional SSIM, validation", over_validations(*names), dashed=levels)
        figures["lesion"] = draw("lesion, validation", over_validations("lesion_dice", "lesion_nsd_2mm", "lesion_f1"))
    return figures
