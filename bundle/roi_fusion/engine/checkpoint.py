# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Checkpoints of a training: written so that a kill leaves the last good file, resumed, published."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.handlers import CheckpointLoader

from ..console import short_path
from ..data.fingerprint import data_hash
from ..errors import InputError
from ..values import as_bool, is_first_rank, whole_file, write_json
from .weights import read_tensors, record_beside, sha256_of, write_record
from .writers import ErrorsWriter

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["CheckpointWriter", "prepare_folder", "prepare_training", "publish_weights", "run_training"]

logger = logging.getLogger(__name__)


#: What a training leaves in its folder; a new one there moves them aside.
_RUN_FILES = (
    "last.pt",
    "model.pt",
    "model.pt.json",
    "history.jsonl",
    "run.json",
    "start_check.json",
    "doctor.json",
    "errors.json",
    "report.html",
    "tensorboard",
    "previews",
)


def prepare_training(
    trainer: Any,
    output_dir: str | Path,
    resume: str | None,
    best: CheckpointWriter | None,
    objects: Mapping[str, Any],
    datasets: Sequence[Any],
    resume_changed: bool | str = False,
) -> None:
    """Continue from `resume` where it is given; from now on save the best weights and ``last.pt``, and ``errors.json`` at once.

    Args:
        trainer: engine, not started.
        output_dir: folder of the training.
        resume: ``last.pt``, or None.
        best: writer of the best weights; attached here, because ``last.pt`` holds its score so far.
        objects: what else ``last.pt`` holds, ``{name: object with state_dict and load_state_dict}``.
        datasets: whose refused cases go to ``errors.json``.
        resume_changed: go on although cases came, went or changed since.

    Raises:
        InputError: when `resume` is missing or does not fit, or its data set changed.
    """
    folder = Path(output_dir)
    record = {**(best.record if best is not None else {}), "data": [data_hash(d.data) for d in datasets if hasattr(d, "data")]}
    objects = dict(objects)
    if best is not None:
        best.attach(trainer)
        objects["best"] = best
    if resume:
        state = read_tensors(resume, "a checkpoint to resume (last.pt)")
        if not isinstance(state, dict) or not set(objects) <= set(state):
            raise InputError(f"{resume}: expected a checkpoint to resume (last.pt), got a file without {', '.join(objects)}")
        _compare_records(resume, state.get("record", {}), record, as_bool("resume_changed", resume_changed))
        try:
            CheckpointLoader(str(resume), objects, map_location="cpu")(trainer)  # type: ignore[arg-type]  # MONAI annotates a dict
        except (RuntimeError, ValueError, KeyError) as e:
            first = str(e).strip().splitlines()[0]
            raise InputError(f"{resume}: expected a checkpoint of this training, got another ({first[:160]})") from None
        logger.info("resumed %s at epoch %d", short_path(resume), trainer.state.epoch)
    CheckpointWriter(folder, "last.pt", objects, record=record).attach(trainer)
    ErrorsWriter(folder, datasets, keep=False).attach(trainer)


def _compare_records(resume: str, then: Mapping[str, Any], now: Mapping[str, Any], accepted: bool) -> None:
    """Refuse to go on with other data, noise schedule or CT curve than before."""
    for name in sorted(set(then) & set(now) - {"data"}):
        if then[name] != now[name]:
            raise InputError(f"{name}: expected {then[name]}, which {resume} was trained with, got {now[name]}")
    if "data" in then and then["data"] != now["data"]:
        sentence = "expected the cases of the training that it continues, got a data set that changed since"
        if not accepted:
            raise InputError(f"{resume}: {sentence}; --resume_changed true goes on with it")
        logger.warning("%s: %s", resume, sentence)


def run_training(trainer: Any) -> None:
    """Run a trainer to its last epoch; one that was resumed there has nothing left to do but its report.

    Ignite would start such a training again from its first epoch.
    """
    state = trainer.state
    if state.max_epochs is not None and state.epoch >= state.max_epochs:
        logger.info("%d of %d epochs are done: nothing left to train, max_epochs takes more", state.epoch, state.max_epochs)
        return
    trainer.run()


def prepare_folder(output_dir: str | Path, resume: str | None = None) -> None:
    """Make the folder of a training; what an earlier one left there is moved to ``previous-<time>/``, unless it is resumed.

    Call it before anything opens a file there.
    """
    folder = Path(output_dir)
    if idist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        found = [folder / name for name in _RUN_FILES if (folder / name).exists()]
        if found and not resume:
            aside = folder / time.strftime("previous-%Y%m%d-%H%M%S")
            aside.mkdir()
            for path in found:
                os.replace(path, aside / path.name)
            logger.info("%s holds an earlier training: moved to %s", short_path(folder), short_path(aside))
    if idist.get_world_size() > 1:
        idist.barrier()


def publish_weights(output_dir: str | Path, publish_dir: str | Path | None) -> None:
    """Copy the best weights of a training to ``<publish_dir>/model.pt``; those that were there stay as ``previous.pt``.

    MONAI Label runs and trains ``models/model.pt`` of a bundle and no other file: a training that it starts has to end there.
    ``model.pt.sha256`` and ``model.pt.json`` go with them. ``run.json`` of the training notes them too.
    """
    best = Path(output_dir) / "model.pt"
    if not best.is_file() or idist.get_rank() != 0:
        return
    digest = sha256_of(best)
    record = {**record_beside(best, digest), "sha256": digest}
    run = best.with_name("run.json")
    if run.is_file():
        write_json(run, {**json.loads(run.read_text()), "weights": record})
    if publish_dir is None:
        return
    folder = Path(publish_dir)
    if (folder / "model.pt").exists():
        with whole_file(folder / "previous.pt") as scratch:
            shutil.copyfile(folder / "model.pt", scratch)
    with whole_file(folder / "model.pt") as scratch:
        shutil.copyfile(best, scratch)
        (folder / "model.pt.sha256").unlink(missing_ok=True)  # a kill from here on leaves no hash, not a wrong one
    write_record(folder / "model.pt", record, digest)
    with whole_file(folder / "model.pt.sha256") as scratch:
        scratch.write_text(f"{digest}  model.pt\n")
    logger.info("published %s", short_path(folder / "model.pt"))


class CheckpointWriter:
    """Save state so that a kill at any moment leaves the last good file.

    MONAI's CheckpointSaver writes in place, and ignite's Checkpoint removes a file of the same name before it writes.

    Args:
        output_dir: folder.
        filename: file name.
        objects: ``{name: object with state_dict}``; with `bare`, the one object's state alone is saved.
        bare: save a plain state_dict that ``load_state_dict`` takes.
        best_of: evaluator; save only when its key metric beats the best so far.
        record: settings that the weights belong to, such as ``{"scheduler": "ddim"}``. A plain state_dict has no room for them:
            they go to ``<filename>.json`` beside it, with its sha256, epoch and the package's version; else into the file.
    """

    def __init__(
        self,
        output_dir: str | Path,
        filename: str,
        objects: Mapping[str, Any],
        bare: bool = False,
        best_of: Any = None,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.objects, self.bare, self.evaluator = Path(output_dir) / filename, dict(objects), bare, best_of
        self.record = dict(record or {})
        self.best = float("-inf")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.best = float(state["best"])

    def _score(self, engine: Engine) -> float:
        """The evaluator's key metric of this epoch; NaN where it had no validation."""
        state = self.evaluator.state
        return float(state.metrics.get(state.key_metric_name, math.nan)) if state.epoch == engine.state.epoch else math.nan

    def is_better(self, engine: Engine) -> bool:
        """Whether this epoch's validation beats all that were saved so far."""
        return self.evaluator is not None and self._score(engine) > self.best

    def __call__(self, engine: Engine) -> None:
        if self.evaluator is not None:
            if not self.is_better(engine):
                return
            self.best = self._score(engine)
        if not is_first_rank():
            return
        content = {name: item.state_dict() for name, item in self.objects.items()}
        record = {**self.record, "epoch": engine.state.epoch}
        with whole_file(self.path) as scratch:
            torch.save(next(iter(content.values())) if self.bare else {**content, "record": record}, scratch)
            digest = sha256_of(scratch) if self.bare else ""
        if self.bare:
            write_record(self.path, record, digest)
