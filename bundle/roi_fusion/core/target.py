# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The diffused state, its target, and exact stepping over the schedules of MONAI's schedulers.

Every schedule here is a pair (a_t, s_t) with x_t = a_t·x₀ + s_t·ε. The sampler steps between its own consecutive timesteps with
these pairs. One-step coefficients on a strided list of timesteps leave x near noise whatever the network predicts, and
MONAI's own ``DDIMScheduler.step`` goes to ``t - 1000 // n`` while its timesteps are spaced by ``linspace(999, 0, n)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .intensity import fusion_sources

__all__ = ["beside", "brain_region", "ct_weight", "fusion_target", "lesion_state"]


def beside(mask: torch.Tensor) -> torch.Tensor:
    """The mask and its in-plane neighbours (four of each voxel), float; ``[B, 1, X, Y, Z]``."""
    mask = mask.float()
    along_x = F.max_pool3d(mask, (3, 1, 1), stride=1, padding=(1, 0, 0))
    along_y = F.max_pool3d(mask, (1, 3, 1), stride=1, padding=(0, 1, 0))
    return torch.maximum(along_x, along_y)


def ct_weight(ct_roi: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    """K, the share of the CT in the target: 1 on bone, blood and calcium, 0.5 on their in-plane neighbours outside of
    the brain, else 0.

    Without a step the seam towards scalp and sinuses shows; a step inside the brain would cost MRI detail at its border.

    Args:
        ct_roi, brain: 0/1, ``[B, 1, X, Y, Z]``.
    """
    return torch.maximum(ct_roi.float(), 0.5 * beside(ct_roi) * (brain == 0))


def brain_region(brain: torch.Tensor, ct_roi: torch.Tensor) -> torch.Tensor:
    """The brain region of loss and metrics, float: intracranial, clear of what the target takes from the CT and of the voxels
    beside it. Those belong to the seam, which ``seam_ratio`` and the context SSIMs judge.

    Args:
        brain, ct_roi: 0/1, ``[B, 1, X, Y, Z]``.
    """
    return brain.float() * (1 - beside(ct_roi))


def fusion_target(image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """F* = K·C' + (1 - K)·M inside the head, 0 outside: CT in bone, blood and calcium, MRI elsewhere.

    C' is the CT as :func:`~roi_fusion.core.intensity.fusion_sources` gives it.

    Args:
        image: normalised MRI and CT ``[B, 2, X, Y, Z]``, 0 outside the head.
        weight: K from :func:`ct_weight`.
    """
    mri, ct = fusion_sources(image)
    return weight * ct + (1 - weight) * mri


def lesion_state(lesion: torch.Tensor) -> torch.Tensor:
    """S = 2·lesion - 1."""
    return 2.0 * lesion.float() - 1.0
