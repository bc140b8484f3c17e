# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Ignite handlers: what is logged, guarded and written during training, evaluation and inference."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import EventEnum, Events
from monai.engines.utils import IterationEvents
from monai.utils import set_determinism

from ..core.losses import RoiFusionLoss
from ..errors import InputError

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = [
    "EmaUpdater",
    "EpochSeeder",
    "GradientClipper",
    "LossComponents",
    "NonFiniteGuard",
    "TrainingEvents",
    "TrainingStatistics",
    "count_at_bounds",
]

logger = logging.getLogger(__name__)


class TrainingEvents(EventEnum):
    """Events of a whole training, which ignite's engine has none for."""

    #: The training ended with an error, which ``engine.state.error`` holds. The first handler of ignite's EXCEPTION_RAISED that
    #: raises ends the others, and MONAI's StatsHandler raises; every handler of this one is called.
    FAILED = "training_failed"


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
            f"loss: expected a finite number at iteration {engine.state.iteration}, got "
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
            raise InputError(f"gradient_clip: expected a norm above 0, got {max_norm}")
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


class LossComponents:
    """The loss components of an iteration as plain numbers, for the ``output_transform`` of a handler that logs iterations.

    Args:
        loss: whose components of the last call are read.

    Returns:
        ``{"iteration_loss_<component>": number}``; the means over an epoch are called ``loss_<component>``.
    """

    def __init__(self, loss: RoiFusionLoss) -> None:
        self.loss = loss

    def __call__(self, output: Any = None) -> dict[str, float]:
        return {f"iteration_loss_{k}": float(v.detach()) for k, v in self.loss.components.items()}


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
