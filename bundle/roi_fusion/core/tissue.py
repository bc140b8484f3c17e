# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Healthy tissue as further classes of the training (Chalcroft et al. 2025, SynthStroke).

Whoever tells fluid, grey, white and old damage apart in any contrast finds what is none of them more easily. The head is part
of no exported network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import unfold_plane

__all__ = ["TISSUE_CLASSES", "TissueHead", "tissue_loss"]

#: Classes in the order of their numbers: all else, fluid, grey and white matter, old damage and what else is no stroke.
TISSUE_CLASSES = ("other", "csf", "grey", "white", "chronic")

#: Weights of the classes in the cross entropy: most of a head is none of them, and old damage is rare.
_WEIGHTS = (0.5, 1.0, 1.0, 1.0, 3.0)
_NOWHERE = 255


class TissueHead(nn.Module):
    """Reads the tissue from the finest features of the network's image part.

    Args:
        channels: width of these features, the first of the network's ``channels``.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.out = nn.Conv3d(channels, 4 * len(TISSUE_CLASSES), 1)

    def forward(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """``[B, C, Z, X/2, Y/2]`` → logits ``[B, 5, X, Y, Z]``, cut to `size` in plane."""
        logits = unfold_plane(self.out(F.silu(features))).permute(0, 1, 3, 4, 2)
        return logits[:, :, : size[0], : size[1]]


def tissue_loss(logits: torch.Tensor, tissue: torch.Tensor, label: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Weighted cross entropy over the head, without the lesion.

    Args:
        logits: ``[B, 5, X, Y, Z]``.
        tissue: class numbers, ``[B, 1, X, Y, Z]``.
        label, head: 0/1 masks of the lesion and of what the images show, same shape.

    Returns:
        Mean over the voxels, a scalar; 0 where nothing is left.
    """
    target = tissue[:, 0].long()
    target = torch.where((label[:, 0] > 0) | (head[:, 0] == 0), torch.full_like(target, _NOWHERE), target)
    weights = torch.tensor(_WEIGHTS, device=logits.device)
    total = F.cross_entropy(logits.float(), target, weights, ignore_index=_NOWHERE, reduction="sum")
    kept = torch.where(target == _NOWHERE, torch.zeros_like(target), target)
    mass = (weights[kept] * (target != _NOWHERE)).sum()
    return total / mass.clamp(min=1.0)
