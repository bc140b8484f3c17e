# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Plots of an evaluation, from the files it left: fusion beside the baselines, Dice by lesion volume, reliability."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

from .metrics import lesion_region, reliability_curve

__all__ = ["dice_by_volume", "evaluation_figures", "fusion_by_method", "reliability_diagram"]

_FUSION = {
    "brain_ssim_context": "brain SSIM, context", "bone_ssim_context": "bone SSIM, context", "seam_ratio": "seam ratio",
}  # fmt: skip


def _values(rows: Sequence[Mapping[str, str]], method: str, name: str) -> list[float]:
    return [float(r[name]) for r in rows if r["method"] == method and r.get(name) not in (None, "", "inf")]


def fusion_by_method(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Every case of every method as a dot, the median as a line.

    Args:
        rows: of ``metrics.csv``.
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
    """Lesion Dice against the lesion's volume in mL, the limits of the classes dashed; None where no Dice was measured.

    Args:
        rows: of ``metrics.csv``.
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
    """How often a voxel is lesion at each predicted probability, over the dilated lesion regions of all cases.

    Args:
        cases: probability, reference and region of each, ``[X, Y, Z]``.
        num_bins: equally wide bins.
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
    """The plots of a folder of results by name; those whose files are missing are left out.

    Args:
        folder: with ``metrics.csv`` and ``<case>/result.json``.
    """
    folder = Path(folder)
    if not (folder / "metrics.csv").is_file():
        return {}
    with (folder / "metrics.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    found: dict[str, Figure | None] = {"fusion": fusion_by_method(rows), "Dice by volume": dice_by_volume(rows)}
    scored = {r["case"] for r in rows if r["method"] == "roi_fusion" and r.get("lesion_dice")}
    cases = []
    for path in sorted(folder.glob("*/result.json")):
        label = Path(json.loads(path.read_text())["mri"]).parent / "lesion_mask.nii.gz"
        if path.parent.name not in scored or not label.is_file() or not (path.parent / "lesion_prob.nii.gz").is_file():
            continue
        image: Any = nib.load(path.parent / "lesion_prob.nii.gz")
        probability, reference = np.asarray(image.dataobj), np.asarray(nib.load(label).dataobj) > 0  # type: ignore[attr-defined]
        if probability.shape == reference.shape:
            spacing = image.header.get_zooms()[:3]
            region = lesion_region(probability > 0.5, reference, spacing_mm=spacing, margin_mm=10.0)
            cases.append((probability, reference, region))
    found["reliability"] = reliability_diagram(cases)
    return {name: figure for name, figure in found.items() if figure is not None}
