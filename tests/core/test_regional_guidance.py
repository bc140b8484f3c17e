# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest
import torch

from helpers import LATE, NO_BLOOD, flat_logits, textured_head
from roi_fusion.core.channels import split_output, split_raw
from roi_fusion.core.intensity import fusion_sources
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.regional_energy import RegionalEnergy, find_regions
from roi_fusion.core.regional_guidance import LogitDescent, NetworkDescent, Step, soft_sign
from roi_fusion.core.schedule import Level


def never(x_t: torch.Tensor, level: Level) -> torch.Tensor:
    raise AssertionError("no pass through the network is expected")


def test_a_descent_on_the_logits_carries_its_moves_and_stays_within_the_bound(net: RoiFusionNet) -> None:
    image, brain, bone = textured_head()
    raw = flat_logits(brain, bone)
    regions = find_regions(raw, image, NO_BLOOD, (1.0, 1.0, 3.0), {})
    energy = RegionalEnergy(image, regions, (0.4, 0.2), 2.0, 0.5)
    descent = LogitDescent(net, image, energy, regions, split_raw(raw).gate, kappa=2.0, num_updates=2)
    ends = [descent.step(Step(raw, torch.zeros_like(image), LATE, 1.0, never)) for _ in range(3)]
    assert ends[0].before == ends[1].before  # the network says the same at each step
    assert ends[0].after > ends[1].after > ends[2].after
    assert descent.state.moved.abs().max() > 0
    guided = split_raw(ends[-1].raw)
    fused = split_output(net.compose(image, ends[-1].raw)).fused
    assert energy(fused) == pytest.approx(
        ends[-1].after, abs=2e-3
    )  # the logits compose what was found, but for shares kept from 0 and 1
    mri, ct = fusion_sources(image)
    share = torch.sigmoid(guided.gate)
    assert (fused - share * mri - (1 - share) * ct)[image[:, :1] != 0].abs().max() <= net.residual_bound + 1e-6
    assert torch.equal(guided.lesion, split_raw(raw).lesion)


def test_a_descent_through_the_network_never_raises_the_energy(net: RoiFusionNet) -> None:
    image, brain, bone = textured_head()
    regions = find_regions(flat_logits(brain, bone), image, NO_BLOOD, (1.0, 1.0, 3.0), {})
    energy = RegionalEnergy(image, regions, (0.4, 0.2), 2.0, 0.5)
    features = net.encode(image, net.describe(image))

    def decode(x_t: torch.Tensor, level: Level) -> torch.Tensor:
        return net.decode(features, x_t, torch.tensor([level.t]))

    x_t = torch.randn_like(image)
    with torch.no_grad():
        raw = decode(x_t, LATE)
        for eta in (0.1, 50.0):
            guided, before, after = NetworkDescent(net, image, energy, 3).step(Step(raw, x_t, LATE, eta, decode))
            assert after <= before == pytest.approx(energy(split_output(net.compose(image, raw)).fused))
            assert after == energy(split_output(net.compose(image, guided)).fused)


def test_the_soft_sign_is_bounded_odd_and_linear_near_zero() -> None:
    gradient = torch.randn(1, 1, 6, 6, 6)
    direction = soft_sign(gradient)
    assert direction.abs().max() < 1
    assert torch.equal(direction.sign(), gradient.sign())
    assert torch.allclose(soft_sign(-3 * gradient), -direction, atol=1e-6)  # whatever its scale
    gradient[0, 0, 0, 0, 0] = 1e-4
    scale = gradient.square().mean().sqrt()
    assert soft_sign(gradient)[0, 0, 0, 0, 0] == pytest.approx(1e-4 / float(scale), rel=1e-3)
    assert soft_sign(torch.zeros(1, 1, 2, 2, 2)).eq(0).all()
