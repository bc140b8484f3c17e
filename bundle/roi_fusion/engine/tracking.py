# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Tracking with MLflow: every component, metric and knob, data sets, previews, weights, and a model in the registry.

Metrics come in groups, which MLflow's page folds by what stands before the last slash, see :func:`metric_name`.
``configs/tracking.json`` adds :class:`TrackingHandler` to the trainer. Importing this module works without mlflow.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai.handlers import MLFlowHandler
from monai.utils import optional_import

from ..config.ending import command_again
from ..data.cases import CASE_FILES, name_of
from ..data.fingerprint import data_hash
from ..errors import InputError
from ..report.page import write_training_report
from ..values import as_bool
from .handlers import TrainingEvents
from .tracking_model import register_weights

if TYPE_CHECKING:
    import pandas as pd
    from ignite.engine import Engine
else:
    pd, _ = optional_import("pandas")

__all__ = ["TrackingHandler", "metric_name", "unique_run_name"]

logger = logging.getLogger(__name__)


_ARTIFACTS = ("model.pt", "history.jsonl", "run.json", "start_check.json", "doctor.json", "errors.json", "report.html")


#: What a metric of the training, or of a validation, begins with → its group.
_GROUPS = {
    "train": {"loss_": "loss/", "gradient_share_": "gradient_share/", "gradient_": "gradient/", "fused_": "fused/"}
    | {"mri_": "input/mri_", "ct_": "input/ct_", "learning_rate": "optimizer/learning_rate"},
    "val": {"lesion_": "lesion/", "n_": "cases/", "score": "score"},
}
_GROUPS["global"] = _GROUPS["val"]
#: Group of the metrics that no beginning is known of.
_OTHERS = {"train": "other/", "val": "fusion/", "global": "fusion/"}


def metric_name(part: str, name: str) -> str:
    """The name of a metric in MLflow, with its group.

    Args:
        part: ``train``, ``val``, or ``global`` for what a federation's global weights reach.
        name: as ``history.jsonl`` has it.

    Example:
        >>> metric_name("train", "loss_brain"), metric_name("val", "lesion_dice"), metric_name("val", "brain_ssim")
        ('train/loss/brain', 'val/lesion/dice', 'val/fusion/brain_ssim')
        >>> metric_name("val", "score"), metric_name("val", "n_cases")
        ('val/score', 'val/cases/n_cases')
    """
    for beginning, group in _GROUPS[part].items():
        if name.startswith(beginning):
            rest = name if part != "train" and beginning == "n_" else name.removeprefix(beginning)
            return f"{part}/{group}{rest}"
    return f"{part}/{_OTHERS[part]}{name}"


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if isinstance(v, (int, float)) and math.isfinite(v)}


def unique_run_name(prefix: str = "roi_fusion") -> str:
    """A run name that no earlier run has: MONAI's handler appends to an unfinished run of the same name, as a killed one is."""
    return f"{prefix}_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}_{time.time_ns() % 10**6:06d}"


def _program() -> str:
    """What runs, as ``python -m monai.bundle run``, without its arguments, which may hold paths and passwords."""
    start = command_again(arguments=sys.argv[:1])
    verb = [word for word in sys.argv[1:2] if word.isidentifier()]
    return " ".join([start if start.startswith("python -m") else Path(start).name, *verb])


class TrackingHandler(MLFlowHandler):
    """Log a training to MLflow. Attach it to the trainer behind the validation and the history.

    Per epoch: the trainer's metrics as ``train/<group>/<name>`` and the validation's as ``val/<group>/<name>``
    (:func:`metric_name`); values that do not exist are left out. At the start: all knobs as parameters, the data sets with
    name, hash and cases, the source, and tags for git commit, bundle version, data hash, seed and torch. What average, maximum,
    paste and target reach on the validation cases is the table ``baselines.json``, logged when it changes. When the doctor's
    gates of an epoch are reached: the tag ``gate_<epoch>``. At the end: weights, report and history. A training of
    :class:`~roi_fusion.engine.training_run.TrainingRun` that ends with an error marks the run FAILED.

    Args:
        output_dir: folder of the training.
        evaluator: of the validation.
        bundle_root: the bundle's folder.
        tracking_uri: such as ``sqlite:///<path>``; the environment's ``MLFLOW_TRACKING_URI`` wins.
        experiment_name: of MLflow.
        run_name: a new unique one when None.
        register_model: name under which the best weights go into the model registry as a pyfunc that takes two file paths.
        datasets: name → data set, logged as inputs of the run.
        dataset_dir: folder of their cases, their source.
        system_metrics: also log processor, memory, disk, network and GPU every ten seconds, under ``system/``.
    """

    def __init__(
        self,
        output_dir: str | Path,
        evaluator: Any,
        bundle_root: str | Path,
        tracking_uri: str | None = None,
        experiment_name: str = "roi_fusion",
        run_name: str | None = None,
        register_model: str | None = None,
        datasets: Mapping[str, Any] | None = None,
        dataset_dir: str | Path | None = None,
        system_metrics: bool | str = False,
    ) -> None:
        self.dataset_dir, self.system_metrics = dataset_dir, as_bool("system_metrics", system_metrics)
        if self.system_metrics and not optional_import("psutil")[1]:
            raise InputError("system_metrics: expected psutil, which is not installed: pip install psutil")
        try:
            super().__init__(
                tracking_uri=tracking_uri,
                iteration_log=False,
                epoch_logger=self._log_epoch,
                dataset_logger=self._log_datasets,
                dataset_dict=dict(datasets or {}),
                experiment_name=experiment_name,
                run_name=run_name or unique_run_name(),
            )
        except ImportError:
            raise InputError("tracking: expected mlflow, which is not installed: pip install mlflow") from None
        except ValueError as e:
            raise InputError(f"tracking_uri: {e}") from None
        self.folder, self.evaluator, self.bundle_root = Path(output_dir), evaluator, Path(bundle_root)
        self.register_model = register_model
        self._logged_previews: set[str] = set()
        self._logged_gates: set[str] = set()
        self._logged_baselines: dict[str, dict[str, float]] = {}
        self._monitor: Any = None
        self._started = self._finished = False
        self._earlier_run: str | None = None

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        engine.register_events(*TrainingEvents)
        engine.add_event_handler(TrainingEvents.FAILED, self._failed)

    def start(self, engine: Engine) -> None:
        """Create a run of its own, and log knobs and tags. A trainer that runs again, as in the rounds of a federation, goes on
        in its run.
        """
        self._started = True
        if self._earlier_run is not None:
            self.client.update_run(self._earlier_run, status="RUNNING")
            self.cur_run, self._finished = self.client.get_run(self._earlier_run), False
            return
        experiment = self.client.get_experiment_by_name(self.experiment_name)
        runs = self.client.search_runs(experiment.experiment_id) if experiment else []
        if self.run_name in {r.info.run_name for r in runs}:
            logger.warning("run_name: %s is taken in %s, this run gets a new name", self.run_name, self.experiment_name)
            self.run_name = unique_run_name(str(self.run_name))
        super().start(engine)
        path = self.folder / "run.json"
        run = json.loads(path.read_text()) if path.is_file() else {}
        tags = {
            "git_commit": run.get("git_commit"),
            "bundle_version": run.get("versions", {}).get("roi_fusion"),
            "torch": run.get("versions", {}).get("torch"),
            "monai": run.get("versions", {}).get("monai"),
            "seed": run.get("knobs", {}).get("seed"),
            **{f"data_hash_{name}": d["hash"] for name, d in run.get("data", {}).items()},
            # The Source column of MLflow's page.
            "mlflow.source.type": "LOCAL",
            "mlflow.source.name": _program(),
            "mlflow.source.git.commit": (run.get("git_commit") or "").removesuffix("+") or None,
        }
        from mlflow.entities import Param, RunTag

        self.client.log_batch(
            self._run_id,
            params=[Param(k, str(v)) for k, v in run.get("knobs", {}).items() if k != "max_epochs"],  # MONAI has logged that
            tags=[RunTag(k, str(v)) for k, v in tags.items() if v is not None],
        )
        if self.system_metrics:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(self._run_id, tracking_uri=self.client.tracking_uri)
            self._monitor.start()

    def _log_datasets(self, datasets: Mapping[str, Any]) -> None:
        """Inputs of the run: a row for each case with its name and which files it has."""
        from mlflow import data as tracked
        from mlflow.entities import Dataset, DatasetInput, InputTag

        folder, inputs = Path(self.dataset_dir or ".").resolve(), []
        source = tracked.sources.LocalArtifactDatasetSource(folder.as_uri()) if self.dataset_dir else None  # type: ignore[attr-defined]
        for name, dataset in datasets.items():
            rows = [{"case": name_of(c), **{stem: key in c for key, stem in CASE_FILES.items()}} for c in dataset.data]
            found = tracked.from_pandas(  # type: ignore[attr-defined]
                pd.DataFrame(rows),
                source=source,
                name=name,
                digest=data_hash(dataset.data),
            )
            inputs.append(DatasetInput(Dataset(**found.to_dict()), [InputTag("mlflow.data.context", name)]))
        if inputs:
            self.client.log_inputs(self._run_id, inputs)

    @property
    def _run_id(self) -> str:
        assert self.cur_run is not None
        return self.cur_run.info.run_id

    def _log_epoch(self, engine: Engine) -> None:
        from mlflow.entities import Metric

        metrics = {metric_name("train", k): v for k, v in _finite(engine.state.metrics).items()}
        state = self.evaluator.state
        if state.metrics and state.epoch == engine.state.epoch:
            metrics.update({metric_name("val", k): v for k, v in _finite(state.metrics).items()})
            baselines = {method: _finite(values) for method, values in getattr(state, "baselines", {}).items()}
            self._log_baselines(engine.state.epoch, baselines)
        now = int(time.time() * 1000)
        self.client.log_batch(self._run_id, metrics=[Metric(k, v, now, engine.state.epoch) for k, v in metrics.items()])
        for picture in sorted((self.folder / "previews").glob("*.png")):
            if picture.name not in self._logged_previews:
                self._logged_previews.add(picture.name)
                self.client.log_artifact(self._run_id, str(picture), "previews")
        self._log_gates()

    def _log_baselines(self, epoch: int, baselines: dict[str, dict[str, float]]) -> None:
        """Rows of a table of methods and metrics, where they are others than the last ones."""
        if baselines and baselines != self._logged_baselines:
            self._logged_baselines = baselines
            rows = [{"epoch": epoch, "method": method, **values} for method, values in baselines.items()]
            self.client.log_table(self._run_id, pd.DataFrame(rows), "baselines.json")

    def _log_gates(self) -> None:
        path = self.folder / "doctor.json"
        results = json.loads(path.read_text())["gate_results"] if path.is_file() else {}
        for epoch in set(results) - self._logged_gates:
            self._logged_gates.add(epoch)
            self.client.set_tag(self._run_id, f"gate_{epoch}", results[epoch])

    def complete(self) -> None:
        """Log weights and documents, register the model where asked, and mark the run FINISHED."""
        write_training_report(self.folder)
        for name in _ARTIFACTS:
            if (self.folder / name).is_file():
                self.client.log_artifact(self._run_id, str(self.folder / name))
        if self.register_model:
            register_weights(self.client.tracking_uri, self._run_id, self.register_model, self.bundle_root, self.folder)
        self._stop_monitor()
        self._finished, self._earlier_run = True, self._run_id
        self.close()

    def log_global(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Log what a federation's global weights reach on this site's validation cases, as ``global/<group>/<name>``.

        It goes to the run of this handler, which has begun.

        Args:
            metrics: as ``history.jsonl`` has them.
            epoch: how many the trainer had done before it got these weights.
        """
        from mlflow.entities import Metric

        run, now = self._earlier_run or self._run_id, int(time.time() * 1000)
        named = {metric_name("global", k): v for k, v in _finite(metrics).items()}
        self.client.log_batch(run, metrics=[Metric(k, v, now, epoch) for k, v in named.items()])

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None

    def _failed(self, engine: Engine) -> None:
        if self._finished:
            return
        if not self._started:  # a handler before this one, such as the doctor, ended the training at its start
            self.start(engine)
        self._stop_monitor()
        if self.cur_run is not None:
            self.client.set_tag(self._run_id, "error", str(engine.state.error)[:4000])
            self.client.set_terminated(self._run_id, "FAILED")
            self.cur_run = None
