# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The training loss: diffusion plus weighted regional SSIM, lesion and mask terms, each available for the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from torch import nn

from ..errors import InputError
from .channels import split_output
from .choices import PRESETS
from .intensity import fusion_sources, undo_brighten_bone
from .ssim import ssim_map
from .target import brain_region, ct_weight, fusion_target, lesion_state

__all__ = ["COMPONENTS", "RoiFusionLoss", "boundary_loss", "regional_ssim_loss"]

#: Components that are logged; ``total`` is their weighted sum.
COMPONENTS = ("diffusion", "brain", "bone", "lesion", "masks")


def regional_ssim_loss(
    a: torch.Tensor, b: torch.Tensor, roi: torch.Tensor, data_range: float = 1.0, context: bool = False
) -> torch.Tensor:
    """1 - mean SSIM over a region.

    Args:
        a, b: images to compare, ``[B, 1, X, Y, Z]``.
        roi: 0/1 mask of the region, same shape.
        data_range: span of the intensities of the reference.
        context: use ordinary windows, which include the surroundings, instead of windows over voxels of the region only.

    Returns:
        Loss of each case, ``[B]``; 0 where the region is empty.

    Example:
        >>> a = torch.rand(1, 1, 16, 16, 2)
        >>> abs(regional_ssim_loss(a, a, torch.ones_like(a)).item()) < 1e-5
        True
    """
    roi = roi.to(a.dtype)
    count = roi.sum(dim=(1, 2, 3, 4))
    similarity = (ssim_map(a, b, None if context else roi, data_range=data_range) * roi).sum(dim=(1, 2, 3, 4))
    return torch.where(count > 0, 1 - similarity / count.clamp(min=1), torch.zeros_like(count))


def brain_ssim_loss(fused: torch.Tensor, mri: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    """Mean of :func:`regional_ssim_loss` with both kinds of windows, ``[B]``.

    Windows over the region alone do not include the voxels between brain and bone. Those would be left to the bone term, which
    then spreads over the border of the brain.

    Args:
        fused, mri: images in scaled units (data range 1), ``[B, 1, X, Y, Z]``.
        brain: 0/1 mask of the brain region, same shape.
    """
    return 0.5 * (regional_ssim_loss(fused, mri, brain) + regional_ssim_loss(fused, mri, brain, context=True))


def boundary_loss(probability: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """1 - boundary F1 with soft boundaries and a tolerance of one voxel in plane (Bokhovkin & Burnaev 2019).

    Args:
        probability: predicted probability 0…1, ``[B, 1, X, Y, Z]``.
        label: 0/1 reference, same shape.

    Returns:
        Loss of each case, ``[B]``.

    Example:
        >>> label = torch.zeros(1, 1, 8, 8, 1)
        >>> label[:, :, 2:6, 2:6] = 1
        >>> boundary_loss(label, label).item()
        0.0
    """

    def grow(x: torch.Tensor, reach: int) -> torch.Tensor:
        size = (2 * reach + 1, 2 * reach + 1, 1)
        return F.max_pool3d(x, size, stride=1, padding=(reach, reach, 0))

    def rim(x: torch.Tensor) -> torch.Tensor:
        return grow(1 - x, 1) - (1 - x)

    predicted, true = rim(probability), rim(label)
    axes = (1, 2, 3, 4)
    precision = ((predicted * grow(true, 1)).sum(axes) + 1) / (predicted.sum(axes) + 1)
    recall = ((true * grow(predicted, 1)).sum(axes) + 1) / (true.sum(axes) + 1)
    return 1 - 2 * precision * recall / (precision + recall)


@dataclass(frozen=True)
class _Weights:
    alpha: float
    beta: float
    gamma: float


def preset_weights(preset: str, alpha: float | None, beta: float | None, gamma: float | None) -> _Weights:
    """Weights of a preset, each replaced by the user's where one is given.

    Args:
        preset: key of :data:`~roi_fusion.core.choices.PRESETS`.
        alpha, beta, gamma: weights of brain, bone and lesion; None takes the preset's.

    Raises:
        InputError: for an unknown preset or a negative weight.

    Example:
        >>> preset_weights("stroke", None, 2.0, None)
        _Weights(alpha=1.0, beta=2.0, gamma=3.0)
    """
    if preset not in PRESETS:
        raise InputError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    chosen = [given if given is not None else own for given, own in zip((alpha, beta, gamma), PRESETS[preset])]
    for name, weight in zip(("alpha", "beta", "gamma"), chosen):
        if not float(weight) >= 0:
            raise InputError(f"{name}: expected a weight of 0 or more, got {weight}")
    return _Weights(*map(float, chosen))


class RoiFusionLoss(nn.Module):
    """Loss ``diffusion + λ·[α·(1 - SSIM(F, M | brain)) + β·(1 - SSIM(F, C | bone)) + γ·lesion + masks]``.

    *diffusion* is the squared error of x₀ = [F, S] over the head; *lesion* is Dice, cross entropy and a boundary term of the
    lesion head, over cases whose lesion is known; *masks* is Dice and cross entropy of the brain and bone heads, cross
    entropy of the gate against the target's own share of the MRI, and the mean square of the residual.

    Args:
        preset: key of :data:`~roi_fusion.core.choices.PRESETS`.
        alpha, beta, gamma: weights of brain, bone and lesion that replace the preset's.
        roi_weight: λ.
        mask_weight: weight of *masks* inside the bracket.

    Attributes:
        components: unweighted components of the last call, see :data:`COMPONENTS`, and ``total``.
        weighted: what each component added to the total of the last call.

    Raises:
        InputError: for an unknown preset or a negative weight.
    """

    def __init__(
        self,
        preset: str = "default",
        alpha: float | None = None,
        beta: float | None = None,
        gamma: float | None = None,
        roi_weight: float = 1.0,
        mask_weight: float = 0.5,
    ) -> None:
        super().__init__()
        weights = preset_weights(preset, alpha, beta, gamma)
        self.weights = {
            "diffusion": 1.0,
            "brain": roi_weight * weights.alpha,
            "bone": roi_weight * weights.beta,
            "lesion": roi_weight * weights.gamma,
            "masks": roi_weight * mask_weight,
        }
        self.dice_ce = DiceCELoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
        # Dice of each crop: in a Dice over the batch a small lesion beside a large one counts next to nothing.
        self.lesion_dice_ce = DiceCELoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)
        self.components: dict[str, torch.Tensor] = {}
        self.weighted: dict[str, torch.Tensor] = {}

    def forward(self, pred: torch.Tensor, target: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Total loss, a scalar.

        Args:
            pred: output of the network, ``[B, 5, X, Y, Z]``, channels of :data:`~roi_fusion.core.channels.OUTPUT_CHANNELS`.
            target: ``image``, and ``brain``, ``bone``, ``dense``, ``label`` as 0/1 ``[B, 1, X, Y, Z]``; ``label_known``,
                ``mri_mean``, ``mri_std``, ``ct_mean``, ``ct_std`` as ``[B]``.
        """
        pred, image = pred.float(), target["image"].float()
        fused, lesion_logit, brain_logit, bone_logit, gate = split_output(pred)
        head = (image != 0).any(dim=1, keepdim=True).float()
        bone = target["bone"].float()
        ct_roi = torch.maximum(bone, target["dense"].float())
        weight = ct_weight(ct_roi, target["brain"])
        brain = brain_region(target["brain"], ct_roi)
        intracranial = target["brain"].float() * (1 - bone)  # bone wins
        label, known = target["label"].float(), target["label_known"].float()

        def scaled(x: torch.Tensor, name: str) -> torch.Tensor:
            mean, std = (target[f"{name}_{s}"].to(x).view(-1, 1, 1, 1, 1) for s in ("mean", "std"))
            return x * std + mean

        over_head = head.sum().clamp(min=1)
        square = (fused - fusion_target(image, weight)) ** 2
        state = (2 * torch.sigmoid(lesion_logit) - 1 - lesion_state(label)) ** 2 * known.view(-1, 1, 1, 1, 1)
        self.components = {
            "diffusion": ((square + 0.25 * state) * head).sum() / over_head,
            "brain": brain_ssim_loss(scaled(fused, "mri"), scaled(image[:, :1], "mri"), brain).mean(),
            "bone": regional_ssim_loss(scaled(undo_brighten_bone(fused), "ct"), scaled(image[:, 1:], "ct"), bone).mean(),
            "lesion": self._lesion(lesion_logit, label, known),
            "masks": self.dice_ce(brain_logit, intracranial)
            + self.dice_ce(bone_logit, bone)
            + self._provenance(fused, gate, image, weight, head),
        }
        self.weighted = {k: self.weights[k] * v for k, v in self.components.items()}
        total = torch.stack(list(self.weighted.values())).sum()
        self.components["total"] = total
        return total

    def _lesion(self, logit: torch.Tensor, label: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        chosen = known > 0
        if not bool(chosen.any()):
            return logit.sum() * 0.0
        logit, label = logit[chosen], label[chosen]
        return self.lesion_dice_ce(logit, label) + 0.5 * boundary_loss(torch.sigmoid(logit), label).mean()

    @staticmethod
    def _provenance(
        fused: torch.Tensor, gate: torch.Tensor, image: torch.Tensor, weight: torch.Tensor, head: torch.Tensor
    ) -> torch.Tensor:
        """Cross entropy of the gate against the share of the MRI in the target, plus the mean square of the residual."""
        gate = gate.clamp(1e-4, 1 - 1e-4)
        mri, ct = fusion_sources(image)
        residual = fused - (gate * mri + (1 - gate) * ct)
        error = F.binary_cross_entropy(gate, 1 - weight, reduction="none") + residual**2
        return (error * head).sum() / head.sum().clamp(min=1)
