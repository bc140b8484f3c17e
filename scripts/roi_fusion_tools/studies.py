# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Studies of the sampler on a data set with references: steps, guidance, misregistration, uncertainty and seams.

Each returns rows of numbers that were measured in one run; ``roi-fusion study`` writes them as JSON and as a Markdown table.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy.spatial.transform import Rotation
from sklearn.metrics import roc_auc_score

from roi_fusion.config.check import inference_parser
from roi_fusion.core.channels import split_output, split_raw
from roi_fusion.core.guidance import RoiGuidance
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.schedule import make_scheduler
from roi_fusion.core.uncertainty import entropy_bits
from roi_fusion.data.cases import each_item, link_file
from roi_fusion.data.grids import spacing_of
from roi_fusion.engine.case_metrics import benchmark_metrics
from roi_fusion.engine.evaluator import CaseMetrics
from roi_fusion.engine.inferer import SamplingInferer, sample_case
from roi_fusion.engine.weights import load_weights
from roi_fusion.errors import InputError
from roi_fusion.metrics.calibration import volume_interval
from roi_fusion.metrics.lesion import lesion_region
from roi_fusion.values import PREDICTION_CHANNELS

from .benchmark.comparison import FUSION
from .benchmark.rules import guided_without_network, one_pass, threshold_masks

__all__ = ["POSES", "STUDIES", "auroc", "load_study", "mean_of", "move_ct", "study_table"]

logger = logging.getLogger(__name__)


_METRICS = (*FUSION, "lesion_dice", "lesion_nsd_2mm")


#: Where misregistered CTs lie: shift in mm and rotation in degrees.
POSES = ((1.0, 0.0), (2.0, 0.0), (4.0, 0.0), (0.0, 2.0), (0.0, 4.0))


Row = dict[str, Any]


def load_study(
    checkpoints: Sequence[str | Path], dataset_dir: str | Path, cases: int | None = None
) -> tuple[list[RoiFusionNet], list[Mapping[str, Any]]]:
    """A network for each of the weights, and the preprocessed cases of a folder, the first `cases` of them.

    Raises:
        InputError: when a case is refused; a study is over all cases or over none.
    """
    if cases is not None and cases < 1:
        raise InputError(f"cases: expected 1 or more, got {cases}")
    parser = inference_parser({"dataset_dir": str(dataset_dir)})
    networks: Any = [load_weights(RoiFusionNet(), file).eval() for file in checkpoints]
    return networks, list(each_item(parser.get_parsed_content("dataset"), cases))


def mean_of(rows: Sequence[Mapping[str, Any]], metric: str) -> float:
    """Mean over the cases that have the metric; NaN where none has."""
    values = [float(r[metric]) for r in rows if np.isfinite(r.get(metric, np.nan))]
    return float(np.mean(values)) if values else float("nan")


def _inferer(guidance: RoiGuidance | None, steps: int = 4, draws: int = 1, **more: Any) -> SamplingInferer:
    return SamplingInferer(make_scheduler(), steps, draws, guidance=guidance, **more)


def _measured(
    name: str,
    items: Sequence[Mapping[str, Any]],
    network: RoiFusionNet,
    predict: Callable[[Mapping[str, Any]], torch.Tensor],
) -> Row:
    """Means over the cases of what `predict` returns, and its seconds of processor time a case.

    Lesion metrics are over the cases with a lesion; those without are counted, and among them false alarms: one of a few voxels
    has a Dice of 0 and would hide in a mean what became of the lesions.
    """
    metrics = CaseMetrics(threshold=network.threshold, with_baselines=False, metrics=benchmark_metrics())
    rows, seconds = [], 0.0
    for item in items:
        start = time.process_time()
        prediction = predict(item)
        seconds += time.process_time() - start
        rows += metrics.measure(item, prediction)
    free = [r for r in rows if r["volume_class"] == "none"]
    ill = [r for r in rows if r["volume_class"] != "none"]
    means = {m: mean_of(ill if m.startswith("lesion") else rows, m) for m in _METRICS}
    logger.info("%s: %s", name, ", ".join(f"{k} {v:.3f}" for k, v in means.items()))
    alarms = sum(r["lesion_pred_ml"] > 0 for r in free)
    counts = {"lesion_free_cases": len(free), "false_alarms": alarms}
    return {"name": name, "cases": len(items), **means, **counts, "seconds_a_case": seconds / len(items)}


def steps(
    network: RoiFusionNet, items: Sequence[Mapping[str, Any]], dataset_dir: Path, output_dir: Path, precision: str = "auto"
) -> list[Row]:
    """Metrics by number of sampling steps, and guided with few and with many."""
    rows = []
    for name, settings, counts in (("", None, (1, 2, 4, 8, 50)), ("guided, ", RoiGuidance(), (4, 50))):
        for n in counts:
            predict = partial(sample_case, _inferer(settings, n, precision=precision), network)
            rows.append(_measured(f"{name}{n} step{'s' if n > 1 else ''}", items, network, predict))
    return rows


def guidance(
    network: RoiFusionNet, items: Sequence[Mapping[str, Any]], dataset_dir: Path, output_dir: Path, precision: str = "auto"
) -> list[Row]:
    """What guidance and what the network add: none, on the logits, through the network, without a network, one pass."""

    def in_one_pass(item: Mapping[str, Any]) -> torch.Tensor:
        out = one_pass(item, network, precision)
        probability = network.lesion_probability(out.lesion_logit, out.brain_logit)
        rest = torch.zeros_like(out.fused)
        return torch.cat([out.fused, probability, entropy_bits(probability), out.gate, rest, rest], dim=1)[0]

    def without_network(item: Mapping[str, Any]) -> torch.Tensor:
        found = threshold_masks(item)
        raw = guided_without_network(item, network, {"brain_mask": found.brain, "bone_mask": found.bone})
        fused = split_output(network.compose(torch.as_tensor(item["image"])[None].float(), raw)).fused
        rest = torch.zeros_like(fused)
        return torch.cat([fused, rest, rest, torch.sigmoid(split_raw(raw).gate), rest, rest], dim=1)[0]

    off, logits = _inferer(None, precision=precision), _inferer(RoiGuidance(), precision=precision)
    full = _inferer(RoiGuidance(mode="full", num_updates=1), precision=precision)
    rows = [
        _measured("network, 4 steps, no guidance", items, network, partial(sample_case, off, network)),
        _measured("network, 4 steps, guided on the logits", items, network, partial(sample_case, logits, network)),
        _measured("network, 4 steps, guided through the network", items, network, partial(sample_case, full, network)),
        _measured("network, one pass", items, network, in_one_pass),
        _measured("plain average, guided, no network (masks by CT thresholds)", items, network, without_network),
    ]
    for name in ("lesion_dice", "lesion_nsd_2mm", "false_alarms"):
        rows[-1][name] = float("nan")  # no head ran
    for row in rows:
        row["time_to_unguided"] = row["seconds_a_case"] / rows[0]["seconds_a_case"]
    return rows


def move_ct(dataset_dir: str | Path, output_dir: str | Path, shift_mm: float, angle_degrees: float, seed: int = 0) -> Path:
    """Copy a data set with its CTs and bone masks moved; only their affines change, so nothing is resampled twice.

    Args:
        dataset_dir: folder of cases.
        output_dir: folder of the copy.
        shift_mm: length of the shift, in a random direction of the axial plane.
        angle_degrees: rotation about the head's long axis, through the middle of the volume.
        seed: seed of the random directions.
    """
    folder = Path(output_dir)
    rng = np.random.default_rng(seed)
    for source in sorted(p for p in Path(dataset_dir).iterdir() if (p / "ct.nii.gz").is_file()):
        target = folder / source.name
        target.mkdir(parents=True, exist_ok=True)
        direction = rng.uniform(0, 2 * np.pi)
        for file in source.glob("*.nii.gz"):
            if file.name not in ("ct.nii.gz", "bone_mask.nii.gz"):
                link_file(target / file.name, file)
                continue
            image: Any = nib.load(file)
            middle = image.affine[:3, :3] @ ((np.array(image.shape) - 1) / 2) + image.affine[:3, 3]
            pose = np.eye(4)
            pose[:3, :3] = Rotation.from_euler("z", angle_degrees, degrees=True).as_matrix()
            pose[:3, 3] = middle - pose[:3, :3] @ middle + shift_mm * np.array([np.cos(direction), np.sin(direction), 0])
            nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), pose @ image.affine), target / file.name)
    return folder


def misregistration(
    network: RoiFusionNet, items: Sequence[Mapping[str, Any]], dataset_dir: Path, output_dir: Path, precision: str = "auto"
) -> list[Row]:
    """Metrics when the CT lies 0 to 4 mm or 0 to 4° beside the MRI, scored against the CT as given."""
    rows = []
    guided = _inferer(RoiGuidance(), precision=precision)
    for shift, angle in ((0.0, 0.0), *POSES):
        moved = items
        if shift or angle:
            folder = move_ct(dataset_dir, output_dir / f"moved_{shift:g}mm_{angle:g}deg", shift, angle)
            dataset = inference_parser({"dataset_dir": str(folder)}).get_parsed_content("dataset")
            moved = list(each_item(dataset, len(items)))
        row = _measured(f"{shift:g} mm, {angle:g}°", moved, network, partial(sample_case, guided, network))
        rows.append({**row, "shift_mm": shift, "angle_degrees": angle})
    return rows


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve; NaN where one class is missing.

    Args:
        score: ``[N]``, higher where a positive is more likely.
        positive: boolean, ``[N]``.

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
        0.75
    """
    if positive.all() or not positive.any():
        return float("nan")
    return float(roc_auc_score(positive, score))


def uncertainty(
    network: RoiFusionNet, items: Sequence[Mapping[str, Any]], dataset_dir: Path, output_dir: Path, precision: str = "auto"
) -> list[Row]:
    """Does the uncertainty predict errors, is the probability calibrated, and does the interval contain the volume?"""
    many, single = _inferer(RoiGuidance(), draws=4, precision=precision), _inferer(RoiGuidance(), draws=1, precision=precision)
    threshold, quantile = (float(torch.as_tensor(v)) for v in (network.threshold, network.volume_quantile))
    pooled: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"many": [], "single": []}  # uncertainty, and where it is wrong
    rows, held, widths = [], [], []
    metrics = CaseMetrics(threshold=threshold, with_baselines=False)
    for item in items:
        prediction, alone = sample_case(many, network, item), sample_case(single, network, item)
        probability = prediction[PREDICTION_CHANNELS.index("lesion_prob")].numpy()
        label, spacing = np.asarray(item["label"][0]) > 0, spacing_of(item["image"])
        for name, found in (("many", prediction), ("single", alone)):
            mask = found[PREDICTION_CHANNELS.index("lesion_prob")].numpy() > threshold
            region = lesion_region(mask, label, spacing_mm=spacing, margin_mm=10.0)
            pooled[name].append((found[PREDICTION_CHANNELS.index("uncertainty")].numpy()[region], (mask != label)[region]))
        rows += metrics.measure(item, prediction)
        voxel_ml = float(np.prod(spacing)) / 1000
        lesion_ml = float((probability > threshold).sum()) * voxel_ml
        interval = volume_interval(lesion_ml, torch.from_numpy(probability), voxel_ml, quantile)
        if interval is not None:
            held.append(interval[0] <= label.sum() * voxel_ml <= interval[1])
            widths.append(interval[1] - interval[0])
    areas = {name: auroc(*(np.concatenate(parts) for parts in zip(*found))) for name, found in pooled.items()}
    return [
        {
            "name": "4 draws",
            "cases": len(items),
            "auroc_of_errors": areas["many"],
            "auroc_single_pass": areas["single"],
            "ece": mean_of(rows, "lesion_ece"),
            "interval_coverage": float(np.mean(held)) if held else float("nan"),
            "interval_width_ml": float(np.median(widths)) if widths else float("nan"),
        }
    ]


def seams(
    network: RoiFusionNet, items: Sequence[Mapping[str, Any]], dataset_dir: Path, output_dir: Path, precision: str = "auto"
) -> list[Row]:
    """Tile by tile against whole: the largest difference of the fused volume anywhere, as a share of the MRI's range."""
    rows = []
    for name, settings in (("unguided", None), ("guided", RoiGuidance())):
        worst = []
        for item in items:
            size = (160, 160, 16)
            whole = sample_case(_inferer(settings, roi_size=None, precision=precision), network, item)[0]
            parts = sample_case(_inferer(settings, roi_size=size, precision=precision), network, item)[0]
            worst.append(float((whole - parts).abs().max()) * float(item["intensity"]["mri_std"]))
        found = {"largest_difference": max(worst), "median_difference": float(np.median(worst))}
        rows.append({"name": name, "cases": len(items), **found})
    return rows


STUDIES: dict[str, Callable[[RoiFusionNet, Sequence[Mapping[str, Any]], Path, Path, str], list[Row]]] = {
    "steps": steps,
    "guidance": guidance,
    "misregistration": misregistration,
    "uncertainty": uncertainty,
    "seams": seams,
}


def study_table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; what is missing is a dash."""
    names = [k for k in rows[0] if k not in ("shift_mm", "angle_degrees", "seconds_a_case")]

    def cell(value: Any) -> str:
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return "–"
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    head = ["" if n == "name" else n.replace("_", " ") for n in names]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(names) + "|"]
    return "\n".join(lines + ["| " + " | ".join(cell(row[n]) for n in names) + " |" for row in rows])
