# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Handlers that write what a run leaves behind: results, tables, errors and the training history."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Events

from ..core.conflict import conflict_sentence
from ..core.facts import facts_of
from ..data.cases import case_name, name_of
from ..data.history import read_history
from ..data.plausibility import lesion_sentence
from ..data.results import mark_stale, read_result, result_folders, save_case, versions, write_case_table
from ..data.shards import errors_file
from ..data.transforms.loading import file_of
from ..data.transforms.plausibility import warn_once, warnings_of
from ..metrics.table import GrowingTable, known_rows, write_tables
from ..values import PREDICTION_CHANNELS, is_first_rank, printable, whole_file, write_json
from .evaluator import _has_file, _voxel_ml, conflict_volume_ml, mask_names
from .handlers import count_at_bounds
from .inferer import SamplingInferer
from .lesion_statement import apart_sentences, lesion_statement
from .weights import public_record, record_of

if TYPE_CHECKING:
    from ignite.engine import Engine

    from .resume import Resume

__all__ = ["ErrorsWriter", "HistoryWriter", "ResultWriter", "TableWriter"]

logger = logging.getLogger(__name__)


class TableWriter:
    """Add each case to ``metrics.csv``, and write it in its final order with ``summary.json`` at the end.

    Rows of other cases that an earlier run left there stay as long as their results do: the tables are of what lies in the
    folder. ``checkpoint`` tells rows of different weights apart.

    Args:
        output_dir: folder of results.
        resume: with it, each case's folder gets its rows, what they were made of and the seconds that they took, so that a
            later run can skip the case.
        tables: false where other processes write to the folder too: then the case's folder alone is written to.
    """

    def __init__(self, output_dir: str | Path, resume: Resume | None = None, tables: bool = True) -> None:
        self.output_dir, self.resume, self.tables = Path(output_dir), resume, tables
        self._earlier: list[dict[str, Any]] = []
        self._growing = GrowingTable(output_dir)
        self._taken, self._noted = 0, set[str]()
        self._begun = time.monotonic()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._append)
        engine.add_event_handler(Events.COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self._taken, self._noted = 0, set()
        self._earlier = known_rows(self.output_dir) if is_first_rank() and self.tables else []
        data = getattr(getattr(getattr(engine, "data_loader", None), "dataset", None), "data", [])
        tried = {printable(name_of(case)) for case in data}
        self._growing = GrowingTable(self.output_dir, [r for r in self._earlier if printable(r["case"]) not in tried])

    def _begin(self, engine: Engine) -> None:
        self._begun = time.monotonic()

    def _with_checkpoint(self, engine: Engine, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        digest = str(record_of(engine.network).get("sha256", ""))[:12] if hasattr(engine, "network") else ""
        return [{**r, **({"checkpoint": digest} if digest else {})} for r in rows]

    def _note(self, rows: Sequence[Mapping[str, Any]], seconds: float | None) -> None:
        if self.resume is None:
            return
        by_case: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_case.setdefault(str(row["case"]), []).append(row)
        for case in set(by_case) - self._noted:
            write_case_table(self.output_dir / case, by_case[case], self.resume.stamp(case), seconds)
            self._noted.add(case)

    def _append(self, engine: Engine) -> None:
        found = getattr(engine.state, "case_rows", [])
        new = self._with_checkpoint(engine, found[self._taken :])
        self._taken = len(found)
        if new and is_first_rank():
            cases = len({r["case"] for r in new})
            elsewhere = getattr(engine.state, "case_seconds", None)  # on a worker of a cluster
            self._note(new, elsewhere or round((time.monotonic() - self._begun) / cases, 2))
            if self.tables:
                self._growing.add(new)

    def __call__(self, engine: Engine) -> None:
        if not is_first_rank():
            return
        rows = self._with_checkpoint(engine, getattr(engine.state, "case_rows", []))
        self._note(rows, None)  # those of other ranks
        if not self.tables:
            return
        done = {printable(r["case"]) for r in rows} | _stale_cases(self.output_dir)
        rows = [r for r in self._earlier if printable(r["case"]) not in done] + rows
        if self.resume is not None:
            rows = sorted(rows, key=lambda r: printable(r["case"]))
        if rows:
            summary = write_tables(self.output_dir, rows)
            if len(summary["checkpoints"]) > 1:
                logger.warning("%s: the tables mix %d checkpoints", self.output_dir, len(summary["checkpoints"]))
        elif self._earlier:  # what they were of was refused this time
            for name in ("metrics.csv", "summary.json"):
                (self.output_dir / name).unlink(missing_ok=True)


def _stale_cases(output_dir: Path) -> set[str]:
    found = ((folder.name, read_result(folder)) for folder in result_folders(output_dir))
    return {printable(name) for name, facts in found if facts and facts.get("stale")}


class ResultWriter:
    """Write every case's volumes and ``result.json`` as soon as it is done; leaves the latter in ``engine.state.case_facts``.

    Args:
        output_dir: folder of results.
        inferer: whose settings are recorded.
        guidance_masks: of :class:`CasePreparer`, recorded too.
        network: whose weights are recorded, see :func:`~roi_fusion.engine.weights.record_of`.
    """

    def __init__(
        self,
        output_dir: str | Path,
        inferer: SamplingInferer,
        guidance_masks: str | Sequence[str] = (),
        network: torch.nn.Module | None = None,
    ) -> None:
        self.output_dir, self.inferer, self.guidance_masks = output_dir, inferer, mask_names(guidance_masks)
        self.network = network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        state.case_facts = [self.facts(item, output) for item, output in zip(state.batch, state.output)]
        for facts, output in zip(state.case_facts, state.output):
            save_case(self.output_dir, facts["case"], output, facts)

    def settings(self) -> dict[str, Any]:
        """What a result depends on besides its images, as ``result.json`` records it."""
        guidance = self.inferer.guidance
        return {
            "seed": self.inferer.seed,
            "num_inference_steps": len(self.inferer.levels),
            "num_samples": self.inferer.num_samples,
            "guidance": asdict(guidance) if guidance.mode != "off" else {"mode": "off"},
            "weights": public_record(self.network) or None if self.network is not None else None,
            "versions": versions(),
        }

    def facts(self, item: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """Content of ``result.json`` of a case.

        Args:
            item: the case after preprocessing.
            output: its result after postprocessing.
        """
        prediction = output["prediction"]
        facts = facts_of(prediction)
        channel = {n: torch.as_tensor(prediction[i]) for i, n in enumerate(PREDICTION_CHANNELS)}
        residual = torch.as_tensor(output["residual"])
        intensity = {k: float(v) for k, v in item["intensity"].items()}
        lesion_ml = float(torch.as_tensor(output["pred"]).sum()) * _voxel_ml(item)
        plausible = {k: _rounded(v) for k, v in item.get("plausibility", {}).items()}
        plausible.pop("brain_unseen", None)
        weights = record_of(self.network) if self.network is not None else {}
        statement = lesion_statement(item, prediction, lesion_ml, weights)
        conflict_ml = conflict_volume_ml(item, output)
        conflict = conflict_sentence(conflict_ml)
        if conflict:
            warn_once(str(item["case"]), conflict)
        return {
            "case": str(item["case"]),
            "mri": "" if item.get("missing") == "mri" else file_of(item["image"]),
            "ct": str(item.get("ct_file", "")),
            "missing": item.get("missing") or None,
            "contrast": item["image"].meta.get("contrast") or None,
            "reader_notices": str(item.get("reader_notices") or "").splitlines(),
            "warnings": [*_warnings(item, lesion_ml), *([conflict] if conflict else []), *apart_sentences(statement)],
            "conflict_ml": _rounded(conflict_ml),
            "plausibility": plausible or None,
            "normalisation": intensity,
            **self.settings(),
            "guidance_masks": _has_file(self.guidance_masks, item),
            "guidance_energy": facts.guidance_energy,
            "lesion_spread": facts.lesion_spread,
            "lesion_threshold": facts.lesion_threshold,
            **statement,
            "largest_residual": float(residual.abs().max()),
            "fused_at_bounds": count_at_bounds(channel["fused"][None, None], torch.as_tensor(item["image"])[None]),
            **({"registration": {k: float(v) for k, v in item["registration"].items()}} if "registration" in item else {}),
        }


def _rounded(value: Any) -> float | None:
    return round(float(value), 4) if np.isfinite(float(value)) else None


def _warnings(item: Mapping[str, Any], lesion_ml: float) -> list[str]:
    """What reader, plausibility and the lesion's size give cause to say, each once."""
    brain_ml = float(item.get("plausibility", {}).get("brain_ml", np.nan))
    sentences = [*str(item.get("reader_notices") or "").splitlines(), *warnings_of(item)]
    sentences.append(lesion_sentence(lesion_ml, brain_ml, "prediction")[0])
    return list(dict.fromkeys(s for s in sentences if s))


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
        kept = [r for r in read_history(self.path.parent) if r["epoch"] <= engine.state.epoch] if self.path.exists() else []
        with whole_file(self.path) as scratch:
            scratch.write_text("".join(json.dumps(r) + "\n" for r in kept))

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
    """Write ``errors.json``, ``{case: sentence}``, of the refused cases of some data sets at each refusal; ``{}`` without any.

    Args:
        output_dir: folder of results.
        datasets: with ``data`` and ``errors``, see :class:`~roi_fusion.data.cases.CaseDataset`.
        refused: further cases.
        shard: of the run, whose sentences go to a file of their own, see :func:`~roi_fusion.data.shards.errors_file`.
        keep: leave the sentences of an earlier run on cases that this one does not try, and mark what results it left of cases
            that are refused now.
    """

    def __init__(
        self,
        output_dir: str | Path,
        datasets: Sequence[Any],
        refused: Mapping[str, str] | None = None,
        keep: bool = True,
        shard: str | None = None,
    ) -> None:
        self.path, self.datasets, self.refused = errors_file(output_dir, shard), list(datasets), dict(refused or {})
        self.keep = keep
        self._written: dict[str, str] | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self._written = None
        if self.keep and self.path.is_file():
            tried = {name_of(case) for d in self.datasets for case in getattr(d, "data", [])}
            try:
                earlier = json.loads(self.path.read_text()).items()
                self.refused = {**{k: v for k, v in earlier if k not in tried}, **self.refused}
            except (ValueError, AttributeError):
                logger.warning("%s: expected the refused cases of an earlier run, got a file that cannot be read", self.path)
        self(engine)

    def __call__(self, engine: Engine) -> None:
        if not is_first_rank():
            return
        now = {case: why for dataset in self.datasets for case, why in getattr(dataset, "errors", {}).items()}
        errors = {**self.refused, **now}
        if errors == self._written:
            return
        for case in set(now) - set(self._written or {}) if self.keep else ():
            mark_stale(self.path.parent / case_name(case), now[case])
        write_json(self.path, dict(sorted(errors.items())))
        self._written = errors
