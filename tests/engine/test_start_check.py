# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from roi_fusion.core.schedule import Level, inference_levels, make_scheduler, sample
from roi_fusion.engine.doctor import case_scales, check_scales, check_schedule, scale_fault
from roi_fusion.engine.inferer import SamplingInferer


def one_step_sampler(predict_x0, noise: torch.Tensor, levels: list[Level]) -> torch.Tensor:
    """The seed's fault: DDPM coefficients of neighbouring timesteps on a strided list."""
    scheduler = make_scheduler("ddim")
    x = noise
    for level in levels:
        t = int(level.t)
        alpha_bar, alpha = float(scheduler.alphas_cumprod[t]), 1 - float(scheduler.betas[t])
        x0 = predict_x0(x, level)
        epsilon = (x - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
        x = (x - (1 - alpha) / (1 - alpha_bar) ** 0.5 * epsilon) / alpha**0.5
    return x


def monai_sampler(predict_x0, noise: torch.Tensor, levels: list[Level]) -> torch.Tensor:
    """MONAI's own stepping, whose state and timestep disagree."""
    scheduler = make_scheduler("ddim")
    scheduler.set_timesteps(len(levels))
    x = noise
    for t in scheduler.timesteps:
        x, _ = scheduler.step(predict_x0(x, Level(float(t), 0, 0)), int(t), x)
    return x


@pytest.mark.parametrize("name", ["ddim", "rflow"])
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 20, 50, 1000])
def test_the_sampler_passes(name: str, steps: int) -> None:
    inferer = SamplingInferer(make_scheduler(name), num_inference_steps=steps)
    assert check_schedule(inferer, make_scheduler(name)) is None


def strided() -> list[Level]:
    scheduler = make_scheduler("ddim")
    return [
        Level(float(t), float(scheduler.alphas_cumprod[t]) ** 0.5, float(1 - scheduler.alphas_cumprod[t]) ** 0.5)
        for t in range(999, 0, -50)
    ]


def test_one_step_coefficients_are_found() -> None:
    fault = check_schedule(SimpleNamespace(levels=strided(), sampler=one_step_sampler), make_scheduler("ddim"))
    assert fault is not None
    assert "the state carries noise" in fault


def test_monais_own_stride_is_found() -> None:
    fault = check_schedule(
        SimpleNamespace(levels=inference_levels(make_scheduler("ddim"), 5), sampler=monai_sampler), make_scheduler("ddim")
    )
    assert fault is not None
    assert "the state carries noise" in fault


def test_training_and_sampling_on_different_schedules_are_found() -> None:
    inferer = SamplingInferer(make_scheduler("rflow"), num_inference_steps=4)
    assert check_schedule(inferer, make_scheduler("ddim")) is not None


def test_a_sampler_that_stops_early_is_found() -> None:
    def early(predict_x0, noise: torch.Tensor, levels: list[Level]) -> torch.Tensor:
        states: list[torch.Tensor] = []
        sample(predict_x0, noise, levels, on_step=lambda i, level, x, x0: states.append(x))
        return states[-1]

    scheduler = make_scheduler("rflow")
    fault = check_schedule(SimpleNamespace(levels=inference_levels(scheduler, 4), sampler=early), scheduler)
    assert fault is not None
    assert "away from the clean state" in fault


def pair(ct) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head = torch.zeros(1, 20, 20, 4)
    head[:, 2:18, 2:18] = 1
    mri = torch.randn(1, 20, 20, 4)
    return mri * head, ct(torch.randn(1, 20, 20, 4)) * head, head


@pytest.mark.parametrize(
    ("ct", "fault"),
    [
        (lambda z: z, None),
        (lambda z: 1.6 * z, None),
        (lambda z: (z - z.min()) / (z.max() - z.min()), "CT min-max scaled"),
        (lambda z: 0.1 * z, "deviations a factor of"),
        (lambda z: z + 0.5, "mean away from 0"),
    ],
)
def test_scales_of_a_case(ct, fault: str | None) -> None:
    found = scale_fault(case_scales(*pair(ct)))
    assert (found is None) if fault is None else fault in str(found)


def test_every_loaded_case_is_measured() -> None:
    good, bad = pair(lambda z: z), pair(lambda z: 0.01 * z)
    cache = [{"case": n, **dict(zip(("image", "ct", "head"), p))} for n, p in (("a", good), ("b", bad), ("c", good))]
    cases, broken = check_scales(SimpleNamespace(_cache=cache))
    assert cases == 3
    assert set(broken) == {"b"}
    assert check_scales(object()) == (0, {})
