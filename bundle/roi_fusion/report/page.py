# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""``report.html``: one self-contained page about a training, an evaluation or an inference, made from the files it left."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from .. import __version__
from ..console import short_path
from ..data.history import read_history
from ..data.results import read_result, result_folders
from ..errors import InputError
from ..values import is_first_rank, printable, read_json, whole_file
from .case_figure import case_figure
from .plots import evaluation_figures, figure_uri, history_figures

__all__ = ["metrics_text", "write_report", "write_training_report"]

logger = logging.getLogger(__name__)


_METHODS = {
    "roi_fusion": "ROI Fusion",
    "average": "average",
    "maximum": "maximum",
    "paste": "paste (CT bone into MRI)",
    "target": "training target F*",
}


_METRICS = {
    "brain_ssim": ("brain SSIM", 3),
    "bone_ssim": ("bone SSIM", 3),
    "brain_ssim_context": ("brain SSIM, context", 3),
    "bone_ssim_context": ("bone SSIM, context", 3),
    "brain_psnr": ("brain PSNR dB", 1),
    "bone_psnr": ("bone PSNR dB", 1),
    "global_ssim": ("global SSIM", 3),
    "seam_ratio": ("seam ratio", 2),
    "hyperdense_shown": ("blood and calcium shown", 2),
    "lesion_dice": ("lesion Dice", 3),
    "lesion_nsd_2mm": ("NSD 2 mm", 3),
    "lesion_hd95_mm": ("HD95 mm", 1),
    "lesion_f1": ("lesion F1", 3),
    "lesion_volume_difference_ml": ("volume difference mL", 2),
    "lesion_ece": ("ECE", 3),
    "lesion_brier": ("Brier", 3),
}


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
{% for note in notes %}<div class="warn">{{ note }}</div>{% endfor %}
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
{% if gates %}<h2>Gates</h2><p class="note">What a training should exceed at its first validation from an epoch on.</p>
<div class="scroll"><table><thead><tr><th>metric</th><th>epoch</th><th>above</th><th>value</th><th>gate</th></tr></thead><tbody>
{% for g in gates %}<tr><td>{{ g.metric }}</td><td>{{ g.epoch }}</td><td>{{ g.least if g.least is not none else "–" }}</td>
<td>{{ "%.3f"|format(g.value) if g.value is not none else "–" }}</td>
<td>{{ "not reached" if g.passed is none else "passed" if g.passed else "MISSED" }}</td></tr>
{% endfor %}</tbody></table></div>{% endif %}
{% if cases %}<h2>Cases</h2><p class="note">{{ case_note }} Radiological convention: the patient's right is on the left.
Red: predicted
lesion; green: reference. Share of the MRI: grey where nothing can be told.</p>
{% for case in cases %}<h3>{{ case.name }}</h3><p class="facts">{{ case.facts }}</p>
{% for w in case.warnings %}<p class="warn">{{ w }}</p>{% endfor %}<img alt="{{ case.name }}" src="{{
case.data }}">{% endfor %}
{% endif %}</body></html>
"""


def _spread_text(facts: Mapping[str, Any]) -> str:
    """Mean deviation of the lesion probability between draws: from noise, from mirroring and from both."""
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
            "name": _METHODS.get(k, k),
            "own": k == "roi_fusion",
            "cases": b.get("cases", ""),
            "cells": [_cell(b.get(m), _METRICS[m][1]) for m in names],
        }
        for k, b in blocks.items()
    ]
    return {"head": [_METRICS[m][0] for m in names], "rows": rows}


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
        table = _table(summary["methods"])
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path}: expected the summary of an evaluation, got {type(e).__name__}: {str(e)[:160]!r}") from None
    width = max(len(h) for h in table["head"])
    names = [r["name"].split(" (")[0] for r in table["rows"]]
    lines = [f"{summary['cases']} cases".ljust(width) + "".join(f"  {n:>18}" for n in names)]
    for i, head in enumerate(table["head"]):
        lines.append(head.ljust(width) + "".join(f"  {r['cells'][i]['value']:>18}" for r in table["rows"]))
    return "\n".join(lines)


def _gates(training: Path) -> list[dict[str, Any]]:
    """The gates of a training as its doctor has noted them; none without notes, or where an earlier version wrote a list."""
    path = training / "doctor.json"
    notes = read_json(path) if path.is_file() else {}
    return notes.get("gates", []) if isinstance(notes, dict) else []


def _case_order(folder: Path, results: Sequence[Path]) -> list[Path]:
    """Result folders ordered by lesion Dice, worst first, then by name."""
    dice: dict[str, float] = {}
    if (folder / "metrics.csv").is_file():
        with (folder / "metrics.csv").open() as f:
            for row in csv.DictReader(f):
                if row["method"] == "roi_fusion" and row.get("lesion_dice"):
                    dice[row["case"]] = float(row["lesion_dice"])
    return sorted(results, key=lambda p: (dice.get(p.name, 2.0), p.name))


def _case_block(path: Path) -> dict[str, Any]:
    """Name, line of facts, warnings and picture of one result folder."""
    facts = read_result(path) or {}
    beside = Path(facts["mri"] or facts["ct"]).parent
    labels = (beside / f"lesion_mask{ending}" for ending in (".nii.gz", ".nii"))
    picture = figure_uri(case_figure(path, next((p for p in labels if p.is_file()), None)))
    stale = [f"These results are {facts['stale']}"] if facts.get("stale") else []
    warnings = [*stale, *facts.get("warnings", [])]
    return {"name": printable(path.name), "facts": _facts_text(facts), "data": picture, "warnings": warnings}


def _facts_text(facts: Mapping[str, Any]) -> str:
    """The line under a case's name."""
    missing = f"made WITHOUT a {facts['missing'].upper()} · " if facts.get("missing") else ""
    volume, interval = facts["lesion_ml"], facts.get("lesion_ml_interval")  # no interval where the weights were not calibrated
    between = f" ({interval[0]:.2f}–{interval[1]:.2f})" if interval else ""
    lesion = "lesion: none found, part of the brain was not seen" if volume is None else f"lesion {volume:.2f} mL{between}"
    if volume is not None and facts.get("lesion_ml_is_lower_bound"):
        lesion = f"lesion {volume:.2f} mL or more, part of the brain was not seen"
    return (
        f"{missing}{lesion} · "
        f"largest intensity from neither MRI nor CT {facts['largest_residual']:.3g} MRI units · "
        f"{facts['num_inference_steps']} steps, {facts['num_samples']} draws, seed {facts['seed']}, "
        f"guidance {facts['guidance']['mode']}{_spread_text(facts)}"
    )


def _run_notes(history: Path, summary: Mapping[str, Any] | None) -> list[str]:
    """What has to be said of the whole page."""
    notes = []
    data = read_json(history / "run.json").get("data", {}) if (history / "run.json").is_file() else {}
    without = [name for name, facts in data.items() if facts.get("lesion_masks") == 0]
    if without:
        notes.append(f"Not one case had a lesion mask ({', '.join(without)}): nothing was learnt or measured of lesions there.")
    weights = (summary or {}).get("checkpoints", [])
    if len(weights) > 1:
        notes.append(f"The cases below were made with {len(weights)} checkpoints: {', '.join(weights)}.")
    return notes


class _Parts:
    """Parts of a page, each from files of its own; a broken one leaves its part out and a note, and never takes the rest along.

    Attributes:
        notes: a sentence for each part that is left out.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

    def __call__(self, file: Path, make: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return make()
        except InputError as e:
            self.notes.append(str(e))
        except Exception as e:  # whatever broken bytes lead to
            self.notes.append(f"{file}: expected content that can be shown, got {type(e).__name__}: {str(e)[:160]!r}")
        logger.warning("%s", printable(self.notes[-1]))
        return otherwise


def _curves(history: Path) -> list[dict[str, str]]:
    """The curves of a training, none without a history."""
    rows = read_history(history) if (history / "history.jsonl").is_file() else []
    return [{"name": n, "data": figure_uri(f, 90)} for n, f in history_figures(rows).items()] if rows else []


def _evaluation(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Tables and counts of a summary."""
    tables = {"table": _table(summary["methods"]), "classes": _table(summary["by_volume_class"])}
    return {**tables, "n_cases": int(summary["cases"]), "counts": dict(summary["counts"])}


def write_report(output_dir: str | Path, *, history_dir: str | Path | None = None, max_cases: int = 24) -> Path | None:
    """Write ``report.html`` into a folder of results from its volumes, ``summary.json``, ``errors.json`` and a history.

    Args:
        output_dir: folder of results; the page is written there.
        history_dir: folder of the training whose curves are shown; None takes `output_dir`.
        max_cases: number of cases with pictures, worst lesion Dice first.

    Returns:
        The page, or None on other ranks than the first.

    Raises:
        InputError: when the folder holds neither results nor a history.
    """
    if not is_first_rank():
        return None
    folder = Path(output_dir)
    results = [case for case in result_folders(folder) if read_result(case)]
    history = Path(history_dir) if history_dir else folder
    part, paths = _Parts(), {n: folder / f"{n}.json" for n in ("summary", "errors")}
    curves = part(history / "history.jsonl", lambda: _curves(history), [])
    summary = part(paths["summary"], lambda: read_json(paths["summary"]) if paths["summary"].is_file() else None, None)
    refused = part(paths["errors"], lambda: dict(read_json(paths["errors"])) if paths["errors"].is_file() else {}, {})
    if not results and not curves and summary is None and not refused:
        raise InputError(f"{folder}: expected a folder of results or of a training, found neither")
    cases = []
    for path in part(folder / "metrics.csv", lambda: _case_order(folder, results), results)[:max_cases]:
        try:
            cases.append(_case_block(path))
        except InputError as e:
            refused[path.name] = str(e)
        except Exception as e:  # one bad case never takes the page from the others
            refused[path.name] = f"{path}: expected results that can be shown, got {type(e).__name__}: {str(e)[:160]}"
    shown = f"{len(cases)} of {len(results)} cases, worst lesion Dice first." if len(results) > len(cases) else ""
    plots = part(folder / "metrics.csv", lambda: {n: figure_uri(f, 85) for n, f in evaluation_figures(folder).items()}, {})
    evaluation = part(paths["summary"], lambda: _evaluation(summary) if summary is not None else {}, {})
    notes = part(history / "run.json", lambda: _run_notes(history, summary), [])
    gates = part(history / "doctor.json", lambda: _gates(history), [])
    page = (
        Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            title=f"ROI Fusion report: {folder.resolve().name}",
            version=__version__,
            refused=refused,
            notes=[*notes, *part.notes],
            cases=cases,
            case_note=shown,
            curves=curves,
            gates=gates,
            plots=[{"name": n, "data": uri} for n, uri in plots.items()],
            **{"table": None, "classes": None, "n_cases": 0, "counts": {}, **evaluation},
        )
    )
    out = folder / "report.html"
    with whole_file(out) as scratch:
        scratch.write_text(printable(page), encoding="utf-8")
    logger.info("report: %s", short_path(out))
    return out


def write_training_report(output_dir: str | Path) -> Path | None:
    """Write ``report.html`` of a training, with its curves; see :func:`write_report`."""
    return write_report(output_dir)
