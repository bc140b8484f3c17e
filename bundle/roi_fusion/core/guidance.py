# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""ROI guidance of the sampler: at each step the gradient of an energy moves the predicted image within what gate and residual
can reach.

The energy is α·(1 - SSIM(F, M | brain)) + β·(1 - SSIM(F, C' | bone)) with ordinary windows, M and C' being what F is blended
from, and a lesion term on the head's logit. Every move is written back as gate and residual logits, so F stays inside the blend
and its bound, and the provenance exact. All of it is in plane, so slices are worked on in chunks, which bounds what a gradient
takes; what is kept between steps are a dozen volumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from monai.losses import DiceLoss
from scipy.ndimage import distance_transform_edt

from ..errors import InputError
from .intensity import TYPICAL_SCALES, expand_hu, fusion_sources
from .masks import fill_slices, hyperdense_mask
from .network import RoiFusionNet
from .schedule import Level
from .ssim import FixedReferenceSsim
from .target import beside, brain_region
from .uncertainty import entropy_bits

__all__ = ["MASK_NAMES", "MODES", "SCHEDULES", "GuidedDraw", "RoiGuidance"]

MODES = ("off", "logits", "full")


SCHEDULES = ("constant", "rising")


#: User-supplied masks that may replace the network's own.
MASK_NAMES = ("brain_mask", "bone_mask", "lesion_mask")


_GATE, _RESIDUAL = 3, 4


#: Spongy bone; no blood is as dense.
_SURELY_BONE_HU = 300.0


#: Least share of either volume that guidance leaves, so that the logit stays finite.
_SURE = 0.002


#: How steeply a region's weight follows its logit: almost a mask, and yet a tiny change of a logit is a tiny change of F.
_STEEP = 4.0


#: Largest move of the noisy state in its own noise, at η = 1 through the network.
_NOISE_SHARE = 0.5


#: Share of its last move that a voxel keeps (Polyak 1964).
_MOMENTUM = 0.5


#: Steps that move by all of η and γ; more steps share that way among them, and end where these do.
_FULL_STEPS = 4


@dataclass(frozen=True)
class RoiGuidance:
    """Settings of the guidance.

    Attributes:
        mode: ``off``; ``logits`` moves gate and residual of a step; ``full`` the noisy state, by the gradient through the
            denoiser.
        alpha, beta: weights of the brain and the bone term.
        gamma: share of the strength that the lesion logit moves in a step, at most; 0 leaves the lesion alone.
        strength: η. On the logits η·σ(κ·u) is the share of the way to the optimum of its windows that a voxel goes in an
            update; through the network it is proportional to a step of the noisy state. Both hold for up to 4 sampling steps;
            of n > 4 each goes 4/n of it, or else more steps would mean more guidance.
        schedule: ``constant``, or ``rising``: η times the signal of the level, less at the noisy start.
        kappa: κ of the weight σ(κ·u), u the entropy of gate or lesion in bits: where the network is sure, it moves less.
        num_updates: gradient updates in a diffusion step.
    """

    mode: str = "logits"
    alpha: float = 2.0
    beta: float = 0.5
    gamma: float = 0.06
    strength: float = 1.0
    schedule: str = "constant"
    kappa: float = 2.0
    num_updates: int = 2

    def __post_init__(self) -> None:
        for name, expected in (("mode", MODES), ("schedule", SCHEDULES)):
            if getattr(self, name) not in expected:
                raise InputError(f"guidance {name}: expected one of {', '.join(expected)}, got {getattr(self, name)!r}")
        for name in ("alpha", "beta", "gamma", "strength", "kappa"):
            if not float(getattr(self, name)) >= 0:
                raise InputError(f"guidance {name}: expected a number of 0 or more, got {getattr(self, name)}")
        if int(self.num_updates) != self.num_updates or self.num_updates < 1:
            raise InputError(f"guidance num_updates: expected a whole number of 1 or more, got {self.num_updates}")

    def eta(self, level: Level) -> float:
        """The strength at a noise level."""
        return self.strength * (level.signal if self.schedule == "rising" else 1.0)


@dataclass
class GuidedDraw:
    """Guidance of one draw of one case; :meth:`correct` follows every prediction of the sampler.

    Args:
        settings: of the guidance.
        network: gives composition, temperature and threshold.
        image: normalised MRI and CT, ``[1, 2, X, Y, Z]``.
        mri_scale, ct_scale: mean and deviation that take normalised units to the scaled units of the MRI and of the CT.
        spacing_mm: of the voxels.
        masks: 0/1 ``[1, 1, X, Y, Z]`` by the names of :data:`MASK_NAMES`; they replace the network's own.
        regional: whether to move the fused image, or the lesion alone.
        half_time: t below which the lesion is guided by the head's own prediction at that moment.
        num_inference_steps: of the draw.
        chunk: slices worked on at a time.
    """

    settings: RoiGuidance
    network: RoiFusionNet
    image: torch.Tensor
    mri_scale: tuple[float, float] = TYPICAL_SCALES["mri"]
    ct_scale: tuple[float, float] = TYPICAL_SCALES["ct"]
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 5.0)
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    regional: bool = True
    half_time: float = 500.0
    num_inference_steps: int = 1
    chunk: int = 8
    #: One (before, after) per step, of the regional energy.
    energies: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, mask in self.masks.items():
            if name not in MASK_NAMES:
                raise InputError(f"guidance_masks: expected names of {', '.join(MASK_NAMES)}, got {name!r}")
            if mask.shape[2:] != self.image.shape[2:]:
                expected, got = tuple(self.image.shape[2:]), tuple(mask.shape[2:])
                raise InputError(f"{name}: expected the grid {expected} of the image, got {got}")
        self._terms: list[_SliceEnergy] = []
        self._from_ct = self._pace = self._moved = self._last_move = torch.zeros(0)
        self._low = self._high = torch.zeros(0)
        self._least_curvature = 1.0
        self._lesion_target: torch.Tensor | None = None
        if "lesion_mask" in self.masks:
            self._lesion_target = self.masks["lesion_mask"].float()
        self._lesion_moved: torch.Tensor | None = None

    def correct(
        self, raw: torch.Tensor, x_t: torch.Tensor, level: Level, decode: Callable[[torch.Tensor, Level], torch.Tensor]
    ) -> torch.Tensor:
        """The logits of this step, guided.

        Args:
            raw: what the network predicted from `x_t`, ``[1, 5, X, Y, Z]``.
            x_t: the noisy state, ``[1, 2, X, Y, Z]``.
            level: of this step.
            decode: ``(x_t, level) → raw``, for the mode ``full``.
        """
        if self.settings.mode == "off" or self.settings.strength == 0:
            return raw
        raw = raw.float()
        if self.regional and not self._terms:
            self._terms = self._make_terms(raw)
        eta = self.settings.eta(level) * min(1.0, _FULL_STEPS / self.num_inference_steps)
        if self.regional and self.settings.mode == "full":
            raw = self._through_the_network(raw, x_t, level, eta, decode)
        elif self.regional:
            raw = self._on_the_logits(raw, eta)
        return self._guide_lesion(raw, level, eta)

    def _make_terms(self, raw: torch.Tensor) -> list[_SliceEnergy]:
        inside = (self.image != 0).any(dim=1, keepdim=True).float()
        brain, bone = (self._region(name, raw[:, k : k + 1], inside) for k, name in ((1, "brain_mask"), (2, "bone_mask")))
        hu = self._ct_hu()
        if "bone_mask" not in self.masks:  # the head's border may be a voxel off, and a lost rim of bone is a lost edge
            bone = torch.maximum(bone, beside(bone) * (hu > _SURELY_BONE_HU))
        gate = raw[:, _GATE : _GATE + 1]
        # Blood and calcium: where the CT's own numbers say so, and where the network took the CT by three quarters or more.
        dense = torch.maximum(brain * torch.sigmoid(-_STEEP * (gate + 1)), self._hyperdense(hu, brain))
        from_ct = self._from_ct = torch.maximum(bone, dense)
        if self.settings.mode == "logits":
            self._pace = torch.sigmoid(self.settings.kappa * entropy_bits(torch.sigmoid(gate))) * inside * (1 - from_ct)
            self._moved, self._last_move = torch.zeros_like(gate), torch.zeros_like(gate)
            self._low, self._high = self._limits()
        # Windows on the voxels beside see the edge from its other side.
        weights = torch.cat([brain_region(brain * (1 - bone), from_ct), beside(from_ct) * inside], dim=1)
        amounts = weights.sum((0, 2, 3, 4)).clamp(min=1)
        each = torch.tensor([self.settings.alpha, self.settings.beta], device=weights.device) / amounts
        weights = weights * each.view(1, 2, 1, 1, 1)
        # Where hardly a window has a say, its curvature must not make a step of nothing.
        self._least_curvature = 0.01 * float(each[each > 0].min()) if bool((each > 0).any()) else 1.0
        mean, std = self.mri_scale
        sources = torch.cat(fusion_sources(self.image), dim=1) * std + mean
        depth = self.image.shape[-1]
        return [
            _SliceEnergy(sources[..., k : k + self.chunk], weights[..., k : k + self.chunk], self.mri_scale)
            for k in range(0, depth, self.chunk)
        ]

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

    def _ct_hu(self) -> torch.Tensor:
        """The CT, ``[1, 1, X, Y, Z]``; 0 outside the head."""
        mean, std = self.ct_scale
        ct = self.image[:, 1:2]
        return expand_hu(ct * std + mean) * (ct != 0)

    def _hyperdense(self, hu: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """0/1 by the one definition that the evaluation has too, inside the brain that guides, its holes filled: the head may
        take calcium for bone. A gate alone is not enough: what is so small and rare in training hardly shows in the loss."""
        found = hyperdense_mask(hu[0, 0].cpu().numpy(), fill_slices(brain[0, 0].cpu().numpy() > 0.5), self.spacing_mm)
        return torch.as_tensor(found, device=brain.device)[None, None].float()

    def _region(self, name: str, logit: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """The user's mask, else the network's own region, 0…1."""
        if name in self.masks:
            return (self.masks[name] > 0).float()
        return torch.sigmoid(_STEEP * logit) * inside

    def _energy(self, fused: torch.Tensor) -> float:
        """Regional energy of a fused volume ``[1, 1, X, Y, Z]``."""
        return float(sum(term(part) for term, part in zip(self._terms, fused.split(self.chunk, dim=-1))))

    def _slope(self, fused: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
        """Energy, its gradient by the fused volume and its curvature there."""
        parts = [term.slope(part) for term, part in zip(self._terms, fused.split(self.chunk, dim=-1))]
        values, gradients, curvatures = zip(*parts)
        return float(sum(values)), torch.cat(gradients, dim=-1), torch.cat(curvatures, dim=-1)

    def _on_the_logits(self, raw: torch.Tensor, eta: float) -> torch.Tensor:
        """Descend from where the last step ended, and return the best state seen as gate and residual logits.

        Bone becomes C' itself, which no window inside of it can better; what surrounds it gives way. A move is the gradient
        over its curvature (see :meth:`~roi_fusion.core.ssim.FixedReferenceSsim.slope`) times η·σ(κ·u), with momentum.
        """
        fused = self.network.compose(self.image, raw)[:, :1]
        _, ct = fusion_sources(self.image)
        start = torch.lerp(fused, ct, self._from_ct)

        best, before = fused, self._energy(fused)
        lowest = before
        for _ in range(self.settings.num_updates):
            trial = torch.minimum(torch.maximum(start + self._moved, self._low), self._high)
            value, gradient, curvature = self._slope(trial)
            if value < lowest:
                lowest, best = value, trial
            newton = gradient / (curvature + self._least_curvature)
            self._last_move = _MOMENTUM * self._last_move - eta * self._pace * newton
            self._moved = trial - start + self._last_move
        trial = torch.minimum(torch.maximum(start + self._moved, self._low), self._high)
        if (value := self._energy(trial)) < lowest:
            lowest, best = value, trial
        self.energies.append((before, lowest))
        return self._as_logits(raw, fused, best)

    def _as_logits(self, raw: torch.Tensor, fused: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """`raw` with the gate and residual that compose `expected`: by the gate as far as it can, by the residual beyond."""
        mri, ct = fusion_sources(self.image)
        bound = self.network.residual_bound
        gate, residual = torch.sigmoid(raw[:, _GATE : _GATE + 1]), bound * torch.tanh(raw[:, _RESIDUAL : _RESIDUAL + 1])
        contrast = mri - ct
        share = torch.where(contrast.abs() > 0.05, (expected - residual - ct) / contrast, gate).clamp(_SURE, 1 - _SURE)
        left = (expected - share * mri - (1 - share) * ct).clamp(-0.9999 * bound, 0.9999 * bound)
        guided = torch.cat([torch.logit(share), torch.atanh(left / bound)], dim=1)
        moved = (expected - fused).abs() > 1e-6
        return torch.cat([raw[:, :_GATE], torch.where(moved, guided, raw[:, _GATE : _RESIDUAL + 1])], dim=1)

    def _through_the_network(
        self,
        raw: torch.Tensor,
        x_t: torch.Tensor,
        level: Level,
        eta: float,
        decode: Callable[[torch.Tensor, Level], torch.Tensor],
    ) -> torch.Tensor:
        """Move the noisy state by the gradient through the denoiser and predict again; keep what lowers the energy."""
        best = self._energy(self.network.compose(self.image, raw)[:, :1])
        before, state = best, x_t.detach().clone()
        for _ in range(self.settings.num_updates):
            with torch.enable_grad():
                leaf = state.requires_grad_(True)
                fused = self.network.compose(self.image, decode(leaf, level).float())[:, :1]
                _, over_image, _ = self._slope(fused.detach())
                (gradient,) = torch.autograd.grad(fused, leaf, over_image)
            trial = state.detach() - _NOISE_SHARE * eta * level.noise * _soft_sign(gradient)
            candidate = decode(trial, level).float()
            value = self._energy(self.network.compose(self.image, candidate)[:, :1])
            state = state.detach()
            if value < best:
                best, state, raw = value, trial, candidate
            else:
                eta *= 0.5
        self.energies.append((before, best))
        return raw

    def _guide_lesion(self, raw: torch.Tensor, level: Level, eta: float) -> torch.Tensor:
        """Move the lesion logit towards the user's mask, or towards the head's own prediction at half time."""
        if self.settings.gamma == 0:
            return raw
        if self._lesion_target is None and level.t <= self.half_time:
            probability = self.network.lesion_probability(raw[:, :1], raw[:, 1:2])
            self._lesion_target = (probability > self.network.threshold).float()
        target = self._lesion_target
        if target is None or not bool(target.any()):
            return raw
        box = _box_around(target[0, 0], 16)
        logit = raw[:, :1] if self._lesion_moved is None else raw[:, :1] + self._lesion_moved
        with torch.enable_grad():
            part, expected = logit[box].detach().requires_grad_(True), target[box]
            probability = torch.sigmoid(part)
            energy = DiceLoss()(probability, expected) + _boundary_energy(probability, expected)
            (gradient,) = torch.autograd.grad(energy, part)
        weight = torch.sigmoid(self.settings.kappa * entropy_bits(torch.sigmoid(logit[box])))
        shift = torch.zeros_like(logit) if self._lesion_moved is None else self._lesion_moved.clone()
        shift[box] -= eta * self.settings.gamma * weight * _soft_sign(gradient)
        self._lesion_moved = shift
        return torch.cat([raw[:, :1] + shift, raw[:, 1:]], dim=1)


class _SliceEnergy:
    """The regional energy of some slices, with all that does not depend on the fused image made once."""

    def __init__(self, sources: torch.Tensor, weights: torch.Tensor, mri_scale: tuple[float, float]) -> None:
        self.weights, (self.mean, self.std) = weights, mri_scale
        self.total = weights.sum()
        self.ssim = FixedReferenceSsim(sources) if bool(weights.any()) else None

    def __call__(self, fused: torch.Tensor) -> torch.Tensor:
        if self.ssim is None:
            return self.total
        return self.total - (self.ssim(fused * self.std + self.mean) * self.weights).sum()

    def slope(self, fused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Energy, gradient and curvature in normalised units."""
        if self.ssim is None:
            return self.total, torch.zeros_like(fused), torch.zeros_like(fused)
        similarity, gradient, curvature = self.ssim.slope(fused * self.std + self.mean, self.weights)
        return self.total - similarity, -self.std * gradient, self.std**2 * curvature


def _boundary_energy(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Boundary loss (Kervadec et al. 2019): the probability weighted by its signed distance to the target's border.

    Its gradient has the right sign everywhere, which a loss on soft rims has not.
    """
    inside = target[0, 0].cpu().numpy() > 0
    sampling = (1.0, 1.0, 3.0)
    distance = distance_transform_edt(~inside, sampling) - distance_transform_edt(inside, sampling)
    weight = torch.as_tensor(distance, dtype=probability.dtype, device=probability.device)
    return (probability[0, 0] * weight).sum() / weight.abs().sum()


def _soft_sign(gradient: torch.Tensor) -> torch.Tensor:
    """Gradient → direction in -1…1 per channel: what is well below the root mean square moves in proportion."""
    scale = gradient.square().mean(dim=(0, 2, 3, 4), keepdim=True).sqrt()
    return gradient / (gradient.abs() + scale + 1e-30)


def _box_around(mask: torch.Tensor, margin: int) -> tuple[Any, ...]:
    """Slices of ``[1, 1, X, Y, Z]`` that hold a mask ``[X, Y, Z]`` with a margin in plane and one slice beyond."""
    box: list[Any] = [slice(None), slice(None)]
    for axis, reach in enumerate((margin, margin, 1)):
        hit = mask.amax(dim=[a for a in range(3) if a != axis]).nonzero()
        box.append(slice(max(int(hit.min()) - reach, 0), int(hit.max()) + reach + 1))
    return tuple(box)
