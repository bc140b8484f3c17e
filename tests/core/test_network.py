# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest
import torch

from roi_fusion.core.channels import OUTPUT_CHANNELS, RAW_CHANNELS
from roi_fusion.core.intensity import fusion_sources
from roi_fusion.core.network import RoiFusionNet


@pytest.fixture(scope="module")
def net() -> RoiFusionNet:
    torch.manual_seed(0)
    net = RoiFusionNet(channels=(8, 12, 16, 16), denoiser_channels=(4, 6, 8), detail_channels=4).eval()
    for parameter in net.parameters():  # zero-initialised layers would hide faults
        parameter.data += 0.05 * torch.randn_like(parameter)
    return net


def head_pair(*shape: int) -> torch.Tensor:
    image = torch.randn(*shape)
    image[:, :, :3] = 0
    return image


@pytest.mark.parametrize("size", [(32, 48, 5), (37, 50, 3), (16, 16, 1), (21, 90, 2)])
def test_any_shape_goes_in_and_comes_out(net: RoiFusionNet, size: tuple[int, int, int]) -> None:
    image = head_pair(2, 2, *size)
    out = net(image)
    assert out.shape == (2, len(OUTPUT_CHANNELS), *size)
    assert torch.isfinite(out).all()
    assert torch.equal(out, net(image))
    raw = net.decode(net.encode(image, net.describe(image)), torch.zeros_like(image), torch.full((2,), 999.0))
    assert raw.shape == (2, len(RAW_CHANNELS), *size)


def test_the_fused_image_is_a_gated_blend_plus_a_bounded_residual(net: RoiFusionNet) -> None:
    image = head_pair(1, 2, 32, 32, 4)
    out = net(image)
    fused, gate = out[:, :1], out[:, 4:]
    assert gate.min() >= 0
    assert gate.max() <= 1
    mri, ct = fusion_sources(image)
    blend = gate * mri + (1 - gate) * ct
    assert (fused - blend).abs().max() <= net.residual_bound + 1e-6
    assert (fused[:, :, :3] == 0).all()  # outside the head
    large = net.compose(image, torch.full((1, 5, 32, 32, 4), 50.0))
    assert torch.allclose(large[:, :1, 3:], image[:, :1, 3:] + net.residual_bound, atol=1e-5)


def test_it_scripts(net: RoiFusionNet) -> None:
    image = head_pair(1, 2, 37, 50, 3)
    assert torch.allclose(torch.jit.script(net)(image), net(image), atol=1e-5)


def test_a_voxel_depends_on_its_surroundings_only(net: RoiFusionNet) -> None:
    """Normalisation never runs over space, so with the description of the whole volume a patch repeats the whole."""
    image = torch.randn(1, 2, 32, 320, 3)
    state, t, whole = torch.randn_like(image), torch.tensor([500.0]), net.describe(image)
    full = net.decode(net.encode(image, whole), state, t)
    part = net.decode(net.encode(image[:, :, :, :240], whole), state[:, :, :, :240], t)
    assert torch.allclose(full[:, :, :, :16], part[:, :, :, :16], atol=1e-4)


def test_time_and_state_matter(net: RoiFusionNet) -> None:
    image, state = head_pair(1, 2, 32, 32, 3), torch.randn(1, 2, 32, 32, 3)
    early, late = (net.denoise(state, image, torch.tensor([t])) for t in (10.0, 900.0))
    assert not torch.allclose(early, late)
    assert not torch.allclose(late, net.denoise(-state, image, torch.tensor([900.0])))


def test_gradients_reach_every_parameter(net: RoiFusionNet) -> None:
    net.zero_grad()
    net.denoise(torch.randn(1, 2, 32, 32, 4), head_pair(1, 2, 32, 32, 4), torch.tensor([400.0])).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    net.zero_grad()


def test_the_shipped_size_fits_the_zoo() -> None:
    net = RoiFusionNet()
    assert 4 * sum(v.numel() for v in net.state_dict().values()) < 25e6
    assert float(net.threshold) == 0.5
    assert float(net.temperature) == 1.0


def test_bad_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="channels: expected four or more positive widths"):
        RoiFusionNet(channels=(8, 16))
    with pytest.raises(ValueError, match="denoiser_channels: expected three"):
        RoiFusionNet(denoiser_channels=(8, 16))
