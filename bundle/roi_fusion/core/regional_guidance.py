# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Two ways to lower the regional energy in a sampling step: on the gate and residual logits, or through the denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .channels import split_output, split_raw
from .intensity import fusion_sources
from .network import RoiFusionNet
from .regional_energy import GuidedRegions, RegionalEnergy
from .schedule import Level
from .uncertainty import entropy_bits

__all__ = ["GuidedStep", "LogitDescent", "Momentum", "NetworkDescent", "Step", "soft_sign"]

#: Least share of either volume that guidance leaves, so that the logit stays finite.
_SURE = 0.002

#: Largest move of the noisy state in its own noise, at η = 1 through the network.
_NOISE_SHARE = 0.5

#: Share of its last move that a voxel keeps (Polyak 1964).
_MOMENTUM = 0.5


def soft_sign(gradient: torch.Tensor) -> torch.Tensor:
    """Gradient ``[B, C, X, Y, Z]`` → direction in -1…1, proportional where the gradient is well below the root mean square."""
    scale = gradient.square().mean(dim=(0, 2, 3, 4), keepdim=True).sqrt()
    return gradient / (gradient.abs() + scale + 1e-30)


class Step(NamedTuple):
    """One sampling step before guidance.

    Attributes:
        raw: logits that the network predicted from `x_t`, ``[1, 5, X, Y, Z]``.
        x_t: noisy state, ``[1, 2, X, Y, Z]``.
        level: noise level of `x_t`.
        eta: strength η of this step.
        decode: ``(x_t, level) → raw``.
    """

    raw: torch.Tensor
    x_t: torch.Tensor
    level: Level
    eta: float
    decode: Callable[[torch.Tensor, Level], torch.Tensor]


class GuidedStep(NamedTuple):
    """The guided logits ``[1, 5, X, Y, Z]`` of a step, and the regional energy before and after."""

    raw: torch.Tensor
    before: float
    after: float


@dataclass
class Momentum:
    """What a descent carries from one sampling step to the next, each ``[1, 1, X, Y, Z]`` in normalised units.

    Attributes:
        moved: how far each voxel lies from where the network put it.
        last_move: the last update of each voxel.
    """

    moved: torch.Tensor
    last_move: torch.Tensor


class LogitDescent:
    """Moves the fused image of each step within what gate and residual can reach, with momentum between the steps.

    Bone becomes C' itself, which no window inside of it can improve on; what surrounds it gives way. A move is the gradient
    over its curvature (see :meth:`~roi_fusion.core.ssim.FixedReferenceSsim.slope`) times η·σ(κ·u).

    Args:
        network: gives composition and residual bound.
        image: normalised MRI and CT, ``[1, 2, X, Y, Z]``.
        energy: energy to lower.
        regions: regions of the energy.
        first_gate: gate logit of the first step, ``[1, 1, X, Y, Z]``; its entropy sets how fast a voxel may move.
        kappa: κ.
        num_updates: gradient updates in a step.
    """

    def __init__(
        self,
        network: RoiFusionNet,
        image: torch.Tensor,
        energy: RegionalEnergy,
        regions: GuidedRegions,
        first_gate: torch.Tensor,
        kappa: float,
        num_updates: int,
    ) -> None:
        self.network, self.image, self.energy, self.num_updates = network, image, energy, num_updates
        self._from_ct = regions.from_ct
        entropy = entropy_bits(torch.sigmoid(first_gate))
        self._pace = torch.sigmoid(kappa * entropy) * regions.inside * (1 - regions.from_ct)
        self._low, self._high = self._limits()
        self.state = Momentum(torch.zeros_like(first_gate), torch.zeros_like(first_gate))

    def step(self, step: Step) -> GuidedStep:
        """Descend from where the last step ended and keep the best image seen."""
        raw, state = step.raw, self.state
        fused = split_output(self.network.compose(self.image, raw)).fused
        _, ct = fusion_sources(self.image)
        start = torch.lerp(fused, ct, self._from_ct)
        best, before = fused, self.energy(fused)
        lowest = before
        for _ in range(self.num_updates):
            trial = self._within_limits(start + state.moved)
            value, gradient, curvature = self.energy.slope(trial)
            if value < lowest:
                lowest, best = value, trial
            newton = gradient / (curvature + self.energy.least_curvature)
            state.last_move = _MOMENTUM * state.last_move - step.eta * self._pace * newton
            state.moved = trial - start + state.last_move
        trial = self._within_limits(start + state.moved)
        if (value := self.energy(trial)) < lowest:
            lowest, best = value, trial
        return GuidedStep(self._as_logits(raw, fused, best), before, lowest)

    def _within_limits(self, fused: torch.Tensor) -> torch.Tensor:
        return torch.minimum(torch.maximum(fused, self._low), self._high)

    def _limits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Least and greatest value of a guided voxel: nothing brighter than both sources, nor, but for what comes from the CT,
        much darker than the MRI's darkest, below which its units are negative.

        The exponential keeps that limit from being one value that many voxels share.
        """
        mri, ct = fusion_sources(self.image)
        seen = mri[mri != 0]
        darkest = float(seen.min()) if seen.numel() else -math.inf
        low = torch.minimum(mri, ct) - 0.999 * self.network.residual_bound
        low = torch.maximum(low, darkest + 0.02 * torch.exp((low - darkest).clamp(max=0)))
        return torch.where(self._from_ct > 0.5, torch.minimum(low, ct), low), torch.maximum(mri, ct)

    def _as_logits(self, raw: torch.Tensor, fused: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """`raw` with the gate and residual that compose `expected`: by the gate as far as it can, by the residual beyond."""
        mri, ct = fusion_sources(self.image)
        bound, logits = self.network.residual_bound, split_raw(raw)
        gate, residual = torch.sigmoid(logits.gate), bound * torch.tanh(logits.residual)
        contrast = mri - ct
        share = torch.where(contrast.abs() > 0.05, (expected - residual - ct) / contrast, gate).clamp(_SURE, 1 - _SURE)
        left = (expected - share * mri - (1 - share) * ct).clamp(-0.9999 * bound, 0.9999 * bound)
        moved = (expected - fused).abs() > 1e-6
        guided = logits._replace(
            gate=torch.where(moved, torch.logit(share), logits.gate),
            residual=torch.where(moved, torch.atanh(left / bound), logits.residual),
        )
        return torch.cat(guided, dim=1)


class NetworkDescent:
    """Moves the noisy state of each step by the gradient through the denoiser; nothing is carried from step to step.

    Args:
        network: gives the composition.
        image: normalised MRI and CT, ``[1, 2, X, Y, Z]``.
        energy: energy to lower.
        num_updates: moves to try in a step.
    """

    def __init__(self, network: RoiFusionNet, image: torch.Tensor, energy: RegionalEnergy, num_updates: int) -> None:
        self.network, self.image, self.energy, self.num_updates = network, image, energy, num_updates

    def step(self, step: Step) -> GuidedStep:
        """Move and predict again; a move that raises the energy is undone, and the next is half as long."""
        raw, eta = step.raw, step.eta
        best = self.energy(self._fused(raw))
        before, state = best, step.x_t.detach().clone()
        for _ in range(self.num_updates):
            with torch.enable_grad():
                leaf = state.requires_grad_(True)
                fused = self._fused(step.decode(leaf, step.level).float())
                _, over_image, _ = self.energy.slope(fused.detach())
                (gradient,) = torch.autograd.grad(fused, leaf, over_image)
            trial = state.detach() - _NOISE_SHARE * eta * step.level.noise * soft_sign(gradient)
            candidate = step.decode(trial, step.level).float()
            value = self.energy(self._fused(candidate))
            state = state.detach()
            if value < best:
                best, state, raw = value, trial, candidate
            else:
                eta *= 0.5
        return GuidedStep(raw, before, best)

    def _fused(self, raw: torch.Tensor) -> torch.Tensor:
        return split_output(self.network.compose(self.image, raw)).fused
