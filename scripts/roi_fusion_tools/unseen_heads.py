# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Evaluates weights on painted heads that no training saw: both images, the MRI alone, the CT alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from roi_fusion.config.check import inference_parser
from roi_fusion.core.guidance import RoiGuidance
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.schedule import make_scheduler
from roi_fusion.data.cases import each_item, link_file
from roi_fusion.engine.evaluator import CaseMetrics
from roi_fusion.engine.inferer import SamplingInferer, sample_case
from roi_fusion.engine.weights import load_weights
from roi_fusion.errors import InputError
from roi_fusion.values import write_json

__all__ = ["MODES", "evaluate_folder", "summarise_rows"]

logger = logging.getLogger(__name__)

#: Mode → files that the weights see.
MODES: dict[str, tuple[str, ...]] = {"pair": ("mri", "ct"), "mri": ("mri",), "ct": ("ct",)}
_MASKS = ("lesion_mask", "brain_mask", "bone_mask")
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


def evaluate_folder(
    dataset_dir: str | Path,
    checkpoint: str | Path,
    output_file: str | Path | None = None,
    modes: Sequence[str] = ("pair", "mri", "ct"),
    num_cases: int | None = None,
    num_inference_steps: int = 4,
    num_samples: int = 4,
    precision: str = "auto",
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

    Returns:
        ``{"checkpoint", "modes": {mode: {"summary", "cases"}}}``.

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
        folder = _linked(Path(dataset_dir), mode)
        dataset = inference_parser({"dataset_dir": str(folder), "allow_missing": True}).get_parsed_content("dataset")
        count = len(dataset) if num_cases is None else min(num_cases, len(dataset))
        rows = list(tqdm(_rows(network, inferer, each_item(dataset, count)), total=count, desc=mode, unit="case"))
        result["modes"][mode] = {"summary": summarise_rows(rows), "cases": rows}
        if output_file is not None:
            write_json(output_file, result)
    return result


def _linked(source: Path, mode: str) -> Path:
    """A folder beside the cases that links to the files of one mode and all masks."""
    target = source / ".modes" / mode
    for folder in sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith(".")):
        (target / folder.name).mkdir(parents=True, exist_ok=True)
        for stem in (*MODES[mode], *_MASKS):
            if (folder / f"{stem}.nii.gz").is_file():
                link_file(target / folder.name / f"{stem}.nii.gz", folder / f"{stem}.nii.gz")
    return target


def _rows(network: RoiFusionNet, inferer: SamplingInferer, items: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    metrics = CaseMetrics(threshold=network.threshold, with_baselines=False)
    for item in items:
        with torch.no_grad():
            row = metrics.measure(item, sample_case(inferer, network, item))[0]
        yield {k: row[k] for k in _KEPT if k in row}


def summarise_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of one mode: lesion Dice over cases with a lesion, below 5 mL apart, and what is marked where there is none.

    Missing values never become a number: a mean over nothing is None.
    """

    def mean(values: Iterable[float]) -> float | None:
        finite = [float(v) for v in values if v is not None and math.isfinite(float(v))]
        return round(float(np.mean(finite)), 4) if finite else None

    with_lesion = [r for r in rows if r["lesion_ml"] > 0]
    small = [r for r in with_lesion if r["lesion_ml"] < 5]
    false_ml = sorted(float(r["lesion_pred_ml"]) for r in rows if r["lesion_ml"] == 0)
    return {
        "cases": len(rows),
        "lesion_dice": mean(r.get("lesion_dice", math.nan) for r in with_lesion),
        "lesion_dice_below_5_ml": mean(r.get("lesion_dice", math.nan) for r in small),
        "lesion_nsd_2mm": mean(r.get("lesion_nsd_2mm", math.nan) for r in with_lesion),
        "lesion_free_cases": len(false_ml),
        "false_ml_nine_of_ten": round(float(np.quantile(false_ml, 0.9)), 3) if false_ml else None,
        **{k: mean(r.get(k, math.nan) for r in rows) for k in _KEPT[5:]},
    }
