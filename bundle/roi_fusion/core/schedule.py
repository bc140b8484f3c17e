# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Noise levels from MONAI's schedulers and exact deterministic stepping between them.

Every schedule is a pair (a_t, s_t) with x_t = a_t·x₀ + s_t·ε. The sampler steps between its own consecutive timesteps with
these pairs. Coefficients for one training step, applied to a strided list of timesteps, would leave x near noise whatever the
network predicts; and MONAI's own ``DDIMScheduler.step`` goes to ``t - 1000 // n`` although its timesteps are spaced by
``linspace(999, 0, n)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.networks.schedulers import DDIMScheduler, RFlowScheduler

from ..errors import InputError

__all__ = ["Level", "inference_levels", "make_scheduler", "sample", "signal_and_noise"]

Scheduler = DDIMScheduler | RFlowScheduler


@dataclass(frozen=True)
class Level:
    """One noise level, x_t = signal·x₀ + noise·ε.

    Attributes:
        t: timestep that the network is given.
        signal, noise: weights of the clean state and of the noise.
    """

    t: float
    signal: float
    noise: float


def make_scheduler(name: str = "ddim", num_train_timesteps: int = 1000) -> Scheduler:
    """MONAI's noise scheduler by name.

    Args:
        name: ``"ddim"`` (linear betas, x₀ prediction, no clipping) or ``"rflow"`` (rectified flow).
        num_train_timesteps: number of timesteps of the training.

    Raises:
        InputError: for another name.
    """
    if name == "ddim":
        return DDIMScheduler(num_train_timesteps, schedule="linear_beta", clip_sample=False, prediction_type="sample")
    if name == "rflow":
        return RFlowScheduler(num_train_timesteps, use_discrete_timesteps=True)
    raise InputError(f"scheduler: expected ddim or rflow, got {name!r}")


def signal_and_noise(scheduler: Scheduler, t: float) -> tuple[float, float]:
    """Weights (a_t, s_t) of signal and noise at timestep `t`: (√ᾱ_t, √(1 - ᾱ_t)), or (1 - t/T, t/T) for rectified flow.

    Raises:
        InputError: for a scheduler that clips x₀.

    Example:
        >>> signal_and_noise(make_scheduler("rflow"), 250)
        (0.75, 0.25)
    """
    if isinstance(scheduler, RFlowScheduler):
        share = float(t) / scheduler.num_train_timesteps
        return 1.0 - share, share
    if scheduler.clip_sample:
        raise InputError("scheduler: expected clip_sample=False, got a scheduler that clips x₀ to its bounds")
    alpha_bar = float(scheduler.alphas_cumprod[int(t)].double())
    return alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5


def inference_levels(scheduler: Scheduler, num_inference_steps: int) -> list[Level]:
    """Noise levels of a sampling run at the scheduler's own timesteps, noisiest first.

    Args:
        scheduler: from :func:`make_scheduler`.
        num_inference_steps: number of steps, 1…``num_train_timesteps``.

    Raises:
        InputError: when the number of steps is out of range or not whole.

    Example:
        >>> [level.t for level in inference_levels(make_scheduler("ddim"), 4)]
        [999.0, 666.0, 333.0, 0.0]
    """
    if not 1 <= int(num_inference_steps) <= scheduler.num_train_timesteps or int(num_inference_steps) != num_inference_steps:
        raise InputError(
            f"num_inference_steps: expected a whole number from 1 to {scheduler.num_train_timesteps}, got {num_inference_steps}"
        )
    scheduler.set_timesteps(int(num_inference_steps))
    return [Level(float(t), *signal_and_noise(scheduler, float(t))) for t in scheduler.timesteps]


def sample(
    predict_x0: Callable[[torch.Tensor, Level], torch.Tensor],
    noise: torch.Tensor,
    levels: Sequence[Level],
    on_step: Callable[[int, Level, torch.Tensor, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Deterministic sampling (DDIM with η = 0, Song et al. 2021; for rectified flow Euler's method, Liu et al. 2023).

    Args:
        predict_x0: denoiser ``(x_t, level) → x₀`` of the same shape.
        noise: start x_T ~ N(0, I), any shape.
        levels: from :func:`inference_levels`; the last step goes to the clean state (signal 1, noise 0).
        on_step: called as ``(step, level, x_t, x₀)`` after each prediction.

    Returns:
        The clean state, shape of `noise`.

    Example:
        >>> levels = inference_levels(make_scheduler("rflow"), 3)
        >>> clean = torch.tensor([1.0, -2.0])
        >>> torch.allclose(sample(lambda x, level: clean, torch.randn(2), levels), clean)
        True
    """
    x = noise
    clean = [Level(0.0, 1.0, 0.0)]
    for step, (level, following) in enumerate(zip(levels, list(levels[1:]) + clean)):
        x0 = predict_x0(x, level)
        if on_step is not None:
            on_step(step, level, x, x0)
        epsilon = (x - level.signal * x0) / level.noise
        x = following.signal * x0 + following.noise * epsilon
    return x
