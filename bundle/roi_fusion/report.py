# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""``report.html``: one self-contained page about a training, an evaluation or an inference, made from the files it left."""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure
from nibabel.processing import resample_from_to

from . import __version__
from .errors import InputError
from .handlers import is_first_rank, read_history
from .plots import evaluation_figures

__all__ = [
    "case_figure", "figure_uri", "history_figures", "metrics_text", "write_report", "write_training_report",
]  # fmt: skip

logger = logging.getLogger(__name__)

_METHODS = {
    "roi_fusion": "ROI Fusion", "average": "average", "maximum": "maximum", "paste": "paste (CT bone into MRI)",
    "target": "training target F*",
}  # fmt: skip
_METRICS = {
    "brain_ssim": ("brain SSIM", 3), "bone_ssim": ("bone SSIM", 3), "brain_ssim_context": ("brain SSIM, context", 3),
    "bone_ssim_context": ("bone SSIM, context", 3), "brain_psnr": ("brain PSNR dB", 1), "bone_psnr": ("bone PSNR dB", 1),
    "global_ssim": ("global SSIM", 3), "seam_ratio": ("seam ratio", 2),
    "hyperdense_shown": ("blood and calcium shown", 2), "lesion_dice": ("lesion Dice", 3),
    "lesion_nsd_2mm": ("NSD 2 mm", 3), "lesion_hd95_mm": ("HD95 mm", 1), "lesion_f1": ("lesion F1", 3),
    "lesion_volume_difference_ml": ("volume difference mL", 2), "lesion_ece": ("ECE", 3), "lesion_brier": ("Brier", 3),
}  # fmt: skip
_PANELS = ("MRI", "CT, brain window", "CT, bone window", "fused", "lesion on MRI", "share of the MRI", "uncertainty (bits)")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1280px; padding: 1.5rem; color: #1c2733; }
 h1 { margin: 0 0 .2rem; } h2 { margin: 2.2rem 0 .6rem; border-bottom: 1px solid #d5dde5; padding-bottom: .2rem; }
 h3 { margin: 1.4rem 0 .3rem; font-size: 1rem; }
 .note { color: #52616f; } .warn { background: #fff4e0; border-left: 4px solid #e69a17; padding: .5rem .8rem; }
 .scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .86rem; }
 th, td { padding: .25rem .55rem; text-align: right; border-bottom: 1px solid #e3e9ef; white-space: nowrap;
vertical-align: top; }
 th:first-child, td:first-child { text-align: left; } thead th { background: #f2f5f8; }
 tr.own td { font-weight: 600; background: #eef6ff; } .ci { display: block; color: #6b7885; font-weight: 400; font-size:
.75rem; }
 img { max-width: 100%; } .facts { font-size: .85rem; color: #3c4a57; } .curves img { max-width: 49%; }
</style></head><body>
<h1>{{ title }}</h1>
<p class="note">ROI Fusion {{ version }} · for research, not for diagnosis.</p>
{% if refused %}<div class="warn"><b>{{ refused|length }} case{{ "s" if refused|length > 1 }} refused</b>
<ul>{% for case, why in refused.items() %}<li><b>{{ case }}</b>: {{ why }}</li>{% endfor %}</ul></div>{% endif %}
{% if table %}<h2>Metrics over {{ n_cases }} case{{ "s" if n_cases != 1 }}</h2>
<p class="note">Mean with bootstrap 95 % interval. Fusion is compared in the reference's own scale (data range 1);
pasting scores 1 in
both ROI-only SSIMs by construction, so read them together with the context SSIMs and the seam ratio (about 1: no visible seam).
Lesion scores are the head's own prediction; – means not measured. Empty masks: {{ counts.n_empty_pred }} predicted,
{{ counts.n_empty_ref }} in the references. Voxels of the output at a bound: {{ counts.fused_at_bounds }}.</p>
<div class="scroll"><table><thead><tr><th>method</th>{% for h in table.head %}<th>{{ h }}</th>{% endfor %}</tr></thead><tbody>
{% for row in table.rows %}<tr{% if row.own %} class="own"{% endif %}><td>{{ row.name }}</td>
{% for c in row.cells %}<td>{{ c.value }}{% if c.ci %}<span class="ci">{{ c.ci }}</span>{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endif %}
{% if classes %}<h2>By lesion volume</h2><div class="scroll"><table><thead><tr><th>class</th><th>cases</th>
{% for h in classes.head %}<th>{{ h }}</th>{% endfor %}</tr></thead><tbody>
{% for row in classes.rows %}<tr><td>{{ row.name }}</td><td>{{ row.cases }}</td>
{% for c in row.cells %}<td>{{ c.value }}{% if c.ci %}<span class="ci">{{ c.ci }}</span>{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endif %}
{% if plots %}<h2>Plots</h2><div class="plots">{% for c in plots %}<img alt="{{ c.name }}" src="{{ c.data }}">{% endfor %}
</div>{% endif %}
{% if curves %}<h2>Training</h2><div class="curves">{% for c in curves %}<img alt="{{ c.name }}" src="{{ c.data }}">{%
endfor %}</div>{% endif %}
{% if cases %}<h2>Cases</h2><p class="note">{{ case_note }} Radiological convention: the patient's right is on the left.
Red: predicted
lesion; green: reference. Share of the MRI: grey where nothing can be told.</p>
{% for case in cases %}<h3>{{ case.name }}</h3><p class="facts">{{ case.facts }}</p><img alt="{{ case.name }}" src="{{
case.data }}">{% endfor %}
{% endif %}</body></html>
"""


def figure_uri(figure: Figure, dpi: int = 70) -> str:
    """A figure as a PNG data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _load(path: str | Path, like: Any = None) -> np.ndarray | None:
    """A volume in canonical orientation (x right, y front, z up), on the grid of `like`; None where it is missing."""
    if not path or not Path(path).is_file():
        return None
    image: Any = nib.load(path)
    if like is not None and (image.shape != like.shape or not np.allclose(image.affine, like.affine, atol=1e-2)):
        image = resample_from_to(image, like, order=1, cval=-1024 if "ct" in Path(path).name else 0)
    return np.asarray(nib.as_closest_canonical(image).dataobj, dtype=np.float32)


def case_figure(folder: str | Path, label: str | Path | None = None, num_slices: int = 3) -> Figure:
    """Pictures of one result folder: a row per slice, the columns of MRI, CT, fused, lesion, provenance and uncertainty.

    Raises:
        InputError: when the folder holds no result, or its MRI has gone.
    """
    folder = Path(folder)
    try:
        facts = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError) as e:
        raise InputError(f"{folder}: wanted a result folder with result.json, came none that can be read ({e})") from None
    source = facts["mri"] or facts["ct"]
    if not Path(source).is_file():
        raise InputError(f"{source}: wanted the {'MRI' if facts['mri'] else 'CT'} of this result, found no such file")
    reference = nib.load(source)
    mri = _load(source) if facts["mri"] else None
    ct = _load(facts["ct"], reference) if facts["ct"] else None
    own = {n: _load(folder / f"{n}.nii.gz") for n in ("fused", "lesion", "provenance", "uncertainty")}
    truth = _load(label, reference) if label else None
    spacing = nib.as_closest_canonical(reference).header.get_zooms()[:3]
    axis = int(np.argmax([round(float(s), 2) + 1e-3 * i for i, s in enumerate(spacing)]))
    fused = own["fused"]
    assert fused is not None
    head = fused != 0
    filled = np.flatnonzero(head.any(tuple(a for a in range(3) if a != axis)))
    lesion = truth if truth is not None and truth.any() else own["lesion"]
    chosen = {int(filled[int(q * (len(filled) - 1))]) for q in np.linspace(0.3, 0.8, num_slices)} if len(filled) else {0}
    if lesion is not None and lesion.any():
        largest = int(np.argmax(lesion.sum(tuple(a for a in range(3) if a != axis))))
        chosen = {largest, *sorted(chosen, key=lambda k: -abs(k - largest))[: num_slices - 1]}
    others = [a for a in range(3) if a != axis]
    extent = [np.flatnonzero(head.any(tuple(b for b in range(3) if b != a))) for a in others]
    window = tuple(slice(max(int(e[0]) - 3, 0), int(e[-1]) + 4) if len(e) else slice(None) for e in extent)

    def plane(volume: np.ndarray | None, k: int) -> np.ndarray | None:
        if volume is None:
            return None
        image = np.take(volume, k, axis)[window].T
        return image[:, ::-1] if axis != 0 else image  # radiological

    seen = fused if mri is None else mri
    low, high = np.percentile(seen[head], [1, 99.5]) if head.any() else (float(seen.min()), float(seen.max()))
    f_low, f_high = np.percentile(fused[head], [0.5, 99.7]) if head.any() else (low, high)
    aspect = float(spacing[others[1]] / spacing[others[0]])
    sample = plane(fused, 0)
    assert sample is not None
    height = 1.9 * min(max(sample.shape[0] * aspect / sample.shape[1], 0.3), 1.6)
    figure = Figure(figsize=(1.9 * len(_PANELS), height * len(chosen) + 0.3), facecolor="black")
    axes = figure.subplots(len(chosen), len(_PANELS), squeeze=False)
    for row, k in enumerate(sorted(chosen)):
        shown = [
            (mri, "gray", low, high), (ct, "gray", 0, 80), (ct, "gray", -500, 1300), (fused, "gray", f_low, f_high),
            (mri, "gray", low, high), (own["provenance"], "viridis", 0, 1), (own["uncertainty"], "magma", 0, 1),
        ]  # fmt: skip
        for column, (volume, colours, v_low, v_high) in enumerate(shown):
            ax = axes[row][column]
            ax.axis("off")
            ax.set_facecolor("black")
            image = plane(volume, k)
            if image is None:
                continue
            background = 0.35 * np.asarray(plane(head, k), dtype=float)
            ax.imshow(background, cmap="gray", vmin=0, vmax=1, origin="lower", aspect=aspect)
            ax.imshow(image, cmap=colours, vmin=v_low, vmax=max(v_high, v_low + 1e-6), origin="lower", aspect=aspect)
            if _PANELS[column] in ("lesion on MRI", "fused"):
                for mask, colour in ((truth, "lime"), (own["lesion"], "red")):
                    outline = plane(mask, k)
                    if outline is not None and 0 < outline.mean() < 1:
                        ax.contour(outline, [0.5], colors=colour, linewidths=0.8)
            if row == 0:
                ax.set_title(_PANELS[column], color="white", fontsize=9)
    figure.subplots_adjust(0.003, 0.003, 0.997, 1 - 0.26 / (height * len(chosen) + 0.3), wspace=0.02, hspace=0.02)
    return figure


def history_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Curves of a training: loss components, gradient shares, regional SSIM beside the baselines, lesion scores."""
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


def _spread_text(facts: Mapping[str, Any]) -> str:
    """What the draws differ by: mean deviation of the lesion probability from noise, from mirrors and from both."""
    spread = {k: v for k, v in facts.get("lesion_spread", {}).items() if v is not None}
    return " · spread of the lesion probability: " + ", ".join(f"{v:.3f} {k}" for k, v in spread.items()) if spread else ""


def _cell(entry: Mapping[str, Any] | None, digits: int) -> dict[str, str]:
    if not entry or entry.get("mean") is None:
        return {"value": "–", "ci": ""}
    if isinstance(entry["mean"], str):
        return {"value": "∞" if entry["mean"] == "inf" else entry["mean"], "ci": ""}
    ci = entry.get("ci95")
    text = f"{ci[0]:.{digits}f} … {ci[1]:.{digits}f}" if ci and not any(isinstance(c, str) for c in ci) else ""
    return {"value": f"{entry['mean']:.{digits}f}", "ci": text}


def _table(blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    names = [m for m in _METRICS if any(m in b for b in blocks.values())]
    rows = [
        {
            "name": _METHODS.get(k, k), "own": k == "roi_fusion", "cases": b.get("cases", ""),
            "cells": [_cell(b.get(m), _METRICS[m][1]) for m in names],
        }
        for k, b in blocks.items()
    ]  # fmt: skip
    return {"head": [_METRICS[m][0] for m in names], "rows": rows}


def metrics_text(output_dir: str | Path) -> str:
    """The means of ``summary.json`` as a text table, a line per metric and a column per method.

    Raises:
        InputError: when there is no summary.
    """
    path = Path(output_dir) / "summary.json"
    if not path.is_file():
        raise InputError(f"{path}: wanted the summary of an evaluation, found no such file")
    summary = json.loads(path.read_text())
    table = _table(summary["methods"])
    width = max(len(h) for h in table["head"])
    names = [r["name"].split(" (")[0] for r in table["rows"]]
    lines = [f"{summary['cases']} cases".ljust(width) + "".join(f"  {n:>18}" for n in names)]
    for i, head in enumerate(table["head"]):
        lines.append(head.ljust(width) + "".join(f"  {r['cells'][i]['value']:>18}" for r in table["rows"]))
    return "\n".join(lines)


def _case_order(folder: Path, results: Sequence[Path]) -> list[Path]:
    """Worst lesion Dice first where there is one, else by name."""
    dice: dict[str, float] = {}
    if (folder / "metrics.csv").is_file():
        with (folder / "metrics.csv").open() as f:
            for row in csv.DictReader(f):
                if row["method"] == "roi_fusion" and row.get("lesion_dice"):
                    dice[row["case"]] = float(row["lesion_dice"])
    return sorted(results, key=lambda p: (dice.get(p.name, 2.0), p.name))


def write_report(output_dir: str | Path, *, history_dir: str | Path | None = None, max_cases: int = 24) -> Path | None:
    """Write ``report.html`` into a folder of results from its volumes, ``summary.json``, ``errors.json`` and a history.

    Args:
        output_dir: folder of results.
        history_dir: training whose curves are shown; `output_dir` itself when it holds a history.
        max_cases: cases with pictures, worst lesion Dice first.

    Returns:
        The page, or None on other ranks than the first.

    Raises:
        InputError: when there is nothing to report on.
    """
    if not is_first_rank():
        return None
    folder = Path(output_dir)
    results = [p.parent for p in sorted(folder.glob("*/result.json"))]
    history = Path(history_dir) if history_dir else folder
    curves = []
    if (history / "history.jsonl").is_file():
        rows = read_history(history)
        curves = [{"name": n, "data": figure_uri(f, 90)} for n, f in history_figures(rows).items()] if rows else []
    summary = json.loads((folder / "summary.json").read_text()) if (folder / "summary.json").is_file() else None
    refused = json.loads((folder / "errors.json").read_text()) if (folder / "errors.json").is_file() else {}
    if not results and not curves and summary is None and not refused:
        raise InputError(f"{folder}: wanted a folder of results or of a training, found neither")
    cases = []
    for path in _case_order(folder, results)[:max_cases]:
        facts = json.loads((path / "result.json").read_text())
        label = next(
            (
                p
                for p in (Path(facts["mri"] or facts["ct"]).parent / f"lesion_mask{e}" for e in (".nii.gz", ".nii"))
                if p.is_file()
            ),
            None,
        )
        try:
            data = figure_uri(case_figure(path, label))
        except InputError as e:
            refused[path.name] = str(e)
            continue
        missing = f"made WITHOUT a {facts['missing'].upper()} · " if facts.get("missing") else ""
        interval = facts.get("lesion_ml_interval")  # None where the weights were not calibrated
        between = f" ({interval[0]:.2f}–{interval[1]:.2f})" if interval else ""
        text = (
            f"{missing}lesion {facts['lesion_ml']:.2f} mL{between} · "
            f"largest intensity from neither MRI nor CT {facts['largest_residual']:.3g} MRI units · "
            f"{facts['num_inference_steps']} steps, {facts['num_samples']} draws, seed {facts['seed']}, "
            f"guidance {facts['guidance']['mode']}{_spread_text(facts)}"
        )
        cases.append({"name": path.name, "facts": text, "data": data})
    shown = f"{len(cases)} of {len(results)} cases, worst lesion Dice first." if len(results) > len(cases) else ""
    page = Environment(autoescape=True).from_string(_PAGE).render(
        title=f"ROI Fusion report: {folder.resolve().name}", version=__version__, refused=refused, cases=cases,
        case_note=shown, curves=curves,
        plots=[{"name": n, "data": figure_uri(f, 85)} for n, f in evaluation_figures(folder).items()],
        table=_table(summary["methods"]) if summary else None, n_cases=summary["cases"] if summary else 0,
        counts=summary["counts"] if summary else {}, classes=_table(summary["by_volume_class"]) if summary else None,
    )  # fmt: skip
    out = folder / "report.html"
    out.write_text(page, encoding="utf-8")
    logger.info("report: %s", out)
    return out


def write_training_report(output_dir: str | Path) -> Path | None:
    """``report.html`` of a training: its curves."""
    return write_report(output_dir)
