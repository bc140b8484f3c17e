# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What is checked before the first step: the scales of the loaded cases, and the sampler against its noise schedule."""

from __future__ import annotations

from typing import Any

import torch

from .diffusion import Level, signal_and_noise

__all__ = ["case_scales", "check_scales", "check_schedule", "scale_fault"]


def case_scales(mri: torch.Tensor, ct: torch.Tensor, head: torch.Tensor) -> dict[str, float]:
    """Mean, deviation and range of both volumes over the head."""
    inside = head > 0
    out = {}
    for name, volume in (("mri", mri), ("ct", ct)):
        values = volume[inside].float()
        if values.numel() < 2:
            continue
        out.update({
            f"{name}_mean": float(values.mean()), f"{name}_std": float(values.std()), f"{name}_min": float(values.min()),
            f"{name}_max": float(values.max()),
        })  # fmt: skip
    return out


def scale_fault(scales: dict[str, float]) -> str | None:
    """What is wrong with a case's scales; None when both are normalised alike.

    Deviations more than a factor of 2 apart, a mean beyond 0.1, or a CT that fills [0, 1] exactly.
    """
    if "mri_std" not in scales or "ct_std" not in scales:
        return "no head"
    ratio = max(scales["mri_std"], scales["ct_std"]) / max(min(scales["mri_std"], scales["ct_std"]), 1e-9)
    facts = (
        f"MRI {scales['mri_mean']:.2f} ± {scales['mri_std']:.2f}, CT {scales['ct_mean']:.2f} ± {scales['ct_std']:.2f} "
        f"in [{scales['ct_min']:.2f}, {scales['ct_max']:.2f}]"
    )
    if scales["ct_min"] >= 0 and scales["ct_max"] <= 1.0 + 1e-4:
        return f"CT min-max scaled: {facts}"
    if ratio > 2:
        return f"deviations a factor of {ratio:.1f} apart: {facts}"
    if max(abs(scales["mri_mean"]), abs(scales["ct_mean"])) > 0.1:
        return f"mean away from 0: {facts}"
    return None


def check_scales(dataset: Any) -> tuple[int, dict[str, str]]:
    """Measure every cached case of a training data set as it was loaded, before random transforms.

    Returns:
        (cases looked at, ``{case: fault}``)
    """
    broken: dict[str, str] = {}
    cache = [c for c in getattr(dataset, "_cache", []) if isinstance(c, dict) and {"image", "ct", "head"} <= set(c)]
    for case in cache:
        mri, ct, head = (torch.as_tensor(case[k]) for k in ("image", "ct", "head"))
        fault = scale_fault(case_scales(mri, ct, head))
        if fault:
            broken[str(case.get("case"))] = fault
    return len(cache), broken


def check_schedule(inferer: Any, scheduler: Any, tolerance: float = 1e-3) -> str | None:
    """Run the inferer's sampler with an oracle that knows x₀: at each step x_t must lie on the level that the network is told.

    Args:
        inferer: with ``levels`` and ``sampler``.
        scheduler: the schedule that training noises with.
        tolerance: largest difference, in units of the data.

    Returns:
        What is wrong, or None.
    """
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(512, generator=generator, dtype=torch.float64) for _ in range(2))
    levels = list(inferer.levels)
    fault: list[str] = []

    def oracle(x_t: torch.Tensor, level: Level) -> torch.Tensor:
        try:
            signal, deviation = signal_and_noise(scheduler, level.t)
        except IndexError:
            fault.append(f"the sampler visits timestep {level.t:g}, which the training's schedule has not")
            return clean
        # What is left of x_t besides the signal must be unit noise at the level's deviation.
        rest = x_t - signal * clean
        spread = float(rest.std())
        if not fault and abs(spread - deviation) > 0.05 + tolerance:
            fault.append(
                f"at timestep {level.t:g} the state carries noise {spread:.2f} where the network is told {deviation:.2f}"
            )
        return clean

    result = inferer.sampler(oracle, noise, levels)
    error = float((result - clean).abs().mean())
    if not fault and not error <= tolerance:
        fault.append(f"with a perfect network the sample is {error:.2f} away from the clean state")
    return fault[0] if fault else None
