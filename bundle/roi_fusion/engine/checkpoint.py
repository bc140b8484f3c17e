# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Checkpoints: written so that a kill leaves the last good file, loaded with a check, resumed, published."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.handlers import CheckpointLoader

from ..core.network import RoiFusionNet
from ..errors import InputError
from ..values import is_first_rank
from .writers import ErrorsWriter

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = [
    "CheckpointWriter",
    "check_weights",
    "load_weights",
    "prepare_folder",
    "prepare_training",
    "publish_weights",
    "sha256_of",
]


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def check_weights(path: str | Path) -> str:
    """Load weights as the bundle does and compare them with ``<path>.sha256`` where there is one; returns the digest.

    Raises:
        InputError: for another network, a truncated file, pickled objects, or another hash.
    """
    path = Path(path)
    load_weights(RoiFusionNet(), path)
    digest, noted = sha256_of(path), path.with_suffix(path.suffix + ".sha256")
    if noted.is_file():
        expected = noted.read_text().split()[0] if noted.read_text().split() else ""
        if expected != digest:
            raise InputError(f"{path}: expected the weights of sha256 {expected[:12]}…, got {digest[:12]}…")
    return digest


logger = logging.getLogger(__name__)


#: What a training leaves in its folder; a new one there moves them aside.
_RUN_FILES = (
    "last.pt",
    "model.pt",
    "history.jsonl",
    "run.json",
    "start_check.json",
    "doctor.json",
    "errors.json",
    "report.html",
    "tensorboard",
    "previews",
)


def _read(path: str | Path, what: str) -> Any:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected {what}, found no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path}: expected {what} of plain tensors, got pickled objects or no checkpoint at all") from None
    except Exception as e:  # torch.load raises whatever the broken bytes lead it to
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise InputError(f"{path}: expected {what}, got a file that cannot be read ({first[:120]})") from None


def load_weights(network: torch.nn.Module, path: str | Path) -> torch.nn.Module:
    """Load a bare state_dict (``model.pt``), or the averaged weights of a ``last.pt``, into `network`.

    Raises:
        InputError: when the file is missing, broken, holds pickled objects, or belongs to another network.
    """
    state = _read(path, "weights of this network")
    if isinstance(state, dict) and "ema" in state:
        state = {k.removeprefix("module."): v for k, v in state["ema"].items() if k.startswith("module.")}
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"{path}: expected a state_dict of tensors, got {type(state).__name__}")
    own = network.state_dict()
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    other = sorted(k for k in set(own) & set(state) if own[k].shape != state[k].shape)
    if missing or extra or other:
        first = (missing or extra or other)[0]
        raise InputError(
            f"{path}: expected weights of this network, got another's ({len(missing)} missing, {len(extra)} unknown, "
            f"{len(other)} of other shape, first {first})"
        )
    network.load_state_dict(state)
    return network


def prepare_training(
    trainer: Any,
    output_dir: str | Path,
    resume: str | None,
    best: CheckpointWriter | None,
    objects: Mapping[str, Any],
    datasets: Sequence[Any],
) -> None:
    """Continue from `resume` where it is given; from now on save the best weights and ``last.pt``, and ``errors.json`` at once.

    Args:
        trainer: engine, not started.
        output_dir: folder of the training.
        resume: ``last.pt``, or None.
        best: writer of the best weights; attached here, because ``last.pt`` holds its score so far.
        objects: what else ``last.pt`` holds, ``{name: object with state_dict and load_state_dict}``.
        datasets: whose refused cases go to ``errors.json``.

    Raises:
        InputError: when `resume` is missing or does not fit, or nothing is left to train.
    """
    folder = Path(output_dir)
    objects = dict(objects)
    if best is not None:
        best.attach(trainer)
        objects["best"] = best
    if resume:
        state = _read(resume, "a checkpoint to resume (last.pt)")
        if not isinstance(state, dict) or not set(objects) <= set(state):
            raise InputError(f"{resume}: expected a checkpoint to resume (last.pt), got a file without {', '.join(objects)}")
        try:
            CheckpointLoader(str(resume), objects, map_location="cpu")(trainer)  # type: ignore[arg-type]  # MONAI annotates a dict
        except (RuntimeError, ValueError, KeyError) as e:
            first = str(e).strip().splitlines()[0]
            raise InputError(f"{resume}: expected a checkpoint of this training, got another ({first[:160]})") from None
        if trainer.state.epoch >= trainer.state.max_epochs:
            raise InputError(
                f"{resume}: expected an unfinished training, got one of {trainer.state.epoch} epochs "
                f"with max_epochs {trainer.state.max_epochs}"
            )
        logger.info("resumed %s at epoch %d", resume, trainer.state.epoch)
    CheckpointWriter(folder, "last.pt", objects).attach(trainer)
    ErrorsWriter(folder, datasets).attach(trainer)


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
            logger.info("%s holds an earlier training: moved to %s", folder, aside)
    if idist.get_world_size() > 1:
        idist.barrier()


def publish_weights(output_dir: str | Path, publish_dir: str | Path | None) -> None:
    """Copy the best weights of a training to ``<publish_dir>/model.pt``; those that were there stay as ``previous.pt``.

    MONAI Label runs and trains ``models/model.pt`` of a bundle and no other file: a training that it starts has to end there.
    """
    best = Path(output_dir) / "model.pt"
    if publish_dir is None or not best.is_file() or idist.get_rank() != 0:
        return
    folder = Path(publish_dir)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".model.pt.{os.getpid()}"
    shutil.copyfile(best, scratch)
    if (folder / "model.pt").exists():
        shutil.copyfile(folder / "model.pt", folder / "previous.pt")
    os.replace(scratch, folder / "model.pt")
    logger.info("published %s", folder / "model.pt")


class CheckpointWriter:
    """Save state so that a kill at any moment leaves the last good file.

    MONAI's CheckpointSaver writes in place, and ignite's Checkpoint removes a file of the same name before it writes.

    Args:
        output_dir: folder.
        filename: file name.
        objects: ``{name: object with state_dict}``; with `bare`, the one object's state alone is saved.
        bare: save a plain state_dict that ``load_state_dict`` takes.
        best_of: evaluator; save only when its key metric beats the best so far.
    """

    def __init__(
        self, output_dir: str | Path, filename: str, objects: Mapping[str, Any], bare: bool = False, best_of: Any = None
    ) -> None:
        self.path, self.objects, self.bare, self.evaluator = Path(output_dir) / filename, dict(objects), bare, best_of
        self.best = float("-inf")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.best = float(state["best"])

    def __call__(self, engine: Engine) -> None:
        if self.evaluator is not None:
            state = self.evaluator.state
            score = (
                state.metrics.get(state.key_metric_name, float("nan")) if state.epoch == engine.state.epoch else float("nan")
            )
            if not score > self.best:
                return
            self.best = float(score)
        if not is_first_rank():
            return
        content = {name: item.state_dict() for name, item in self.objects.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        torch.save(next(iter(content.values())) if self.bare else content, scratch)
        os.replace(scratch, self.path)
        if self.evaluator is not None:
            logger.info("epoch %d: new best %s %.4f, saved %s", engine.state.epoch, state.key_metric_name, self.best, self.path)
