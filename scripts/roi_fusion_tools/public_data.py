# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Scores the results on published data with the metrics of their challenges, as a table to lay beside the challenge's own."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roi_fusion.data.grids import same_grid, spacing_mm
from roi_fusion.data.io import read_volume
from roi_fusion.data.results import versions
from roi_fusion.errors import InputError
from roi_fusion.values import printable, read_json, whole_file, write_json

from .challenge_metrics import challenge_row

__all__ = ["PUBLIC_SETS", "PublicSet", "score_public", "table_text"]

_ISLES = ("dice", "volume_difference_ml", "lesion_count_difference")


@dataclass(frozen=True)
class PublicSet:
    """Published data and how their authors measure.

    Attributes:
        title: as in papers.
        images: what the challenge's methods are given: mri, ct or pair.
        contrast: whose grid the lesion masks lie on; auto where any will do.
        metrics: columns of :data:`~.challenge_metrics.CHALLENGE_METRICS`.
        aside: how the table may and may not be compared.
    """

    title: str
    images: str
    contrast: str
    metrics: tuple[str, ...]
    aside: str


PUBLIC_SETS: dict[str, PublicSet] = {
    "isles22": PublicSet(
        "ISLES'22",
        "mri",
        "auto",
        (*_ISLES, "lesion_f1"),
        "The 250 public cases are the challenge's training set; its test set of 150 is hidden. "
        "Its methods see DWI, ADC and FLAIR together, this one a single contrast.",
    ),
    "isles24": PublicSet(
        "ISLES'24",
        "ct",
        "auto",
        (*_ISLES, "lesion_f1_iou_50"),
        "The public cases are the challenge's training set; its test set of 98 is hidden. Its methods predict the "
        "final infarct from the CT, CT angiography and perfusion of admission, this one from the plain CT; with the MRI of "
        "days later (--images pair or mri) it is another, easier task.",
    ),
    "apis": PublicSet(
        "APIS",
        "ct",
        "auto",
        ("dice", "precision", "recall", "hausdorff_mm"),
        "The challenge's methods see the plain CT of its test cases, whose masks are hidden; each radiologist's masks count by "
        "themselves, and the mean of both is shown.",
    ),
    "soop": PublicSet(
        "SOOP",
        "mri",
        "dwi",
        (*_ISLES, "lesion_f1"),
        "No challenge belongs to these data, and no official split: the metrics are those of ISLES'22.",
    ),
    "atlas2": PublicSet(
        "ATLAS v2.0",
        "mri",
        "auto",
        ("dice", "volume_difference_voxels", "lesion_count_difference", "lesion_f1"),
        "The 655 cases with masks are the challenge's training set; the masks of its 300 test cases are hidden. "
        "The lesions are chronic, the weights know acute ones.",
    ),
    "isles15": PublicSet(
        "ISLES'15 SISS",
        "mri",
        "auto",
        ("assd_mm", "dice", "hausdorff_mm", "precision", "recall"),
        "The 28 cases with masks are the challenge's training set; the masks of its 36 test cases are hidden. Its methods see "
        "FLAIR, DWI, T1 and T2 together, this one a single contrast. Distances are means over cases with both masks.",
    ),
}


def score_public(name: str, cases_dir: str | Path, results_dir: str | Path, output_dir: str | Path) -> dict[str, Any]:
    """Score the predicted masks of prepared cases and write ``<name>.csv``, ``<name>.json`` and ``<name>.md``.

    A case without a lesion mask is not scored. With masks of several raters each is a row, and a case counts with their mean.

    Args:
        name: key of :data:`PUBLIC_SETS`.
        cases_dir: cases, as ``roi-fusion prepare`` wrote them.
        results_dir: their results; ``errors.json`` there and beside the cases holds what was refused.
        output_dir: folder of the tables.

    Returns:
        The content of the JSON: ``set``, ``metrics`` (each with ``cases``, ``mean``, ``sd``, ``median``), ``cases``,
        ``unscored`` and ``refused``.

    Raises:
        InputError: when no case can be scored.
    """
    known, root, results = PUBLIC_SETS[name], Path(cases_dir), Path(results_dir)
    refused = {**_errors(root), **_errors(results)}
    rows: list[dict[str, Any]] = []
    unscored = []
    for folder in sorted(p.parent for p in root.glob("*/case.json")):
        masks = sorted(folder.glob("lesion_mask*.nii.gz"))
        found = results / folder.name / "lesion.nii.gz"
        if folder.name in refused:
            continue
        if not masks:
            unscored.append(folder.name)
            continue
        if not found.is_file():
            refused[folder.name] = f"{found}: expected the lesion of {folder.name}, there is none"
            continue
        part = read_json(folder / "case.json").get("part") or ""
        for mask in masks:
            rater = mask.name.removesuffix(".nii.gz").removeprefix("lesion_mask").lstrip("_") or "r1"
            scores = _scores(found, mask, known.metrics)
            rows.append({"case": folder.name, "part": part, "rater": rater if len(masks) > 1 else "", **scores})
    if not rows:
        why = next(iter(refused.values()), f"none of {len(unscored)} cases has a lesion mask")
        raise InputError(f"{name}: expected at least one case to score, got none ({why})")
    content = {
        "set": name,
        "title": known.title,
        "metrics": {m: _summary(rows, m) for m in known.metrics},
        "aside": known.aside,
        "cases": rows,
        "unscored": unscored,
        "refused": dict(sorted(refused.items())),
        "versions": versions(),
    }
    out = Path(output_dir)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{name}.json", content)
    with whole_file(out / f"{name}.csv") as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: printable(v) if isinstance(v, str) else _shown(v) for k, v in row.items()} for row in rows)
    (out / f"{name}.md").write_text(table_text(content), encoding="utf-8")
    return content


def _errors(folder: Path) -> dict[str, str]:
    return read_json(folder / "errors.json") if (folder / "errors.json").is_file() else {}


def _scores(found: Path, mask: Path, names: Sequence[str]) -> dict[str, float]:
    pred, reference = (read_volume(p, as_stored=True) for p in (found, mask))
    if not same_grid(pred.array.shape, pred.affine, reference.array.shape, reference.affine):
        raise InputError(f"{found}: expected the grid {reference.array.shape} of {mask}, got {pred.array.shape}")
    scores = challenge_row(pred.array > 0, reference.array > 0, spacing_mm(reference.affine).tolist(), names)
    return {name: round(value, 4) if np.isfinite(value) else float("nan") for name, value in scores.items()}


def _summary(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float | int | None]:
    """Mean, standard deviation and median over cases; raters of a case count with their mean."""
    cases: dict[str, list[float]] = {}
    for row in rows:
        if np.isfinite(row[metric]):
            cases.setdefault(row["case"], []).append(row[metric])
    values = [statistics.fmean(v) for v in cases.values()]
    if not values:
        return {"cases": 0, "mean": None, "sd": None, "median": None}
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {
        "cases": len(values),
        "mean": round(statistics.fmean(values), 4),
        "sd": None if spread is None else round(spread, 4),
        "median": round(statistics.median(values), 4),
    }


def _shown(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:g}"


def table_text(content: Mapping[str, Any]) -> str:
    """The table of a set in Markdown: a row a metric, and below it what was left out and what it may be compared with."""
    scored = len({row["case"] for row in content["cases"]})
    lines = [
        f"{content['title']}: {scored} case{'s' if scored != 1 else ''} scored",
        "",
        "| metric | cases | mean ± sd | median |",
        "|---|---|---|---|",
    ]
    for metric, s in content["metrics"].items():
        spread = "" if s["sd"] is None else f" ± {s['sd']:g}"
        lines.append(f"| {metric} | {s['cases']} | {_shown(s['mean'])}{spread} | {_shown(s['median'])} |")
    lines += ["", content["aside"]]
    if content["unscored"]:
        lines += ["", f"Without a lesion mask, not scored: {', '.join(content['unscored'])}."]
    if content["refused"]:
        lines += ["", f"Refused, not scored ({len(content['refused'])}; a challenge counts such a case as its worst):", ""]
        lines += [f"- {printable(case)}: {printable(sentence)}" for case, sentence in content["refused"].items()]
    return "\n".join(lines) + "\n"
