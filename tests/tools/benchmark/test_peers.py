# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest
import torch
from monai.utils import OptionalImportError

from roi_fusion.core.intensity import fusion_sources
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.errors import InputError
from roi_fusion_tools.benchmark import peers
from roi_fusion_tools.benchmark.peers import (
    SEGMENTERS,
    DiffusionPeer,
    MriLesionNet,
    UngatedLoss,
    UngatedNet,
    _skip_overflow,
    laplacian_pyramid_fusion,
    make_segmenter,
    segment,
)


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_pyramid_of_two_equal_images_is_the_image() -> None:
    torch.manual_seed(0)
    mri = torch.randn(1, 1, 37, 50, 3)  # odd sizes
    image = torch.cat([mri, mri.clamp(max=-0.3)], dim=1)
    image[:, 1] = image[:, 0] = image[:, 0].clamp(max=-0.31)  # where the CT enters unchanged
    assert torch.allclose(laplacian_pyramid_fusion(image), image[:, :1], atol=1e-5)


def test_the_pyramid_keeps_the_stronger_detail_and_the_background() -> None:
    image = torch.full((1, 2, 64, 64, 2), -1.0)
    image[:, 0, 30:32] = -0.4  # a line that only the MRI has
    image[..., :4, :] = 0
    fused = laplacian_pyramid_fusion(image)
    assert not fused[..., :4, :].any()
    contrast = fused[0, 0, 30, 40, 0] - fused[0, 0, 20, 40, 0]
    average = sum(fusion_sources(image))[0, 0, 30, 40, 0] / 2 - sum(fusion_sources(image))[0, 0, 20, 40, 0] / 2
    assert contrast > 1.5 * average


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmenters_take_any_size(name: str) -> None:
    network = make_segmenter(name).eval()
    probability = segment(network, torch.randn(1, 2, 40, 36, 3), patch_size=(32, 32, 8))
    assert probability.shape == (1, 1, 40, 36, 3)
    assert 0 <= float(probability.min()) <= float(probability.max()) <= 1
    with pytest.raises(InputError, match="peer: expected one of segresnet, dynunet"):
        make_segmenter("unet")


def test_the_plain_diffusion_is_of_our_size_and_finds_a_noise_it_was_told() -> None:
    peer = DiffusionPeer()
    assert parameters(peer) == pytest.approx(parameters(RoiFusionNet()), rel=0.35)
    clean, seen = torch.randn(1, 1, 16, 12, 5), []

    def oracle(image: torch.Tensor, state: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(int(t))
        alpha = peer.scheduler.alphas_cumprod[int(t)]
        return (state - alpha.sqrt() * clean) / (1 - alpha).sqrt()

    peer.forward = oracle  # type: ignore[method-assign]
    fused = peer.fuse(torch.ones(1, 2, 16, 12, 5), num_inference_steps=50)
    assert len(seen) == 50
    assert torch.allclose(fused, clean, atol=0.05)


def test_without_einops_the_plain_diffusion_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise OptionalImportError("from einops.layers.torch import Rearrange (No module named 'einops').")

    monkeypatch.setattr(peers, "DiffusionModelUNet", missing)
    with pytest.raises(InputError, match=r"expected einops.*benchmark"):
        DiffusionPeer()


def test_without_a_gate_the_image_is_what_the_last_layer_says() -> None:
    torch.manual_seed(0)
    network, image, raw = UngatedNet().eval(), torch.randn(1, 2, 16, 16, 3), torch.randn(1, 5, 16, 16, 3)
    image[:, :, :4] = 0
    out = network.compose(image, raw)
    assert torch.equal(out[:, 0, 4:], raw[:, 4, 4:])
    assert not out[:, 0, :4].any()
    assert torch.equal(out[:, 1:4], raw[:, :3])
    volumes = {k: torch.zeros(1, 1, 16, 16, 3) for k in ("brain", "bone", "dense", "label")}
    constants = {k: torch.full((1,), v) for k, v in (("mri_mean", 0.4), ("mri_std", 0.2), ("ct_mean", 0.4), ("ct_std", 0.2))}
    target = {"image": image, **volumes, **constants, "label_known": torch.ones(1)}
    far, near = (torch.cat([torch.full_like(out[:, :1], v), out[:, 1:]], dim=1) for v in (50.0, 0.0))
    loss = UngatedLoss()
    masks = []
    for pred in (far, near):
        loss(pred, target)
        masks.append(float(loss.components["masks"]))
    assert masks[0] == masks[1]  # nothing holds the image to the blend


def test_the_lesion_of_the_mri_alone_does_not_see_the_ct() -> None:
    torch.manual_seed(0)
    network = MriLesionNet((8, 12, 16, 16)).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    first = torch.randn(1, 2, 32, 16, 3)
    other = torch.cat([first[:, :1], torch.randn(1, 1, 32, 16, 3)], dim=1)
    description, noise, t = network.describe(first), torch.randn(1, 2, 32, 16, 3), torch.tensor([500.0])
    with torch.inference_mode():
        a, b = (network.decode(network.encode(image, description), noise, t) for image in (first, other))
    assert torch.allclose(a[:, 0], b[:, 0], atol=1e-5)
    assert not torch.allclose(a[:, 1], b[:, 1], atol=1e-2)


def test_a_step_without_a_finite_gradient_is_left_out() -> None:
    layer = torch.nn.Linear(2, 1)
    before = layer.weight.detach().clone()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(_skip_overflow)
    for scale, moves in ((float("nan"), False), (float("inf"), False), (1.0, True)):
        optimizer.zero_grad()
        (layer(torch.ones(1, 2)) * scale).sum().backward()
        optimizer.step()
        assert torch.equal(layer.weight, before) is not moves
        assert torch.isfinite(layer.weight).all()
