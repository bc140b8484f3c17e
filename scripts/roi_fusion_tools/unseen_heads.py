# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Evaluates weights on painted heads that no training saw: both images, the MRI alone, the CT alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from roi_fusion.config.check import inference_parser
from roi_fusion.core.guidance import RoiGuidance
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.schedule import make_scheduler
from roi_fusion.data.modes import MODES, link_mode
from roi_fusion.engine.evaluator import CaseMetrics
from roi_fusion.engine.inferer import SamplingInferer, intensity_of
from roi_fusion.engine.lesion_statement import lesion_statement
from roi_fusion.engine.weights import load_weights, record_of
from roi_fusion.errors import InputError
from roi_fusion.report.previews import preview_figure
from roi_fusion.values import write_json

__all__ = ["evaluate_folder", "summarise_rows"]

logger = logging.getLogger(__name__)

_KEPT = (
    "case",
    "lesion_ml",
    "lesion_pred_ml",
    "lesion_dice",
    "lesion_nsd_2mm",
    "brain_ssim",
    "bone_ssim",
    "brain_ssim_context",
    "bone_ssim_context",
)

_STATED = ("lesion_ml_interval", "outside_training", "lesion_in_fluid_ml", "lesion_outside_brain_ml")


def evaluate_folder(
    dataset_dir: str | Path,
    checkpoint: str | Path,
    output_file: str | Path | None = None,
    modes: Sequence[str] = ("pair", "mri", "ct"),
    num_cases: int | None = None,
    num_inference_steps: int = 4,
    num_samples: int = 4,
    precision: str = "auto",
    pictures_dir: str | Path | None = None,
    **knobs: Any,
) -> dict[str, Any]:
    """Run the ordinary inference and metrics on case folders with truth, once per mode.

    Args:
        dataset_dir: case folders, such as :func:`~roi_fusion.data.synthesis.unseen.write_cases` writes.
        checkpoint: weights.
        output_file: JSON to write; nothing when None.
        modes: some of :data:`MODES`.
        num_cases: take the first cases only.
        num_inference_steps, num_samples: of the sampler; the defaults are those of ``inference.json``.
        precision: of the network's passes.
        pictures_dir: gets a picture of each case, ``<case>_<mode>.png``.
        knobs: of the preprocessing in ``inference.json``, such as ``register``.

    Returns:
        ``{"checkpoint", "modes": {mode: {"summary", "cases", "refused"}}}``.

    Raises:
        InputError: for an unknown mode, weights or cases that cannot be used.
    """
    unknown = [m for m in modes if m not in MODES]
    if unknown or not modes:
        raise InputError(f"modes: expected some of {', '.join(MODES)}, got {', '.join(unknown) or 'none'}")
    network: Any = load_weights(RoiFusionNet(), checkpoint).eval()
    inferer = SamplingInferer(make_scheduler(), num_inference_steps, num_samples, guidance=RoiGuidance(), precision=precision)
    result: dict[str, Any] = {"checkpoint": Path(checkpoint).name, "modes": {}}
    for mode in modes:
        folder = link_mode(dataset_dir, mode, Path(dataset_dir) / ".modes" / mode)
        dataset = inference_parser({"dataset_dir": str(folder), **knobs}).get_parsed_content("dataset")
        count = len(dataset) if num_cases is None else min(num_cases, len(dataset))
        items = (dataset[n] for n in tqdm(range(count), desc=mode, unit="case"))
        pictures = None if pictures_dir is None else (Path(pictures_dir), mode)
        rows = list(_rows(network, inferer, (item for item in items if "image" in item), pictures))
        if not rows:
            raise InputError(next(iter(dataset.errors.values()), f"{dataset_dir}: expected at least one case, got none"))
        result["modes"][mode] = {"summary": summarise_rows(rows), "cases": rows, "refused": dict(dataset.errors)}
        if output_file is not None:
            write_json(output_file, result)
    return result


def _rows(
    network: RoiFusionNet,
    inferer: SamplingInferer,
    items: Iterable[Mapping[str, Any]],
    pictures: tuple[Path, str] | None = None,
) -> Iterable[dict[str, Any]]:
    metrics = CaseMetrics(threshold=network.threshold, with_baselines=False)
    for item in items:
        prediction = inferer(item["image"][None], network, intensity=intensity_of(item))[0]
        row = metrics.measure(item, prediction)[0]
        if pictures is not None:
            pictures[0].mkdir(parents=True, exist_ok=True)
            preview_figure(item, prediction).savefig(pictures[0] / f"{row['case']}_{pictures[1]}.png", dpi=110)
        statement = lesion_statement(item, prediction, row["lesion_pred_ml"], record_of(network))
        yield {**{k: row[k] for k in _KEPT if k in row}, **{k: statement[k] for k in _STATED}}


def summarise_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of one mode: lesion Dice over cases with a lesion, below 5 mL apart, and what is marked where there is none.

    Missing values never become a number: a mean over nothing is None.
    """

    def mean(values: Iterable[float]) -> float | None:
        finite = [float(v) for v in values if v is not None and math.isfinite(float(v))]
        return round(float(np.mean(finite)), 4) if finite else None

    with_lesion = [r for r in rows if r["lesion_ml"] > 0]
    small = [r for r in with_lesion if r["lesion_ml"] < 5]
    stated = [r for r in rows if r.get("lesion_ml_interval")]
    false_ml = sorted(v for r in rows if r["lesion_ml"] == 0 and math.isfinite(v := float(r["lesion_pred_ml"])))
    return {
        "cases": len(rows),
        "lesion_dice": mean(r.get("lesion_dice", math.nan) for r in with_lesion),
        "lesion_dice_below_5_ml": mean(r.get("lesion_dice", math.nan) for r in small),
        "lesion_nsd_2mm": mean(r.get("lesion_nsd_2mm", math.nan) for r in with_lesion),
        "lesion_free_cases": len(false_ml),
        "false_ml_nine_of_ten": round(float(np.quantile(false_ml, 0.9)), 3) if false_ml else None,
        "intervals": len(stated),
        "interval_coverage": mean(
            float(r["lesion_ml_interval"][0] <= r["lesion_ml"] <= r["lesion_ml_interval"][1]) for r in stated
        ),
        "outside_training": sum(bool(r.get("outside_training")) for r in rows),
        **{k: mean(r.get(k, math.nan) for r in rows) for k in _KEPT[5:]},
    }
