# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Guidance of the lesion logit towards the user's mask, or towards the network's own prediction at half time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from monai.losses import DiceLoss
from scipy.ndimage import distance_transform_edt

from .channels import split_raw
from .network import RoiFusionNet
from .regional_guidance import soft_sign
from .schedule import Level
from .uncertainty import entropy_bits

__all__ = ["LesionGuide"]


@dataclass
class LesionGuide:
    """Moves the lesion logit of each step by the gradient of Dice and boundary loss.

    Attributes:
        network: gives temperature and threshold of the lesion.
        gamma: share of the strength that the logit moves in a step, at most; 0 leaves it alone.
        kappa: κ of the weight σ(κ·u), u the entropy of the lesion in bits.
        half_time: timestep from which on, without a user's mask, the network's own prediction is the target.
        target: 0/1 ``[1, 1, X, Y, Z]``; None until half time.
        moved: how far the logit has been moved, ``[1, 1, X, Y, Z]``; None until it is.
    """

    network: RoiFusionNet
    gamma: float
    kappa: float
    half_time: float
    target: torch.Tensor | None = None
    moved: torch.Tensor | None = None

    def step(self, raw: torch.Tensor, level: Level, eta: float) -> torch.Tensor:
        """The logits ``[1, 5, X, Y, Z]`` of this step with the lesion guided.

        Args:
            raw: logits of this step.
            level: noise level of this step.
            eta: strength η of this step.
        """
        if self.gamma == 0:
            return raw
        logits = split_raw(raw)
        if self.target is None and level.t <= self.half_time:
            probability = self.network.lesion_probability(logits.lesion, logits.brain)
            self.target = (probability > self.network.threshold).float()
        if self.target is None or not bool(self.target.any()):
            return raw
        box = _box_around(self.target[0, 0], 16)
        lesion = logits.lesion if self.moved is None else logits.lesion + self.moved
        with torch.enable_grad():
            part, expected = lesion[box].detach().requires_grad_(True), self.target[box]
            probability = torch.sigmoid(part)
            energy = DiceLoss()(probability, expected) + _boundary_energy(probability, expected)
            (gradient,) = torch.autograd.grad(energy, part)
        weight = torch.sigmoid(self.kappa * entropy_bits(torch.sigmoid(lesion[box])))
        shift = torch.zeros_like(lesion) if self.moved is None else self.moved.clone()
        shift[box] -= eta * self.gamma * weight * soft_sign(gradient)
        self.moved = shift
        return torch.cat(logits._replace(lesion=logits.lesion + shift), dim=1)


def _boundary_energy(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Boundary loss (Kervadec et al. 2019): the probability weighted by its signed distance to the target's border.

    Its gradient has the right sign everywhere, which a loss on soft rims has not.
    """
    inside = target[0, 0].cpu().numpy() > 0
    sampling = (1.0, 1.0, 3.0)
    distance = distance_transform_edt(~inside, sampling) - distance_transform_edt(inside, sampling)
    weight = torch.as_tensor(distance, dtype=probability.dtype, device=probability.device)
    return (probability[0, 0] * weight).sum() / weight.abs().sum()


def _box_around(mask: torch.Tensor, margin: int) -> tuple[Any, ...]:
    """Slices of ``[1, 1, X, Y, Z]`` that hold a mask ``[X, Y, Z]`` with a margin in plane and one slice beyond."""
    box: list[Any] = [slice(None), slice(None)]
    for axis, reach in enumerate((margin, margin, 1)):
        hit = mask.amax(dim=[a for a in range(3) if a != axis]).nonzero()
        box.append(slice(max(int(hit.min()) - reach, 0), int(hit.max()) + reach + 1))
    return tuple(box)
