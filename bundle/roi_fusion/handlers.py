# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Ignite handlers: what is logged, guarded and written during training, evaluation and inference."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.utils import set_determinism

from .cases import write_json
from .errors import InputError
from .losses import RoiFusionLoss

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = [
    "CheckpointWriter", "EmaUpdater", "EpochSeeder", "ErrorsWriter", "GradientClipper", "HistoryWriter", "NonFiniteGuard",
    "TrainingStatistics", "count_at_bounds", "read_history",
]  # fmt: skip

logger = logging.getLogger(__name__)


def is_first_rank() -> bool:
    return idist.get_rank() == 0


class EpochSeeder:
    """Reseed everything at the start of each epoch from (seed, epoch, rank).

    An epoch then does not depend on how the run got there, which makes a resumed training continue bit by bit.

    Args:
        seed: of the run.
        transforms: composed random transforms with a state of their own.
    """

    def __init__(self, seed: int, transforms: Any = None) -> None:
        self.seed, self.transforms = int(seed), transforms

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        mixed = int(np.random.SeedSequence([self.seed, engine.state.epoch, idist.get_rank()]).generate_state(1)[0])
        # set_determinism also forbids cuDNN autotuning, as MONAI's own bundles do for a fixed seed.
        set_determinism(mixed)
        if self.transforms is not None and hasattr(self.transforms, "set_random_state"):
            self.transforms.set_random_state(seed=mixed)


class EmaUpdater:
    """Update the averaged weights after every iteration."""

    def __init__(self, ema: Any, network: torch.nn.Module) -> None:
        self.ema, self.network = ema, network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.ema.update_parameters(self.network)


class NonFiniteGuard:
    """Stop when the loss is not finite, naming the components and the files of the batch."""

    def __init__(self, loss: RoiFusionLoss) -> None:
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        if bool(torch.isfinite(state.output["loss"]).all()):
            return
        broken = [k for k, v in self.loss.components.items() if k != "total" and not bool(torch.isfinite(v).all())]
        files = _files_of(state.batch)
        raise InputError(
            f"loss: wanted a finite number at iteration {engine.state.iteration}, came "
            f"{', '.join(broken) or 'total'} not finite for the batch of {', '.join(files)}"
        )


def _files_of(batch: Any) -> list[str]:
    if isinstance(batch, Mapping):
        names: Any = getattr(batch.get("image"), "meta", {}).get("filename_or_obj", batch.get("case", []))
        return [str(n) for n in ([names] if isinstance(names, str) else names)]
    return [f for item in batch or [] for f in _files_of(item)]


class GradientClipper:
    """Clip the gradient norm before each step (Pascanu et al. 2013).

    Raises:
        InputError: when `max_norm` is not positive.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], max_norm: float = 1.0) -> None:
        if not max_norm > 0:
            raise InputError(f"gradient_clip: wanted a norm above 0, came {max_norm}")
        self.parameters, self.max_norm = list(parameters), float(max_norm)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        state.gradient_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm))


def count_at_bounds(fused: torch.Tensor, image: torch.Tensor) -> int:
    """Voxels of the head that a clamp holds at the lowest or the highest value of the output.

    A free output takes its extreme once; several voxels that share it although both of their inputs differ were clamped. Ties
    between equal inputs (metal beyond the companding's end) are none.

    Args:
        fused: ``[B, 1, X, Y, Z]``.
        image: the normalised pair, ``[B, 2, X, Y, Z]``, 0 outside the head.
    """
    head = (image != 0).any(dim=1)
    values, mri, ct = fused[:, 0][head], image[:, 0][head], image[:, 1][head]
    if values.numel() < 2:
        return 0
    count = 0
    for bound in (values.min(), values.max()):
        tied = values == bound
        if int(mri[tied].unique().numel()) > 1 and int(ct[tied].unique().numel()) > 1:
            count += int(tied.sum())
    return count


class TrainingStatistics:
    """Means over each epoch in ``engine.state.metrics``: every loss component, its share of the gradient, the MRI's and CT's
    mean and deviation over the head, the fused range and voxels at its bounds, the gradient norm and the learning rate.

    Args:
        loss: whose components are read.
        optimizer: whose learning rate is read.
        gradient_every: iterations between two measurements of the gradient shares; the first of each epoch is measured.
    """

    def __init__(self, loss: RoiFusionLoss, optimizer: torch.optim.Optimizer, gradient_every: int = 20) -> None:
        self.loss, self.optimizer, self.gradient_every = loss, optimizer, max(int(gradient_every), 1)
        self._sums: dict[str, list[float]] = {}
        self._iterations = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._measure_gradients)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._publish)

    def _reset(self, engine: Engine) -> None:
        self._sums, self._iterations = {}, 0

    def _add(self, **values: float) -> None:
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)

    def _measure_gradients(self, engine: Engine) -> None:
        self._iterations += 1
        if (self._iterations - 1) % self.gradient_every:
            return
        state: Any = engine.state
        pred = state.output["pred"]
        norms = {}
        for name, component in self.loss.weighted.items():
            gradient = (
                torch.autograd.grad(component, pred, retain_graph=True, allow_unused=True)[0]
                if component.requires_grad
                else None
            )
            norms[name] = 0.0 if gradient is None else float(gradient.float().norm())
        total = sum(norms.values()) or 1.0
        self._add(**{f"gradient_share_{k}": v / total for k, v in norms.items()})

    def _collect(self, engine: Engine) -> None:
        self._add(**{f"loss_{k}": float(v.detach()) for k, v in self.loss.components.items()})
        state: Any = engine.state
        image, pred = state.output["image"], state.output["pred"].detach()
        head = (image != 0).any(dim=1, keepdim=True)
        for i, name in enumerate(("mri", "ct")):
            values = image[:, i : i + 1][head]
            if values.numel() > 1:
                self._add(**{f"{name}_mean": float(values.mean()), f"{name}_std": float(values.std())})
        fused = pred[:, :1][head]
        if fused.numel():
            self._add(fused_min=float(fused.min()), fused_max=float(fused.max()))
        self._add(fused_at_bounds=float(count_at_bounds(pred[:, :1], image)))
        if hasattr(engine.state, "gradient_norm"):
            self._add(gradient_norm=engine.state.gradient_norm)

    def _publish(self, engine: Engine) -> None:
        reduce: dict[str, Callable[[list[float]], float]] = {"fused_min": min, "fused_max": max, "fused_at_bounds": sum}
        for name, values in self._sums.items():
            engine.state.metrics[name] = float(reduce.get(name, lambda v: sum(v) / len(v))(values))
        engine.state.metrics["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])


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


def read_history(output_dir: str | Path) -> list[dict[str, Any]]:
    """The rows of ``history.jsonl``; a last line cut off by a kill is dropped.

    Raises:
        InputError: when there is no history, or a line inside it is broken.
    """
    path = Path(output_dir) / "history.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: wanted the history of a training, found no such file")
    lines = path.read_text().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["epoch"] = int(row["epoch"])
            rows.append(row)
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise InputError(f"{path}: wanted one JSON object with an epoch in line {number}, came {line[:60]!r}") from None
    return rows


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
