# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Evaluation and inference over cases: the evaluator, the table of metrics and the writer of results."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.engines import SupervisedEvaluator

from ..console import short_path
from ..core.choices import MASK_NAMES
from ..core.conflict import conflict_sentence
from ..core.facts import facts_of
from ..core.intensity import IntensityMap
from ..core.target import brain_region, ct_weight
from ..data.grids import spacing_of
from ..data.shards import errors_file
from ..data.transforms.loading import true_mask_beside
from ..data.transforms.plausibility import warnings_of
from ..errors import InputError
from ..metrics.fusion import FusionComparison, baselines
from ..metrics.hyperdense import HyperdenseReference
from ..metrics.lesion import LesionComparison
from ..metrics.table import means_by_column
from ..values import PREDICTION_CHANNELS
from .case_metrics import CaseMetric, FusionMetric, LesionMetric, checked_metrics
from .handlers import count_at_bounds
from .lesion_statement import unlike_training
from .weights import record_of

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = [
    "CaseEvaluator",
    "CaseMetrics",
    "CasePreparer",
    "conflict_volume_ml",
    "mask_names",
    "measure_fused",
    "require_results",
    "volume_class",
]

logger = logging.getLogger(__name__)


_MASK_KEYS = dict(zip(MASK_NAMES, ("brain", "bone", "label")))


def mask_names(guidance_masks: str | Sequence[str]) -> tuple[str, ...]:
    """Names of masks that guide; one name may come as a word.

    Raises:
        InputError: for a name that is not of :data:`~roi_fusion.core.choices.MASK_NAMES`.
    """
    names = (guidance_masks,) if isinstance(guidance_masks, str) else tuple(guidance_masks)
    for name in names:
        if name not in MASK_NAMES:
            raise InputError(f"guidance_masks: expected names of {', '.join(MASK_NAMES)}, got {name!r}")
    return names


def _has_file(names: Sequence[str], case: Mapping[str, Any]) -> list[str]:
    """Those masks of :func:`mask_names` that a case, or every case of a batch, brought as a file."""
    known = (torch.as_tensor(case.get(f"{_MASK_KEYS[name]}_known", 0)) for name in names)
    return [name for name, value in zip(names, known) if bool((value > 0).all())]


class CasePreparer:
    """The evaluator's ``prepare_batch``: a collated batch → image, label or None, and what else the inferer uses.

    Args:
        guidance_masks: names of the case's own masks that guide in place of the network's, see
            :data:`~roi_fusion.core.choices.MASK_NAMES`. None are taken unless they are named here: a reference lesion that
            lies beside the images must not find its way into the prediction that it is compared with. A case that lacks the
            file is guided by the network's own, with a warning.

    Raises:
        InputError: for an unknown name.
    """

    def __init__(self, guidance_masks: str | Sequence[str] = ()) -> None:
        self.guidance_masks = mask_names(guidance_masks)

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple, dict[str, Any]]:
        label = batch.get("label")
        image = batch["image"].to(device, non_blocking=non_blocking)
        masks = {n: torch.as_tensor(batch[_MASK_KEYS[n]]) for n in _has_file(self.guidance_masks, batch)}
        for name in self.guidance_masks:
            if name not in masks:
                logger.warning("%s: no %s.nii.gz to guide by, the network's own guides", batch.get("case"), name)
        return image, None if label is None else label.to(device), (), {"intensity": batch.get("intensity"), "masks": masks}


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's evaluator over cases; a batch whose cases were all refused passes without a prediction."""

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict:  # type: ignore[override]
        refused: Any = batchdata.pop("refused", {})  # read by a worker, whose copy of the data set is not this one
        getattr(getattr(self.data_loader, "dataset", None), "errors", {}).update(refused)
        if not batchdata:
            engine.state.batch = []
            return []  # type: ignore[return-value]
        return super()._iteration(engine, batchdata)


def volume_class(volume_ml: float) -> str:
    """``none``, ``small`` (< 5 mL), ``medium`` (5–20 mL) or ``large`` (> 20 mL)."""
    if not volume_ml > 0:
        return "none"
    return "small" if volume_ml < 5 else "medium" if volume_ml <= 20 else "large"


class CaseMetrics:
    """Measure every case of an evaluation, with average, maximum, paste and target as rows of the same table.

    Attached under the name of the key metric, it leaves in ``engine.state``: ``case_rows`` with everything, which the metrics
    publish their means of; ``baselines`` with the means of the other rows; and in ``metrics`` the counts and the key metric,
    the mean of some metrics. By default these are both context SSIMs and the lesion Dice, which no paste and no empty mask
    maximises.

    Args:
        threshold: of the lesion probability; a tensor is read when it is used.
        with_baselines: also measure the baselines, once per case.
        guidance_masks: of :class:`CasePreparer`; a lesion that was given is no prediction and gets no score.
        metrics: column → metric, the evaluator's ``additional_metrics``; None:
            :func:`~roi_fusion.engine.case_metrics.default_metrics`.
        score_of: metrics whose mean is the key metric; those that do not exist are left out.

    Raises:
        InputError: for a metric under another name than its own, and for a part of the score that is not measured.
    """

    def __init__(
        self,
        threshold: float | torch.Tensor = 0.5,
        with_baselines: bool = True,
        guidance_masks: str | Sequence[str] = (),
        metrics: Mapping[str, CaseMetric] | None = None,
        score_of: Sequence[str] = ("brain_ssim_context", "bone_ssim_context", "lesion_dice"),
    ) -> None:
        self.threshold, self.with_baselines = threshold, with_baselines
        self.lesion_given = "lesion_mask" in mask_names(guidance_masks)
        self.metrics, self.score_of = checked_metrics(metrics), tuple(score_of)
        for name in self.score_of:
            if name not in self.metrics:
                raise InputError(f"score_of: expected measured metrics ({', '.join(self.metrics)}), got {name}")
        self._rows: list[dict[str, Any]] = []
        self._baseline_rows: dict[str, list[dict[str, Any]]] = {}
        self._name = "score"

    def attach(self, engine: Engine, name: str) -> None:
        self._name = name
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._publish)

    def _reset(self, engine: Engine) -> None:
        self._rows = []

    def _update(self, engine: Engine) -> None:
        state: Any = engine.state
        record = record_of(engine.network) if hasattr(engine, "network") else {}
        for item, output in zip(state.batch, state.output):
            prediction = output.get("prediction", output["pred"])
            rows = self.measure(item, prediction)
            unknown = unlike_training(item, facts_of(prediction), record) if record else None
            rows[0]["outside_training"] = " | ".join(unknown or [])
            if "conflict" in output:  # a validation in training writes no results
                rows[0]["conflict_ml"] = conflict_ml = conflict_volume_ml(item, output)
                rows[0]["warnings"] = " | ".join(filter(None, [*warnings_of(item), conflict_sentence(conflict_ml)]))
            self._rows += rows
        state.case_rows = self._rows  # so far, of this rank

    def measure(self, item: Mapping[str, Any], prediction: torch.Tensor) -> list[dict[str, Any]]:
        """Rows of one case: the network's, then the baselines'.

        Args:
            item: the decollated case after preprocessing.
            prediction: the inferer's channels ``[6, X, Y, Z]``.
        """
        common, image, _ = parts = _case_regions(item)
        case, spacing = common["case"], spacing_of(item["image"])
        channel = {n: torch.as_tensor(prediction[i : i + 1]).cpu() for i, n in enumerate(PREDICTION_CHANNELS)}
        row = _fusion_row(*parts, "roi_fusion", channel["fused"], self.metrics)
        threshold = float(self.threshold)
        row["lesion_pred_ml"] = float((channel["lesion_prob"] > threshold).sum()) * _voxel_ml(item)
        if not row["lesion_pred_ml"] and float(item.get("plausibility", {}).get("brain_unseen", 0.0)) > 0:
            row["lesion_pred_ml"] = math.nan  # nothing found is no 0 mL where a part of the brain was not seen
        row["warnings"] = " | ".join(warnings_of(item))
        if common["volume_class"] != "unknown" and not self.lesion_given:
            _, outside = _lesion_voxels(item)
            lesion = LesionComparison(
                channel["lesion_prob"],
                item["label"],
                spacing_mm=spacing,
                threshold=threshold,
                outside_voxels=outside,
                brain=torch.as_tensor(item["brain"]),
            )
            row.update({n: m(lesion) for n, m in self.metrics.items() if isinstance(m, LesionMetric)})
            row["n_empty_pred"], row["n_empty_ref"] = float(lesion.empty_pred), float(lesion.empty_reference)
            if outside:
                part = outside * _voxel_ml(item)
                logger.warning(
                    "%s: %.2f of %.2f mL of the lesion lie outside of the CT's head, missed", case, part, row["lesion_ml"]
                )
        row["n_cases"] = 1.0
        row["fused_at_bounds"] = float(count_at_bounds(channel["fused"][None], image[None]))
        if self.with_baselines and case not in self._baseline_rows:
            bone, dense, brain = (torch.as_tensor(item[k]).cpu()[None] > 0 for k in ("bone", "dense", "brain"))
            volumes = baselines(image[None], bone, ct_weight(bone | dense, brain))
            self._baseline_rows[case] = [_fusion_row(*parts, name, v[0], self.metrics) for name, v in volumes.items()]
        return [row, *self._baseline_rows.get(case, [])]

    def _publish(self, engine: Engine) -> None:
        rows = _gather(self._rows)
        means = {m: means_by_column([r for r in rows if r["method"] == m]) for m in dict.fromkeys(r["method"] for r in rows)}
        own = means.pop("roi_fusion", {})
        finite = [own[n] for n in self.score_of if math.isfinite(own.get(n, math.nan))]
        engine.state.metrics.update({n: v for n, v in own.items() if n not in self.metrics})
        engine.state.metrics[self._name] = sum(finite) / len(finite) if finite else math.nan
        state: Any = engine.state
        state.baselines, state.case_rows = means, rows


def _voxel_ml(item: Mapping[str, Any]) -> float:
    return float(np.prod(spacing_of(item["image"]))) / 1000


def conflict_volume_ml(item: Mapping[str, Any], output: Mapping[str, Any]) -> float:
    """Volume in mL where the CT's bone lies over brain of the MRI; NaN of a case that lacks one of both.

    Args:
        item: the case after preprocessing.
        output: its result after postprocessing, with ``conflict``.
    """
    if item.get("missing") or "conflict" not in output:
        return math.nan
    return float((torch.as_tensor(output["conflict"]) > 0).sum()) * _voxel_ml(item)


def _lesion_voxels(item: Mapping[str, Any]) -> tuple[int, int]:
    """Voxels of the reference lesion: all, and those that the crop to the CT's head has left out."""
    inside = int((torch.as_tensor(item["label"]) > 0).sum())
    total = max(inside, round(float(item.get("label_voxels", inside))))
    return total, total - inside


def _case_regions(item: Mapping[str, Any]) -> tuple[dict[str, Any], torch.Tensor, dict[str, Any]]:
    """What names a case in the table, its image ``[2, X, Y, Z]``, and the regions and constants that it is measured with."""
    image = torch.as_tensor(item["image"]).float().cpu()
    bone, dense, brain = (torch.as_tensor(item[k]).cpu() > 0 for k in ("bone", "dense", "brain"))
    region = brain_region(brain[None], (bone | dense)[None])[0]
    known = bool(float(item.get("label_known", 0)))
    volume = _lesion_voxels(item)[0] * _voxel_ml(item) if known else math.nan
    common = {
        "case": str(item["case"]),
        "lesion_ml": volume,
        "volume_class": volume_class(volume) if known else "unknown",
    }
    if item.get("missing") == "mri":  # all of the head is to come from the CT then, not blood and calcium
        dense = torch.zeros_like(dense)
    truth = partial(true_mask_beside, item["image"], "hyperdense_mask")
    regions = {
        "brain": region,
        "bone": bone,
        "dense": dense,
        "intensity": IntensityMap.from_case(item["intensity"]),
        "hyperdense": HyperdenseReference(brain[0].numpy(), bone[0].numpy(), spacing_of(item["image"]), truth),
    }
    return common, image, regions


def measure_fused(
    item: Mapping[str, Any], method: str, fused: torch.Tensor, metrics: Mapping[str, CaseMetric] | None = None
) -> dict[str, Any]:
    """The fusion part of a row, for a fused volume of any origin.

    Args:
        item: the case after preprocessing.
        method: its name in the table.
        fused: in normalised units, ``[1, X, Y, Z]``.
        metrics: as of :class:`CaseMetrics`.
    """
    return _fusion_row(*_case_regions(item), method, fused, checked_metrics(metrics))


def _fusion_row(
    common: dict[str, Any],
    image: torch.Tensor,
    regions: dict[str, Any],
    method: str,
    fused: torch.Tensor,
    metrics: Mapping[str, CaseMetric],
) -> dict[str, Any]:
    case = FusionComparison(fused.cpu(), image, **regions)
    return {**common, "method": method, **{n: m(case) for n, m in metrics.items() if isinstance(m, FusionMetric)}}


def _gather(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all ranks, each case once (a distributed sampler repeats cases to fill its last round)."""
    if dist.is_available() and dist.is_initialized():
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, rows)
        rows = [r for part in parts for r in part]
    return list({(r["case"], r["method"]): r for r in rows}.values())


def require_results(evaluator: Any, dataset: Any, output_dir: str | Path, shard: str | None = None) -> None:
    """End with a sentence when not one case could be used; otherwise say how many could not and where the results lie.

    Args:
        evaluator: that has run.
        dataset: its data set, with ``errors``.
        output_dir: folder of the results.
        shard: of the run, which may well be empty and has no tables.

    Raises:
        InputError: when every case was refused and this is no shard.
    """
    errors = dict(getattr(dataset, "errors", {}))
    done = len({r["case"] for r in getattr(evaluator.state, "case_rows", [])})
    skipped = int(getattr(dataset, "skipped", 0))
    if not done and not skipped and shard is None:
        raise InputError(next(iter(errors.values()), "expected at least one usable case, got none"))
    folder = Path(output_dir)
    why = f" (why: {short_path(errors_file(folder, shard))})" if errors else ""
    earlier = f", {skipped} done before" if skipped else ""
    logger.info("%d case%s done%s, %d refused%s", done, "" if done == 1 else "s", earlier, len(errors), why)
    if shard is not None:
        logger.info(
            "results: %s  tables and report of all shards: roi-fusion report %s", short_path(folder), short_path(folder)
        )
        return
    tables = [short_path(folder / n) for n in ("metrics.csv", "summary.json") if (folder / n).is_file()]
    logger.info("results: %s  tables: %s", short_path(folder), ", ".join(tables) or "none")
