# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest
import torch

from helpers import NO_BLOOD, flat_logits, textured_head
from roi_fusion.core.intensity import compand_hu, fusion_sources
from roi_fusion.core.regional_energy import GuidedRegions, RegionalEnergy, find_regions
from roi_fusion.core.ssim import ssim_map

SPACING_MM = (1.0, 1.0, 3.0)


MRI_SCALE = (0.4, 0.2)


def direct(fused: torch.Tensor, image: torch.Tensor, brain: torch.Tensor, bone: torch.Tensor) -> torch.Tensor:
    """0.7·(1 - SSIM | brain) + 1.3·(1 - SSIM | bone's border) as written, for a bone of voxels 28 to 35."""
    mean, std = MRI_SCALE
    clear, edge = brain.clone(), bone.clone()
    clear[:, :, 27], edge[:, :, (27, 36)] = 0, 1  # beside the bone
    total = torch.zeros(())
    for weight, source, roi in zip((0.7, 1.3), fusion_sources(image), (clear, edge)):
        total = total + weight * (1 - ssim_map(fused * std + mean, source * std + mean)[roi > 0].mean())
    return total


@pytest.fixture
def regions() -> tuple[torch.Tensor, GuidedRegions]:
    image, brain, bone = textured_head(depth=11)  # more slices than a chunk
    inside = (image != 0).any(1, keepdim=True).float()
    return image, GuidedRegions(brain, bone, bone, inside)


def test_it_is_the_weighted_regional_ssim(regions: tuple[torch.Tensor, GuidedRegions]) -> None:
    image, found = regions
    fused = torch.randn(1, 1, *image.shape[2:])
    energy = RegionalEnergy(image, found, MRI_SCALE, 0.7, 1.3)
    assert energy(fused) == pytest.approx(float(direct(fused, image, found.brain, found.bone)), abs=1e-4)
    assert RegionalEnergy(image, found, MRI_SCALE, 0.7, 1.3, chunk=3)(fused) == pytest.approx(energy(fused), abs=1e-4)


def test_its_gradient_is_that_of_the_formula(regions: tuple[torch.Tensor, GuidedRegions]) -> None:
    image, found = regions
    fused = torch.randn(1, 1, *image.shape[2:], requires_grad=True)
    (expected,) = torch.autograd.grad(direct(fused, image, found.brain, found.bone), fused)
    value, gradient, curvature = RegionalEnergy(image, found, MRI_SCALE, 0.7, 1.3).slope(fused.detach())
    assert value == pytest.approx(float(direct(fused, image, found.brain, found.bone)), abs=1e-4)
    assert torch.allclose(gradient, expected, atol=1e-3 * float(expected.abs().max()))
    assert (curvature >= 0).all()


def test_without_a_region_there_is_nothing_to_lower(regions: tuple[torch.Tensor, GuidedRegions]) -> None:
    image, found = regions
    nothing = torch.zeros_like(found.brain)
    energy = RegionalEnergy(image, GuidedRegions(nothing, nothing, nothing, found.inside), MRI_SCALE, 0.7, 1.3)
    value, gradient, _ = energy.slope(torch.randn_like(nothing))
    assert (value, float(gradient.abs().max())) == (0.0, 0.0)


def test_regions_come_from_the_network_or_from_the_user() -> None:
    image, brain, bone = textured_head()
    own = find_regions(flat_logits(brain, bone), image, NO_BLOOD, SPACING_MM, {})
    assert own.brain[brain > 0].min() > 0.99 > 0.01 > own.brain[(brain == 0) & (own.inside > 0)].max()
    assert own.bone[bone > 0].min() > 0.99
    given = find_regions(flat_logits(bone, brain), image, NO_BLOOD, SPACING_MM, {"brain_mask": brain, "bone_mask": bone})
    assert torch.equal(given.brain, brain)
    assert torch.equal(given.bone, bone)


def test_blood_is_taken_from_the_ct_whatever_the_gate_says() -> None:
    image, brain, bone = textured_head()
    scale = (0.49, 0.22)
    image[:, 1][brain[:, 0] > 0] = (compand_hu(torch.tensor(35.0)) - scale[0]) / scale[1]
    image[:, 1, 14:20, 14:22, 1:3] = (compand_hu(torch.tensor(75.0)) - scale[0]) / scale[1]
    from_ct = find_regions(flat_logits(brain, bone, gate=4.0), image, scale, SPACING_MM, {}).from_ct
    assert from_ct[0, 0, 15:19, 15:21, 1:3].min() == 1
    assert from_ct[0, 0, 10:13, 26:34].max() < 1e-6
