# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The training target: which share of the fused image comes from the CT, the fused image F* and the lesion map S."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .intensity import fusion_sources

__all__ = ["beside", "brain_region", "ct_weight", "fusion_target", "lesion_state"]


def beside(mask: torch.Tensor) -> torch.Tensor:
    """Grow a mask by its four in-plane neighbours.

    Args:
        mask: 0/1 or soft, ``[B, 1, X, Y, Z]``.

    Returns:
        Float tensor of the same shape.

    Example:
        >>> mask = torch.zeros(1, 1, 3, 3, 1); mask[0, 0, 1, 1] = 1
        >>> beside(mask)[0, 0, :, :, 0]
        tensor([[0., 1., 0.],
                [1., 1., 1.],
                [0., 1., 0.]])
    """
    mask = mask.float()
    along_x = F.max_pool3d(mask, (3, 1, 1), stride=1, padding=(1, 0, 0))
    along_y = F.max_pool3d(mask, (1, 3, 1), stride=1, padding=(0, 1, 0))
    return torch.maximum(along_x, along_y)


def ct_weight(ct_roi: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    """Share K of the CT in the target: 1 on bone, blood and calcium, 0.5 on in-plane neighbours outside the brain, else 0.

    Without this step a seam would show towards scalp and sinuses; a step inside the brain would cost MRI detail at its border.

    Args:
        ct_roi: 0/1 mask of bone, blood and calcium, ``[B, 1, X, Y, Z]``.
        brain: 0/1 mask of the brain, same shape.

    Returns:
        K, float, same shape.

    Example:
        >>> bone, brain = torch.zeros(1, 1, 4, 1, 1), torch.zeros(1, 1, 4, 1, 1)
        >>> bone[0, 0, 1], brain[0, 0, 2:] = 1, 1
        >>> ct_weight(bone, brain).flatten().tolist()
        [0.5, 1.0, 0.0, 0.0]
    """
    return torch.maximum(ct_roi.float(), 0.5 * beside(ct_roi) * (brain == 0))


def brain_region(brain: torch.Tensor, ct_roi: torch.Tensor) -> torch.Tensor:
    """Brain region of loss and metrics: the intracranial space without what the target takes from the CT and its neighbours.

    The voxels beside bone, blood and calcium belong to the seam, which ``seam_ratio`` and the context SSIMs measure.

    Args:
        brain: 0/1 or soft mask of the brain, ``[B, 1, X, Y, Z]``.
        ct_roi: 0/1 or soft mask of bone, blood and calcium, same shape.

    Returns:
        Float mask of the same shape.

    Example:
        >>> bone, brain = torch.zeros(1, 1, 4, 1, 1), torch.ones(1, 1, 4, 1, 1)
        >>> bone[0, 0, 0] = 1
        >>> brain_region(brain, bone).flatten().tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    return brain.float() * (1 - beside(ct_roi))


def fusion_target(image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Target F* = K·C' + (1 - K)·M inside the head, 0 outside: CT in bone, blood and calcium, MRI elsewhere.

    M and C' are the sources from :func:`~roi_fusion.core.intensity.fusion_sources`.

    Args:
        image: normalised MRI and CT ``[B, 2, X, Y, Z]``, 0 outside the head.
        weight: share K of the CT, ``[B, 1, X, Y, Z]``, from :func:`ct_weight`.

    Returns:
        F* in normalised units, ``[B, 1, X, Y, Z]``.

    Example:
        >>> image = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1)
        >>> fusion_target(image, torch.zeros(1, 1, 1, 1, 1)).item()  # the MRI
        1.0
    """
    mri, ct = fusion_sources(image)
    return weight * ct + (1 - weight) * mri


def lesion_state(lesion: torch.Tensor) -> torch.Tensor:
    """Lesion map S = 2·lesion - 1 that is diffused.

    Args:
        lesion: 0/1 mask of any shape.

    Example:
        >>> lesion_state(torch.tensor([0, 1])).tolist()
        [-1.0, 1.0]
    """
    return 2.0 * lesion.float() - 1.0
