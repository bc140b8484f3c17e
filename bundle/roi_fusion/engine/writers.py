# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Handlers that write what a run leaves behind: results, tables, errors and the training history."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Events

from ..core.facts import facts_of
from ..data.history import read_history
from ..data.results import save_case, versions
from ..data.transforms.loading import file_of
from ..metrics.calibration import volume_interval
from ..metrics.table import write_tables
from ..values import PREDICTION_CHANNELS, is_first_rank, write_json
from .evaluator import _has_file, _voxel_ml, mask_names
from .handlers import count_at_bounds
from .inferer import SamplingInferer

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["ErrorsWriter", "HistoryWriter", "ResultWriter", "TableWriter"]


class TableWriter:
    """Write ``metrics.csv`` and ``summary.json`` when an evaluation is completed."""

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = output_dir

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        rows = getattr(engine.state, "case_rows", [])
        if rows and is_first_rank():
            write_tables(self.output_dir, rows)


class ResultWriter:
    """Write every case's volumes and ``result.json`` as soon as it is done.

    Args:
        output_dir: folder of results.
        inferer: whose settings are recorded.
        guidance_masks: of :class:`CasePreparer`, recorded too.
    """

    def __init__(self, output_dir: str | Path, inferer: SamplingInferer, guidance_masks: str | Sequence[str] = ()) -> None:
        self.output_dir, self.inferer, self.guidance_masks = output_dir, inferer, mask_names(guidance_masks)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        for item, output in zip(state.batch, state.output):
            save_case(self.output_dir, str(item["case"]), output, self.facts(item, output))

    def facts(self, item: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """Content of ``result.json`` of a case.

        Args:
            item: the case after preprocessing.
            output: its result after postprocessing.
        """
        prediction = output["prediction"]
        facts = facts_of(prediction)
        channel = {n: torch.as_tensor(prediction[i]) for i, n in enumerate(PREDICTION_CHANNELS)}
        voxel_ml = _voxel_ml(item)
        residual = torch.as_tensor(output["residual"])
        intensity = {k: float(v) for k, v in item["intensity"].items()}
        lesion_ml = float(torch.as_tensor(output["pred"]).sum()) * voxel_ml
        interval = volume_interval(lesion_ml, channel["lesion_prob"], voxel_ml, facts.volume_quantile)
        return {
            "case": str(item["case"]),
            "mri": "" if item.get("missing") == "mri" else file_of(item["image"]),
            "ct": str(item.get("ct_file", "")),
            "missing": item.get("missing") or None,
            "reader_notices": str(item.get("reader_notices") or "").splitlines(),
            "normalisation": intensity,
            "seed": self.inferer.seed,
            "num_inference_steps": len(self.inferer.levels),
            "num_samples": self.inferer.num_samples,
            "guidance": asdict(self.inferer.guidance) if self.inferer.guidance.mode != "off" else {"mode": "off"},
            "guidance_masks": _has_file(self.guidance_masks, item),
            "guidance_energy": facts.guidance_energy,
            "lesion_spread": facts.lesion_spread,
            "lesion_threshold": facts.lesion_threshold,
            "lesion_ml": round(lesion_ml, 4),
            "lesion_ml_interval": None if interval is None else [round(v, 4) for v in interval],
            "largest_residual": float(residual.abs().max()),
            "fused_at_bounds": count_at_bounds(channel["fused"][None, None], torch.as_tensor(item["image"])[None]),
            **({"registration": {k: float(v) for k, v in item["registration"].items()}} if "registration" in item else {}),
            "versions": versions(),
        }


class HistoryWriter:
    """Append one line of JSON a training epoch to ``history.jsonl``: statistics, and validation metrics where they were made.

    A resumed run drops the lines behind the epoch it resumes from. Numbers that do not exist are left out.
    """

    def __init__(self, output_dir: str | Path, evaluator: Any = None) -> None:
        self.path, self.evaluator = Path(output_dir) / "history.jsonl", evaluator

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        if not is_first_rank():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [r for r in read_history(self.path.parent) if r["epoch"] <= engine.state.epoch] if self.path.exists() else []
        scratch = self.path.with_suffix(f".{os.getpid()}")
        scratch.write_text("".join(json.dumps(r) + "\n" for r in kept))
        os.replace(scratch, self.path)

    def _write(self, engine: Engine) -> None:
        if not is_first_rank():
            return
        row: dict[str, Any] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        row.update(_finite(engine.state.metrics))
        state = getattr(self.evaluator, "state", None)
        if state is not None and state.metrics and state.epoch == engine.state.epoch:
            row["validation"] = _finite(state.metrics)
            if hasattr(state, "baselines"):
                row["baselines"] = {k: _finite(v) for k, v in state.baselines.items()}
        with self.path.open("a") as f:
            f.write(json.dumps(row) + "\n")


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if isinstance(v, (int, float)) and np.isfinite(v)}


class ErrorsWriter:
    """Write ``errors.json``, ``{case: sentence}``, of the refused cases of some data sets; ``{}`` when there are none."""

    def __init__(self, output_dir: str | Path, datasets: Sequence[Any], refused: Mapping[str, str] | None = None) -> None:
        self.path, self.datasets, self.refused = Path(output_dir) / "errors.json", list(datasets), dict(refused or {})

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        errors = dict(self.refused)
        for dataset in self.datasets:
            errors.update(getattr(dataset, "errors", {}))
        if is_first_rank():
            write_json(self.path, errors)
