# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Tracking with MLflow: every component, metric and knob, previews, weights, and a model in the registry.

``configs/tracking.json`` adds :class:`TrackingHandler` to the trainer. Importing this module works without mlflow.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.handlers import MLFlowHandler
from monai.utils import optional_import

from ..data.transforms.loading import CompleteCased
from ..errors import InputError
from ..report.page import write_training_report
from .handlers import TrainingEvents
from .prediction import Predictor

if TYPE_CHECKING:
    import pandas as pd
    from ignite.engine import Engine
    from mlflow.pyfunc import PythonModel
else:
    pd, _ = optional_import("pandas")
    PythonModel, _ = optional_import("mlflow.pyfunc", name="PythonModel", as_type="base")

__all__ = ["FusionModel", "TrackingHandler", "bundle_copy", "unique_run_name"]

logger = logging.getLogger(__name__)


_ARTIFACTS = ("model.pt", "history.jsonl", "run.json", "start_check.json", "doctor.json", "errors.json", "report.html")


def unique_run_name(prefix: str = "roi_fusion") -> str:
    """A run name that no earlier run has: MONAI's handler appends to an unfinished run of the same name, as a killed one is."""
    return f"{prefix}_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}_{time.time_ns() % 10**6:06d}"


def bundle_copy(bundle_root: str | Path, run_dir: str | Path, folder: str | Path) -> Path:
    """A copy of what inference needs as ``<folder>/bundle``: configs, package, licence and the best weights of a training.

    Network and noise schedule of ``inference.json`` become those that the training had.

    Raises:
        InputError: when the training has left no weights.
    """
    weights = Path(run_dir) / "model.pt"
    if not weights.is_file():
        raise InputError(f"register_model: expected best weights at {weights}, found none (was there a validation?)")
    source, target = Path(bundle_root), Path(folder) / "bundle"
    for name in ("configs", "roi_fusion"):
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source / "LICENSE", target / "LICENSE")
    (target / "models").mkdir()
    shutil.copy(weights, target / "models" / "model.pt")
    run = json.loads((Path(run_dir) / "run.json").read_text())
    config = json.loads((target / "configs" / "inference.json").read_text())
    config.update({"network_def": run["network_def"], "scheduler": run["knobs"]["scheduler"]})
    (target / "configs" / "inference.json").write_text(json.dumps(config, indent=4))
    return target


class TrackingHandler(MLFlowHandler):
    """Log a training to MLflow. Attach it to the trainer behind the validation and the history.

    Per epoch: the trainer's metrics, and the validation's as ``val_<name>``; values that do not exist are left out. At the
    start: all knobs as parameters, and tags for git commit, bundle version, data hash, seed and torch. When the doctor's gates
    of an epoch are reached: the tag ``gate_<epoch>``. At the end: weights, report and history. A training of
    :class:`~roi_fusion.engine.training_run.TrainingRun` that ends with an error marks the run FAILED.

    Args:
        output_dir: folder of the training.
        evaluator: of the validation.
        bundle_root: the bundle's folder.
        tracking_uri: such as ``sqlite:///<path>``; the environment's ``MLFLOW_TRACKING_URI`` wins.
        experiment_name: of MLflow.
        run_name: a new unique one when None.
        register_model: name under which the best weights go into the model registry as a pyfunc that takes two file paths.
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
    ) -> None:
        try:
            super().__init__(
                tracking_uri=tracking_uri,
                iteration_log=False,
                epoch_logger=self._log_epoch,
                dataset_logger=lambda _: None,
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
        self._started = self._finished = False

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        engine.register_events(*TrainingEvents)
        engine.add_event_handler(TrainingEvents.FAILED, self._failed)

    def start(self, engine: Engine) -> None:
        """Create a run of its own, and log knobs and tags."""
        self._started = True
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
        }
        from mlflow.entities import Param, RunTag

        self.client.log_batch(
            self._run_id,
            params=[Param(k, str(v)) for k, v in run.get("knobs", {}).items() if k != "max_epochs"],  # MONAI has logged that
            tags=[RunTag(k, str(v)) for k, v in tags.items() if v is not None],
        )

    @property
    def _run_id(self) -> str:
        assert self.cur_run is not None
        return self.cur_run.info.run_id

    def _log_epoch(self, engine: Engine) -> None:
        from mlflow.entities import Metric

        metrics = {k: float(v) for k, v in engine.state.metrics.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        state = self.evaluator.state
        if state.metrics and state.epoch == engine.state.epoch:
            metrics.update(
                {f"val_{k}": float(v) for k, v in state.metrics.items() if isinstance(v, (int, float)) and math.isfinite(v)}
            )
            for method, values in getattr(state, "baselines", {}).items():
                metrics.update({f"val_{method}_{k}": float(v) for k, v in values.items() if math.isfinite(v)})
        now = int(time.time() * 1000)
        self.client.log_batch(self._run_id, metrics=[Metric(k, v, now, engine.state.epoch) for k, v in metrics.items()])
        for picture in sorted((self.folder / "previews").glob("*.png")):
            if picture.name not in self._logged_previews:
                self._logged_previews.add(picture.name)
                self.client.log_artifact(self._run_id, str(picture), "previews")
        self._log_gates()

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
            self._register(self.register_model)
        self._finished = True
        self.close()

    def _failed(self, engine: Engine) -> None:
        if self._finished:
            return
        if not self._started:  # a handler before this one, such as the doctor, ended the training at its start
            self.start(engine)
        if self.cur_run is not None:
            self.client.set_tag(self._run_id, "error", str(engine.state.error)[:4000])
            self.client.set_terminated(self._run_id, "FAILED")
            self.cur_run = None

    def _register(self, name: str) -> None:
        import mlflow

        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self.client.tracking_uri)
        try:
            with tempfile.TemporaryDirectory() as scratch, mlflow.start_run(run_id=self._run_id):
                bundle = bundle_copy(self.bundle_root, self.folder, scratch)
                mlflow.pyfunc.log_model(
                    name="model",
                    python_model=FusionModel(),
                    artifacts={"bundle": str(bundle)},
                    code_paths=[str(bundle / "roi_fusion")],
                    registered_model_name=name,
                    pip_requirements=[
                        "torch",
                        "monai",
                        "pytorch-ignite",
                        "nibabel",
                        "scikit-image",
                        "scipy",
                        "matplotlib",
                        "jinja2",
                        "tqdm",
                    ],
                )
        finally:
            mlflow.set_tracking_uri(before)
        logger.info("registered %s", name)


class FusionModel(PythonModel):
    """``predict(DataFrame with columns mri, ct[, output_dir])`` → a row per pair: folder of its files, lesion volume.

    Loaded by ``mlflow.pyfunc.load_model("models:/<name>/<version>")``. Without an `output_dir` the files go to ``roi_fusion``
    beside the MRI.
    """

    def load_context(self, context: Any) -> None:
        """Load the weights once."""
        bundle = Path(context.artifacts["bundle"])
        self._predictor = Predictor(bundle / "models" / "model.pt", bundle_root=bundle)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict every pair of files.

        Raises:
            InputError: when a column is missing or a pair cannot be used.
        """
        if not {"mri", "ct"} <= set(model_input):
            raise InputError(f"model_input: expected the columns mri and ct, got {', '.join(map(str, model_input)) or 'none'}")
        rows = []
        for row in pd.DataFrame(model_input).to_dict("records"):
            output_dir = Path(row.get("output_dir") or Path(row["mri"]).resolve().parent / "roi_fusion")
            result = self._predictor(row["mri"], row["ct"], output_dir)
            case = CompleteCased()({"image": row["mri"], "ct": row["ct"]})["case"]
            voxel_ml = abs(float(np.linalg.det(result["affine"][:3, :3]))) / 1000
            rows.append({**row, "folder": str(output_dir / case), "lesion_ml": float(result["lesion"].sum()) * voxel_ml})
        return pd.DataFrame(rows)
