# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler

from roi_fusion.core.schedule import Level, inference_levels, make_scheduler, sample, signal_and_noise
from roi_fusion.errors import InputError

STEPS = range(1, 51)


@pytest.mark.parametrize("name", ["ddim", "rflow"])
def test_levels_are_those_that_the_scheduler_trains_on(name: str) -> None:
    scheduler = make_scheduler(name)
    clean, noise = torch.full((1, 1, 2, 2, 2), 3.0), torch.full((1, 1, 2, 2, 2), -2.0)
    for level in inference_levels(scheduler, 13):
        t = torch.tensor([int(level.t)])
        noised = scheduler.add_noise(clean, noise, t)
        assert torch.allclose(noised, level.signal * clean + level.noise * noise, atol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "rflow"])
@pytest.mark.parametrize("steps", STEPS)
def test_every_step_stands_on_the_noise_level_that_the_network_is_told(name: str, steps: int) -> None:
    """With the true x₀ the state must be a_t·x₀ + s_t·ε at every step; a constant x₀ alone could not see a wrong stride."""
    generator = torch.Generator().manual_seed(steps)
    clean, noise = (torch.randn(1, 2, 5, 4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    scheduler = make_scheduler(name)
    levels = inference_levels(scheduler, steps)
    epsilon = (noise - levels[0].signal * clean) / levels[0].noise  # the start is x_T = noise
    seen = []

    def watch(step: int, level: Level, x_t: torch.Tensor, x0: torch.Tensor) -> None:
        signal, deviation = signal_and_noise(make_scheduler(name), level.t)
        assert torch.allclose(x_t, signal * clean + deviation * epsilon, atol=1e-4)
        seen.append(level.t)

    out = sample(lambda x, level: clean, noise, inference_levels(scheduler, steps), on_step=watch)
    assert torch.allclose(out, clean, atol=1e-4)
    assert len(seen) == steps
    assert all(a > b for a, b in pairwise(seen))


@pytest.mark.parametrize("name", ["ddim", "rflow"])
@pytest.mark.parametrize("steps", STEPS)
def test_a_gaussian_oracle_is_sampled_with_the_right_mean_and_variance(name: str, steps: int) -> None:
    """x₀ ~ N(μ, σ²) per voxel: the optimal denoiser is linear, so that each step maps the state's moments exactly.

    Moments are followed in closed form: they converge to those of the data as steps are added, and stay right at every step
    for the law that the sampler stands on.
    """
    mean, deviation = 0.7, 0.5

    def oracle(x: torch.Tensor, level: Level) -> torch.Tensor:
        gain = level.signal * deviation**2 / (level.signal**2 * deviation**2 + level.noise**2)
        return mean + gain * (x - level.signal * mean)

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200_000, generator=generator, dtype=torch.float64)
    out = sample(oracle, noise, inference_levels(make_scheduler(name), steps))
    assert out.mean().item() == pytest.approx(mean, abs=0.01)
    # One step returns the mean; the error of a finite number of steps is the flow's discretisation, known here exactly.
    expected = _deterministic_deviation(name, steps, deviation)
    assert out.std().item() == pytest.approx(expected, rel=0.02, abs=1e-3)
    if steps >= 25:
        assert out.std().item() == pytest.approx(deviation, rel=0.12)


def _deterministic_deviation(name: str, steps: int, deviation: float) -> float:
    """Deviation that exact DDIM stepping between the timesteps gives for the linear oracle: a product of scalars."""
    levels = [(lv.signal, lv.noise) for lv in inference_levels(make_scheduler(name), steps)] + [(1.0, 0.0)]
    spread = 1.0
    for (a, s), (b, r) in pairwise(levels):
        gain = a * deviation**2 / (a**2 * deviation**2 + s**2)
        spread *= b * gain + r * (1 - a * gain) / s
    return spread


def test_one_step_coefficients_on_a_strided_list_leave_noise() -> None:
    """The fault that started this project, kept as a test that the checks above would see it."""
    scheduler = make_scheduler("ddim")
    betas = scheduler.betas.double()
    clean, x = torch.full((1000,), 0.5, dtype=torch.float64), torch.randn(1000, dtype=torch.float64)
    for t in range(999, 0, -50):
        alpha_bar, alpha = float(scheduler.alphas_cumprod[t]), 1 - float(betas[t])
        epsilon = (x - alpha_bar**0.5 * clean) / (1 - alpha_bar) ** 0.5
        x = (x - (1 - alpha) / (1 - alpha_bar) ** 0.5 * epsilon) / alpha**0.5
    assert (x - clean).abs().mean() > 0.3
    exact = sample(lambda x_t, level: clean, torch.randn(1000, dtype=torch.float64), inference_levels(scheduler, 20))
    assert (exact - clean).abs().mean() < 1e-6


@pytest.mark.parametrize("steps", [0, -3, 1001, 2.5])
def test_a_bad_number_of_steps_is_refused(steps: float) -> None:
    with pytest.raises(InputError, match="num_inference_steps: expected a whole number from 1 to 1000"):
        inference_levels(make_scheduler(), steps)  # type: ignore[arg-type]


def test_a_scheduler_that_clips_is_refused() -> None:
    with pytest.raises(InputError, match="clip_sample=False"):
        inference_levels(DDIMScheduler(1000), 4)
    with pytest.raises(InputError, match="ddim or rflow, got 'ddpm'"):
        make_scheduler("ddpm")
