# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The energy that guidance lowers: α·(1 - SSIM(F, M | brain)) + β·(1 - SSIM(F, C' | bone)), and the regions that it is over.

M and C' are the sources that the fused image F is blended from. Windows are ordinary, so they see what surrounds a region.
Everything is in plane, so slices are worked on in chunks, which bounds the memory of a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from .blood import closed_brain, hyperdense_mask
from .channels import split_raw
from .choices import HU_POINTS, SCALED_POINTS
from .intensity import expand_hu, fusion_sources
from .ssim import FixedReferenceSsim
from .target import beside, brain_region

__all__ = ["GuidedRegions", "RegionalEnergy", "find_regions"]

#: Spongy bone in HU; no blood is as dense.
_SURELY_BONE_HU = 300.0

#: How steeply a region's weight follows its logit: almost a mask, and yet a tiny change of a logit is a tiny change of F.
_STEEP = 4.0


class GuidedRegions(NamedTuple):
    """Where guidance acts, each ``[1, 1, X, Y, Z]`` from 0 to 1.

    Attributes:
        brain: intracranial space.
        bone: skull and facial bone.
        from_ct: what the fused image takes from the CT: bone, blood and calcium.
        inside: 1 inside the head.
    """

    brain: torch.Tensor
    bone: torch.Tensor
    from_ct: torch.Tensor
    inside: torch.Tensor


def find_regions(
    raw: torch.Tensor,
    image: torch.Tensor,
    ct_scale: tuple[float, float],
    spacing_mm: Sequence[float],
    masks: Mapping[str, torch.Tensor],
    curve: tuple[Sequence[float], Sequence[float]] = (HU_POINTS, SCALED_POINTS),
) -> GuidedRegions:
    """The regions of one case, from the user's masks where there are any, else from the network's prediction.

    Args:
        raw: logits of the first step, ``[1, 5, X, Y, Z]``.
        image: normalised MRI and CT, ``[1, 2, X, Y, Z]``.
        ct_scale: mean and standard deviation that map normalised CT to companded CT.
        spacing_mm: voxel size along the array axes, in mm.
        masks: 0/1 ``[1, 1, X, Y, Z]`` by the names ``brain_mask`` and ``bone_mask``.
        curve: CT numbers and what they were companded to, see :func:`~roi_fusion.core.intensity.compand_hu`.
    """
    logits = split_raw(raw)
    inside = (image != 0).any(dim=1, keepdim=True).float()

    def region(name: str, logit: torch.Tensor) -> torch.Tensor:
        return (masks[name] > 0).float() if name in masks else torch.sigmoid(_STEEP * logit) * inside

    brain, bone = region("brain_mask", logits.brain), region("bone_mask", logits.bone)
    mean, std = ct_scale
    ct = image[:, 1:2]
    hu = expand_hu(ct * std + mean, *curve) * (ct != 0)
    if "bone_mask" not in masks:  # the head's border may be a voxel off, and a lost rim of bone is a lost edge
        bone = torch.maximum(bone, beside(bone) * (hu > _SURELY_BONE_HU))
    # Blood and calcium: where the network took the CT by three quarters or more, and where the CT numbers say so. The gate
    # alone would miss what is small and rare and hardly shows in the loss. Holes and bays of the brain are closed, because the
    # brain head leaves blood out and the bone head may take calcium for bone.
    whole = closed_brain(brain[0, 0].cpu().numpy() > 0.5, bone[0, 0].cpu().numpy() > 0.5, spacing_mm)
    found = hyperdense_mask(hu[0, 0].cpu().numpy(), whole, spacing_mm)
    hyperdense = torch.as_tensor(found, device=brain.device)[None, None].float()
    dense = torch.maximum(brain * torch.sigmoid(-_STEEP * (logits.gate + 1)), hyperdense)
    return GuidedRegions(brain, bone, torch.maximum(bone, dense), inside)


class RegionalEnergy:
    """The regional energy of fused images of one case; what does not depend on the fused image is computed once.

    Args:
        image: normalised MRI and CT, ``[1, 2, X, Y, Z]``.
        regions: from :func:`find_regions`.
        mri_scale: mean and standard deviation that map normalised MRI to scaled MRI (data range 1).
        alpha, beta: weights of the brain and the bone term.
        chunk: slices worked on at a time.

    Attributes:
        least_curvature: added to the curvature, so that a step stays finite where hardly a window has a weight.
    """

    def __init__(
        self,
        image: torch.Tensor,
        regions: GuidedRegions,
        mri_scale: tuple[float, float],
        alpha: float,
        beta: float,
        chunk: int = 8,
    ) -> None:
        # Windows on the voxels beside see the edge from its other side.
        bone = beside(regions.from_ct) * regions.inside
        weights = torch.cat([brain_region(regions.brain * (1 - regions.bone), regions.from_ct), bone], dim=1)
        amounts = weights.sum((0, 2, 3, 4)).clamp(min=1)
        each = torch.tensor([alpha, beta], device=weights.device) / amounts
        weights = weights * each.view(1, 2, 1, 1, 1)
        self.least_curvature = 0.01 * float(each[each > 0].min()) if bool((each > 0).any()) else 1.0
        mean, std = mri_scale
        sources = torch.cat(fusion_sources(image), dim=1) * std + mean
        self.chunk = chunk
        self._terms = [_SliceEnergy(*parts, mri_scale) for parts in zip(sources.split(chunk, -1), weights.split(chunk, -1))]

    def __call__(self, fused: torch.Tensor) -> float:
        """Energy of a fused image ``[1, 1, X, Y, Z]`` in normalised units."""
        return float(sum(term(part) for term, part in zip(self._terms, fused.split(self.chunk, dim=-1))))

    def slope(self, fused: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
        """Energy of a fused image ``[1, 1, X, Y, Z]``, its gradient with respect to it, and the curvature at each voxel."""
        parts = [term.slope(part) for term, part in zip(self._terms, fused.split(self.chunk, dim=-1))]
        values, gradients, curvatures = zip(*parts)
        return float(sum(values)), torch.cat(gradients, dim=-1), torch.cat(curvatures, dim=-1)


class _SliceEnergy:
    """The regional energy of some slices."""

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
