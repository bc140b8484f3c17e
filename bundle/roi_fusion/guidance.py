# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""ROI guidance of the sampler: at each step the gradient of an energy moves the predicted logits, never the pixels.

The energy is α·(1 - SSIM(F, M | brain)) + β·(1 - SSIM(F, C' | bone)) with ordinary windows, M and C' being what F is blended
from, and a lesion term on the head's logit. Moving the gate and the residual logits keeps F inside the blend and its bound, and
the provenance exact. All of it is in plane, so slices are worked on in chunks and memory does not grow with the volume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from monai.losses import DiceLoss
from scipy.ndimage import distance_transform_edt

from .diffusion import Level, brain_region
from .errors import InputError
from .intensity import fusion_sources
from .network import RoiFusionNet
from .ssim import FixedReferenceSsim

__all__ = ["MASK_NAMES", "MODES", "SCHEDULES", "GuidedDraw", "RoiGuidance"]

MODES = ("off", "logits", "full")
SCHEDULES = ("constant", "rising")
#: User-supplied masks that may replace the network's own.
MASK_NAMES = ("brain_mask", "bone_mask", "lesion_mask")
#: Mean and deviation of a scaled MRI over the head, on phantoms of all contrasts; where the case's own are not given.
TYPICAL_MRI_SCALE = (0.45, 0.22)
_GATE, _RESIDUAL = 3, 4


@dataclass(frozen=True)
class RoiGuidance:
    """Settings of the guidance.

    Attributes:
        mode: ``off``; ``logits`` moves the logits of a step; ``full`` the noisy state, by the gradient through the denoiser.
        alpha, beta: weights of the brain and the bone term.
        gamma: share of the strength at which the lesion logit moves; 0 leaves the lesion alone.
        strength: η, the longest move of a logit in one update.
        schedule: ``constant``, or ``rising``: η times the signal of the level, less at the noisy start.
        kappa: κ of the weight σ(κ·u), u the entropy of gate or lesion in bits: where the network is sure, it moves less.
        num_updates: gradient updates in a diffusion step.
    """

    mode: str = "logits"
    alpha: float = 2.0
    beta: float = 1.0
    gamma: float = 0.1
    strength: float = 2.0
    schedule: str = "constant"
    kappa: float = 2.0
    num_updates: int = 2

    def __post_init__(self) -> None:
        for name, wanted in (("mode", MODES), ("schedule", SCHEDULES)):
            if getattr(self, name) not in wanted:
                raise InputError(f"guidance {name}: wanted one of {', '.join(wanted)}, came {getattr(self, name)!r}")
        for name in ("alpha", "beta", "gamma", "strength", "kappa"):
            if not float(getattr(self, name)) >= 0:
                raise InputError(f"guidance {name}: wanted a number of 0 or more, came {getattr(self, name)}")
        if int(self.num_updates) != self.num_updates or self.num_updates < 1:
            raise InputError(f"guidance num_updates: wanted a whole number of 1 or more, came {self.num_updates}")

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
        mri_scale: mean and deviation that take normalised units to the MRI's scaled units.
        masks: 0/1 ``[1, 1, X, Y, Z]`` by the names of :data:`MASK_NAMES`; they replace the network's own.
        regional: whether to move the fused image, or the lesion alone.
        half_time: t below which the lesion is guided by the head's own prediction at that moment.
        chunk: slices worked on at a time.
    """

    settings: RoiGuidance
    network: RoiFusionNet
    image: torch.Tensor
    mri_scale: tuple[float, float] = TYPICAL_MRI_SCALE
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    regional: bool = True
    half_time: float = 500.0
    chunk: int = 8
    #: One (before, after) per step, of the regional energy.
    energies: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, mask in self.masks.items():
            if name not in MASK_NAMES:
                raise InputError(f"guidance_masks: wanted names of {', '.join(MASK_NAMES)}, came {name!r}")
            if mask.shape[2:] != self.image.shape[2:]:
                wanted, came = tuple(self.image.shape[2:]), tuple(mask.shape[2:])
                raise InputError(f"{name}: wanted the grid {wanted} of the image, came {came}")
        self._moved: torch.Tensor | None = None  # what guidance has added to the gate and residual logits so far
        self._terms: list[_SliceEnergy] = []
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
        if not self._terms:
            self._terms = self._make_terms(raw)
        eta = self.settings.eta(level)
        if self.regional and self.settings.mode == "full":
            raw = self._through_the_network(raw, x_t, level, eta, decode)
        elif self.regional:
            raw = self._on_the_logits(raw, eta)
        return self._guide_lesion(raw, level, eta)

    def _make_terms(self, raw: torch.Tensor) -> list[_SliceEnergy]:
        inside = (self.image != 0).any(dim=1, keepdim=True)
        own_brain = (raw[:, 1:2] > 0) & inside
        brain = self.masks["brain_mask"] > 0 if "brain_mask" in self.masks else own_brain
        bone = self.masks["bone_mask"] > 0 if "bone_mask" in self.masks else (raw[:, 2:3] > 0) & inside
        dense = brain & (raw[:, _GATE : _GATE + 1] < 0)  # blood and calcium: the network took the CT inside the brain
        from_ct = bone | dense
        weights = torch.cat([brain_region(brain & ~bone, from_ct), from_ct.float()], dim=1)
        amounts = weights.sum((0, 2, 3, 4)).clamp(min=1)
        weights = weights * (torch.tensor([self.settings.alpha, self.settings.beta], device=weights.device) / amounts).view(
            1, 2, 1, 1, 1
        )
        mean, std = self.mri_scale
        sources = torch.cat(fusion_sources(self.image), dim=1) * std + mean
        depth = self.image.shape[-1]
        return [
            _SliceEnergy(self.network, self.image[..., k : k + self.chunk], sources[..., k : k + self.chunk],
                         weights[..., k : k + self.chunk], self.mri_scale)
            for k in range(0, depth, self.chunk)
        ]  # fmt: skip

    def _energy(self, raw: torch.Tensor, with_gradient: bool) -> tuple[float, torch.Tensor | None]:
        """Regional energy and its gradient over the gate and residual logits, ``[1, 2, X, Y, Z]``."""
        values, gradients = [], []
        for term, part in zip(self._terms, raw.split(self.chunk, dim=-1)):
            value, gradient = term(part, with_gradient)
            values.append(value)
            gradients.append(gradient)
        total = float(torch.stack(values).sum())
        return total, torch.cat(gradients, dim=-1) if with_gradient else None  # type: ignore[arg-type]

    def _on_the_logits(self, raw: torch.Tensor, eta: float) -> torch.Tensor:
        """Descend from where the last step ended; an update that raises the energy is taken back and halved."""
        own = raw[:, _GATE : _RESIDUAL + 1]
        moved = self._moved if self._moved is not None else torch.zeros_like(own)

        def guided(shift: torch.Tensor) -> torch.Tensor:
            return torch.cat([raw[:, :_GATE], own + shift], dim=1)

        weight = torch.sigmoid(self.settings.kappa * _entropy(own[:, :1]))
        best, gradient = self._energy(guided(moved), True)
        before = best
        for update in range(self.settings.num_updates):
            assert gradient is not None
            trial = moved - eta * weight * _soft_sign(gradient)
            value, following = self._energy(guided(trial), update + 1 < self.settings.num_updates)
            if value < best:
                best, moved, gradient = value, trial, following
            else:
                eta *= 0.5
        self._moved = moved
        self.energies.append((before, best))
        return guided(moved)

    def _through_the_network(
        self, raw: torch.Tensor, x_t: torch.Tensor, level: Level, eta: float,
        decode: Callable[[torch.Tensor, Level], torch.Tensor],
    ) -> torch.Tensor:  # fmt: skip
        """Move the noisy state by the gradient through the denoiser and predict again; keep what lowers the energy."""
        best, _ = self._energy(raw, False)
        before, state = best, x_t.detach().clone()
        for _ in range(self.settings.num_updates):
            with torch.enable_grad():
                leaf = state.requires_grad_(True)
                predicted = decode(leaf, level).float()
                _, over_logits = self._energy(predicted.detach(), True)
                (gradient,) = torch.autograd.grad(predicted[:, _GATE : _RESIDUAL + 1], leaf, over_logits)
            trial = state.detach() - eta * level.noise * _soft_sign(gradient)
            candidate = decode(trial, level).float()
            value, _ = self._energy(candidate, False)
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
            probability = torch.sigmoid(raw[:, :1] / self.network.temperature) * torch.sigmoid(raw[:, 1:2])
            self._lesion_target = (probability > self.network.threshold).float()
        target = self._lesion_target
        if target is None or not bool(target.any()):
            return raw
        box = _box_around(target[0, 0], 16)
        logit = raw[:, :1] if self._lesion_moved is None else raw[:, :1] + self._lesion_moved
        with torch.enable_grad():
            part, wanted = logit[box].detach().requires_grad_(True), target[box]
            probability = torch.sigmoid(part)
            energy = DiceLoss()(probability, wanted) + _boundary_energy(probability, wanted)
            (gradient,) = torch.autograd.grad(energy, part)
        weight = torch.sigmoid(self.settings.kappa * _entropy(logit[box]))
        shift = torch.zeros_like(logit) if self._lesion_moved is None else self._lesion_moved.clone()
        shift[box] -= eta * self.settings.gamma * weight * _soft_sign(gradient)
        self._lesion_moved = shift
        return torch.cat([raw[:, :1] + shift, raw[:, 1:]], dim=1)


class _SliceEnergy:
    """The regional energy of some slices, with all that does not depend on the logits made once."""

    def __init__(
        self, network: RoiFusionNet, image: torch.Tensor, sources: torch.Tensor, weights: torch.Tensor,
        mri_scale: tuple[float, float],
    ) -> None:  # fmt: skip
        self.network, self.image, self.weights, self.mri_scale = network, image, weights, mri_scale
        self.used = bool(weights.any())
        self.total = weights.sum()
        self.ssim = FixedReferenceSsim(sources) if self.used else None

    def __call__(self, raw: torch.Tensor, with_gradient: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        logits = raw[:, _GATE : _RESIDUAL + 1].detach()
        if self.ssim is None:
            return self.total, torch.zeros_like(logits) if with_gradient else None
        mean, std = self.mri_scale
        with torch.set_grad_enabled(with_gradient):
            leaf = logits.requires_grad_(with_gradient)
            fused = self.network.compose(self.image, torch.cat([raw[:, :_GATE].detach(), leaf], dim=1))[:, :1]
            energy = self.total - (self.ssim(fused * std + mean) * self.weights).sum()
            gradient = torch.autograd.grad(energy, leaf)[0] if with_gradient else None
        return energy.detach(), gradient


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
    """Gradient → direction in -1…1 per channel: what is well below the channel's root mean square moves in proportion."""
    scale = gradient.square().mean(dim=(0, 2, 3, 4), keepdim=True).sqrt()
    return gradient / (gradient.abs() + scale + 1e-30)


def _entropy(logit: torch.Tensor) -> torch.Tensor:
    """Entropy of a yes/no variable given by its logit, in bits."""
    p = torch.sigmoid(logit).clamp(1e-6, 1 - 1e-6)
    return -(p * p.log2() + (1 - p) * (1 - p).log2())


def _box_around(mask: torch.Tensor, margin: int) -> tuple[Any, ...]:
    """Slices of ``[1, 1, X, Y, Z]`` that hold a mask ``[X, Y, Z]`` with a margin in plane and one slice beyond."""
    box: list[Any] = [slice(None), slice(None)]
    for axis, reach in enumerate((margin, margin, 1)):
        hit = mask.amax(dim=[a for a in range(3) if a != axis]).nonzero()
        box.append(slice(max(int(hit.min()) - reach, 0), int(hit.max()) + reach + 1))
    return tuple(box)
