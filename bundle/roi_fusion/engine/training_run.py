# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A training from its first to its last step, as ``training`` of ``configs/train.json`` runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.utils import set_determinism

from ..core.losses import RoiFusionLoss
from ..errors import InputError
from ..report.page import write_training_report
from .checkpoint import CheckpointWriter, prepare_folder, prepare_training, publish_weights, run_training
from .handlers import TrainingEvents
from .run_record import record_run
from .weights import load_weights

__all__ = ["TrainingRun", "start_training"]


def start_training(output_dir: str | Path, seed: int, resume: str | None = None, initial_weights: str | None = None) -> None:
    """Seed everything and make the folder of a training, before its network draws weights and its handlers open files.

    Args:
        output_dir: folder of the training; an earlier one there is moved aside unless it is resumed.
        seed: of the run.
        resume: ``last.pt`` of a training to continue, or None.
        initial_weights: ``model.pt`` to start from, or None.

    Raises:
        InputError: when a checkpoint is named that does not exist; nothing is moved then.
    """
    for path, what in ((resume, "a checkpoint to resume (last.pt)"), (initial_weights, "weights of this network")):
        if path and not Path(path).is_file():
            raise InputError(f"{path}: expected {what}, found no such file")
    set_determinism(seed)
    prepare_folder(output_dir, resume)


class TrainingRun:
    """Load, resume, record, train, publish and report, in the order that these need.

    A :class:`~monai.handlers.CheckpointLoader` for the trainer cannot be one of the trainer's own handlers, a circular
    reference in a config; here it is attached from outside.

    Args:
        state: what ``last.pt`` holds, ``{name: object with state_dict and load_state_dict}``, with at least ``model``, the
            network that is trained, and ``plan``, from :func:`~roi_fusion.engine.training.plan_learning_rate`.
        trainer: engine, not started; it joins the state as ``trainer``.
        datasets: name → data set, whose refused cases go to ``errors.json`` and whose hash goes to ``run.json``.
        loss: its weights go to ``run.json``.
        best_writer: writer of the best weights.
        output_dir: folder of the training, made by :func:`start_training`.
        bundle_root: the bundle's folder, whose commit goes to ``run.json``.
        resume: ``last.pt`` of a training to continue, or None.
        initial_weights: ``model.pt`` to start from, or None.
        publish_dir: folder that gets the best weights at the end, or None.
        resume_changed: resume although cases came, went or changed since.
    """

    def __init__(
        self,
        state: Mapping[str, Any],
        trainer: Any,
        datasets: Mapping[str, Any],
        loss: RoiFusionLoss,
        best_writer: CheckpointWriter,
        output_dir: str | Path,
        bundle_root: str | Path,
        resume: str | None = None,
        initial_weights: str | None = None,
        publish_dir: str | Path | None = None,
        resume_changed: bool | str = False,
    ) -> None:
        self.state, self.trainer, self.datasets, self.loss, self.best_writer = state, trainer, datasets, loss, best_writer
        self.output_dir, self.bundle_root, self.publish_dir = output_dir, bundle_root, publish_dir
        self.resume, self.initial_weights, self.resume_changed = resume, initial_weights, resume_changed

    def run(self) -> None:
        """Train. An expression of the run list, because ``run.json`` notes the knobs of the config that it is part of.

        Raises:
            InputError: when a checkpoint does not fit, nothing is left to train, the loss is not finite, or the doctor stops.
        """
        if self.initial_weights:
            load_weights(self.state["model"], self.initial_weights)
        objects = {**self.state, "trainer": self.trainer}
        datasets = list(self.datasets.values())
        prepare_training(self.trainer, self.output_dir, self.resume, self.best_writer, objects, datasets, self.resume_changed)
        record_run(self.output_dir, self.bundle_root, self.loss, self.state["plan"], self.datasets, self.state["model"])
        self.trainer.register_events(*TrainingEvents)
        try:
            run_training(self.trainer)
        except BaseException as error:
            self.trainer.state.error = error
            self.trainer.fire_event(TrainingEvents.FAILED)
            raise
        publish_weights(self.output_dir, self.publish_dir)
        write_training_report(self.output_dir)
