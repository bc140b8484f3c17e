# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What a person sees of a run: a line for each case or epoch, and a bar with the time left on a terminal."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ignite.engine import Events
from tqdm import tqdm

from ..console import duration, progress_bar, short_path
from ..data.cases import name_of
from ..values import is_first_rank, printable
from .checkpoint import CheckpointWriter
from .handlers import TrainingEvents

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["CaseProgress", "TrainingProgress", "case_line", "epoch_line"]

logger = logging.getLogger(__name__)

#: Validation metrics that are worth a place in the line of an epoch; history.jsonl has all of them.
_SHOWN = {
    "score": "score",
    "lesion_dice": "Dice",
    "brain_ssim": "brain SSIM",
    "bone_ssim": "bone SSIM",
}


def _ml(volume: float) -> str:
    return f"{volume:.2f}" if 0 < volume < 1 else f"{volume:.1f}"


def _lesion(facts: Mapping[str, Any]) -> str:
    """What is said of the lesion's volume in the line of a case."""
    volume, interval = facts["lesion_ml"], facts.get("lesion_ml_interval")
    if volume is None:
        return f"lesion not measured: {facts.get('lesion_ml_interval_note') or 'no reason noted'}"
    if volume == 0 and not facts.get("lesion_ml_is_lower_bound"):
        return f"no lesion found ({_ml(interval[0])}–{_ml(interval[1])} mL)" if interval else "no lesion found, no interval"
    if interval:
        return f"lesion {_ml(volume)} mL ({_ml(interval[0])}–{_ml(interval[1])})"
    if facts.get("lesion_ml_is_lower_bound"):
        return f"lesion {_ml(volume)} mL or more"
    return f"lesion {_ml(volume)} mL, no interval"


def case_line(facts: Mapping[str, Any], seconds: float, *, width: int = 0, dice: float = math.nan) -> str:
    """The line of one case.

    Args:
        facts: content of its ``result.json``.
        seconds: that it took.
        width: letters that the name is filled up to.
        dice: of its lesion, where a reference is known.

    Example:
        >>> case_line({"case": "a7", "lesion_ml": 12.44, "lesion_ml_interval": [8.13, 17.0], "warnings": ["x", "y"]}, 9.8)
        'a7  lesion 12.4 mL (8.1–17.0)  2 warnings  9.8 s'
    """
    parts = [printable(str(facts["case"])).ljust(width), _lesion(facts)]
    if math.isfinite(dice):
        parts.append(f"Dice {dice:.2f}")
    if facts.get("outside_training"):
        names = [sentence.split(" (known")[0] for sentence in facts["outside_training"]]
        parts.append("not to be relied on, outside training: " + ", ".join(n.split(" (")[0] for n in names))
    count = len(facts.get("warnings") or ())
    if count:
        parts.append(f"{count} warning{'s' if count > 1 else ''}")
    return "  ".join([*parts, duration(seconds)])


def epoch_line(
    epoch: int,
    epochs: int,
    metrics: Mapping[str, Any],
    validation: Mapping[str, Any] | None,
    seconds: float,
    best: bool = False,
) -> str:
    """The line of one epoch of a training.

    Args:
        epoch, epochs: this one, and how many there will be.
        metrics: of the trainer, see :class:`~roi_fusion.engine.handlers.TrainingStatistics`.
        validation: metrics of the validation, where the epoch had one.
        seconds: that it took, the validation included.
        best: whether the validation is the best so far.

    Example:
        >>> epoch_line(2, 9, {"loss_total": 6.7, "loss_brain": 0.25, "learning_rate": 1e-4}, {"score": 0.345}, 12.3)
        'epoch 2/9  loss 6.7 (brain 0.25)  validation: score 0.345  lr 0.0001  12.3 s'
    """
    losses = {k.removeprefix("loss_"): float(v) for k, v in metrics.items() if k.startswith("loss_")}
    total = losses.pop("total", math.nan)
    components = ", ".join(f"{k} {v:.3g}" for k, v in losses.items())
    parts = [f"epoch {epoch}/{epochs}", f"loss {total:.3g}" + (f" ({components})" if components else "")]
    if validation is not None:
        found = {k: float(validation[k]) for k in _SHOWN if math.isfinite(float(validation.get(k, math.nan)))}
        said = [*(f"{_SHOWN[k]} {v:.3f}" for k, v in found.items()), *(["new best"] if best else [])]
        parts.append("validation: " + (", ".join(said) or "nothing measured"))
    if "learning_rate" in metrics:
        parts.append(f"lr {float(metrics['learning_rate']):.2g}")
    return "  ".join([*parts, duration(seconds)])


class CaseProgress:
    """Say every case of an inference or evaluation with its lesion, behind :class:`~roi_fusion.engine.writers.ResultWriter`.

    On a terminal a bar with the time left runs below; elsewhere each line has the count and the time left instead.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._begun = self._case_begun = 0.0
        self._width = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._say)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _start(self, engine: Engine) -> None:
        data = getattr(getattr(getattr(engine, "data_loader", None), "dataset", None), "data", [])
        self._width = min(max((len(name_of(c)) for c in data if "case" in c), default=0), 32)
        self._begun = time.monotonic()
        self._bar = progress_bar(engine.state.epoch_length or 0, "cases", "cases", leave=False)

    def _begin(self, engine: Engine) -> None:
        self._case_begun = time.monotonic()

    def _say(self, engine: Engine) -> None:
        state: Any = engine.state
        facts = getattr(state, "case_facts", []) if state.batch else []
        names = {case["case"] for case in facts}
        latest = itertools.takewhile(lambda r: r["case"] in names, reversed(getattr(state, "case_rows", [])))
        dice = {r["case"]: r.get("lesion_dice", math.nan) for r in latest if r["method"] == "roi_fusion"}
        elsewhere = getattr(state, "case_seconds", None)  # on a worker of a cluster
        seconds = elsewhere or (time.monotonic() - self._case_begun) / max(len(facts), 1)
        for case in facts:
            line = case_line(case, seconds, width=self._width, dice=float(dice.get(case["case"], math.nan)))
            logger.info("%s", line + self._left(engine))
        if self._bar is not None:
            self._bar.update()

    def _left(self, engine: Engine) -> str:
        """Count and time left, where no bar shows them."""
        done, total = engine.state.iteration, engine.state.epoch_length or 0
        if total < 2 or self._bar is None or not self._bar.disable:
            return ""
        left = (time.monotonic() - self._begun) / done * (total - done)
        return f"  {done}/{total}" + (f", {duration(left)} left" if left else "")

    def _end(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class TrainingProgress:
    """Say every epoch of a training in a line, behind validation and history.

    On a terminal two bars run below, one over all epochs with the time left and one within the epoch or its validation;
    elsewhere each line has the time left instead.

    Args:
        best_writer: that keeps the best weights of the training's validation; a new best is said.
    """

    def __init__(self, best_writer: CheckpointWriter) -> None:
        self.best_writer, self.evaluator = best_writer, best_writer.evaluator
        self._whole: tqdm | None = None
        self._part: tqdm | None = None
        self._begun = self._epoch_begun = 0.0
        self._first_epoch = 0

    def attach(self, engine: Engine) -> None:
        engine.register_events(*TrainingEvents)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._say)
        engine.add_event_handler(Events.COMPLETED, self._end)
        engine.add_event_handler(TrainingEvents.FAILED, self._end)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.STARTED, self._validate)
            self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._validated)

    def _start(self, engine: Engine) -> None:
        state = engine.state
        self._begun, self._first_epoch = time.monotonic(), state.epoch
        length, epochs = int(state.epoch_length or 0), int(state.max_epochs or 0)
        form = "{desc} {percentage:3.0f}% |{bar:24}| {elapsed}, {remaining} left"
        self._whole = progress_bar(
            epochs * length,
            "training",
            "it",
            initial=state.iteration,
            leave=False,
            position=0,
            bar_format=form,
            smoothing=0,
        )
        if is_first_rank():
            counted = f"{epochs} epoch{'s' if epochs != 1 else ''} of {length} iteration{'s' if length != 1 else ''}"
            logger.info("training: %s, everything goes to %s", counted, short_path(self.best_writer.path.parent))

    def _new_part(self, total: int, description: str, unit: str) -> None:
        if self._part is not None:
            self._part.close()
        self._part = progress_bar(total, description, unit, leave=False, position=1)

    def _begin(self, engine: Engine) -> None:
        self._epoch_begun = time.monotonic()
        if self._whole is not None:
            self._whole.set_description_str(f"epoch {engine.state.epoch}/{engine.state.max_epochs}")
        self._new_part(int(engine.state.epoch_length or 0), "  this epoch", "iterations")

    def _step(self, engine: Engine) -> None:
        state: Any = engine.state
        if self._part is not None and not self._part.disable and isinstance(state.output, Mapping) and "loss" in state.output:
            self._part.set_postfix_str(f"loss {float(state.output['loss'].detach()):.3g}", refresh=False)
        for bar in (self._whole, self._part):
            if bar is not None:
                bar.update()

    def _validate(self, evaluator: Engine) -> None:
        if self._whole is not None:
            self._new_part(int(evaluator.state.epoch_length or 0), "  validation", "cases")

    def _validated(self, evaluator: Engine) -> None:
        if self._part is not None:
            self._part.update()

    def _say(self, engine: Engine) -> None:
        if not is_first_rank():
            return
        state = getattr(self.evaluator, "state", None)
        validated = state is not None and bool(state.metrics) and state.epoch == engine.state.epoch
        epoch, epochs = engine.state.epoch, int(engine.state.max_epochs or 0)
        seconds = time.monotonic() - self._epoch_begun
        best = self.best_writer.is_better(engine)
        line = epoch_line(
            epoch, epochs, engine.state.metrics, getattr(state, "metrics", None) if validated else None, seconds, best
        )
        if self._whole is not None and self._whole.disable and epoch < epochs:
            left = (time.monotonic() - self._begun) / (epoch - self._first_epoch) * (epochs - epoch)
            line += f"  {duration(left)} left"
        logger.info("%s", line)

    def _end(self, engine: Engine) -> None:
        for bar in (self._part, self._whole):
            if bar is not None:
                bar.close()
        self._part = self._whole = None
