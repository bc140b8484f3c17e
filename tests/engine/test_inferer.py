# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.schedulers import DDIMScheduler

from roi_fusion.core.intensity import fusion_sources
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.schedule import make_scheduler
from roi_fusion.core.uncertainty import entropy_bits
from roi_fusion.engine.inferer import SamplingInferer
from roi_fusion.engine.training import DenoisingModel, make_ema
from roi_fusion.errors import InputError
from roi_fusion.values import PREDICTION_CHANNELS


@pytest.fixture
def image() -> torch.Tensor:
    torch.manual_seed(1)
    image = torch.randn(1, 2, 32, 40, 4)
    image[:, :, :4] = 0
    return image


def test_channels_are_what_they_say(net: RoiFusionNet, image: torch.Tensor) -> None:
    out = SamplingInferer(make_scheduler(), num_inference_steps=3, num_samples=4)(image, net)
    assert out.shape == (1, len(PREDICTION_CHANNELS), 32, 40, 4)
    channel = dict(zip(PREDICTION_CHANNELS, out[0]))
    mri, ct = (v[0, 0] for v in fusion_sources(image))
    blend = channel["provenance"] * mri + (1 - channel["provenance"]) * ct
    assert torch.allclose(channel["fused"][4:], (blend + channel["residual"])[4:], atol=1e-5)
    assert (channel["fused"][:4] == 0).all()
    assert (channel["residual"][:4] == 0).all()
    assert channel["residual"].abs().max() <= net.residual_bound
    assert 0 <= channel["lesion_prob"].min() <= channel["lesion_prob"].max() <= 1
    assert torch.allclose(channel["uncertainty"], entropy_bits(channel["lesion_prob"]))
    assert channel["lesion_std"].max() > 0


@pytest.mark.parametrize("name", ["ddim", "rflow"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_case_is_deterministic_and_independent_of_those_before(
    net: RoiFusionNet, image: torch.Tensor, name: str, steps: int
) -> None:
    inferer = SamplingInferer(make_scheduler(name), num_inference_steps=steps, num_samples=2, seed=5)
    first = inferer(image, net)
    inferer(torch.randn(1, 2, 16, 16, 3), net)
    torch.manual_seed(99)
    assert torch.equal(inferer(image, net), first)
    other = SamplingInferer(make_scheduler(name), num_inference_steps=steps, num_samples=2, seed=6)(image, net)
    assert not torch.equal(other, first)
    both = inferer(torch.cat([image, image]), net)
    assert torch.allclose(both[1], first[0], atol=1e-5)


def test_the_written_volume_is_the_first_draw(net: RoiFusionNet, image: torch.Tensor) -> None:
    one, four = (SamplingInferer(make_scheduler(), num_inference_steps=2, num_samples=n)(image, net) for n in (1, 4))
    fused = PREDICTION_CHANNELS.index("fused")
    assert torch.equal(one[:, fused], four[:, fused])
    assert one[:, PREDICTION_CHANNELS.index("lesion_std")].abs().max() == 0


def test_every_other_draw_sees_the_head_mirrored_left_to_right(net: RoiFusionNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sagittal slices that is along the last axis, not from front to back."""
    seen: list[torch.Tensor] = []
    original = RoiFusionNet.encode
    monkeypatch.setattr(RoiFusionNet, "encode", lambda self, x, d: seen.append(x.clone()) or original(self, x, d))
    volume = torch.randn(1, 2, 16, 16, 6)
    sagittal = torch.zeros(4, 4)
    sagittal[1, 0] = sagittal[2, 1] = sagittal[0, 2] = sagittal[3, 3] = 1
    for affine, axis in ((torch.eye(4), 2), (sagittal, 4)):
        seen.clear()
        SamplingInferer(make_scheduler(), 1, 2)(MetaTensor(volume, affine=affine), net)
        assert torch.equal(seen[0], volume)
        assert torch.equal(seen[1], volume.flip(axis))


def test_it_finds_the_network_inside_its_wrappers_and_keeps_meta_data(net: RoiFusionNet, image: torch.Tensor) -> None:
    inferer = SamplingInferer(make_scheduler(), num_inference_steps=2, num_samples=1)
    plain = inferer(image, net)
    assert torch.equal(inferer(image, DenoisingModel(net)), plain)
    ema = make_ema(net)
    ema.update_parameters(net)
    assert torch.equal(inferer(image, ema), plain)
    volume = MetaTensor(image, meta={"filename_or_obj": "a.nii.gz"})
    out = inferer(volume, net)
    assert isinstance(out, MetaTensor)
    assert out.meta["filename_or_obj"] == "a.nii.gz"
    assert not out.is_inference()
    with pytest.raises(InputError, match="expected a RoiFusionNet, got Linear"):
        inferer(image, torch.nn.Linear(1, 1))


def test_tiles_give_what_the_whole_gives(net: RoiFusionNet) -> None:
    torch.manual_seed(2)
    image = torch.randn(1, 2, 90, 200, 4)
    whole, tiled = (
        SamplingInferer(make_scheduler(), num_inference_steps=3, num_samples=1, roi_size=roi)(image, net)
        for roi in (None, (96, 160, 4))
    )
    assert torch.allclose(whole, tiled, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"num_inference_steps": 0}, {"num_inference_steps": 1001}, {"num_samples": 0}, {"num_samples": 1.5}],
)
def test_bad_settings_are_refused(settings: dict) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        SamplingInferer(make_scheduler(), **settings)


def test_a_clipping_scheduler_is_refused() -> None:
    with pytest.raises(InputError, match="clip_sample=False"):
        SamplingInferer(DDIMScheduler(1000))


def test_entropy_is_in_bits() -> None:
    assert entropy_bits(torch.tensor([0.0, 0.5, 1.0, 0.25])).tolist() == pytest.approx([0, 1, 0, 0.8113], abs=1e-4)
