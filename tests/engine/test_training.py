# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from monai.data import MetaTensor

from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.precision import has_bfloat16
from roi_fusion.core.schedule import make_scheduler
from roi_fusion.core.target import ct_weight, fusion_target, lesion_state
from roi_fusion.engine.training import DenoisingModel, TrainingInferer, make_ema, plan_learning_rate, prepare_batch
from roi_fusion.errors import InputError


def batch(count: int = 6) -> dict:
    torch.manual_seed(0)
    volumes = {
        k: MetaTensor((torch.rand(count, 1, 16, 16, 2) > 0.7).to(torch.uint8)) for k in ("brain", "bone", "dense", "label")
    }
    constants = {
        k: torch.full((count,), 0.5, dtype=torch.float64) for k in ("mri_mean", "mri_std", "ct_mean", "ct_std", "mri_low")
    }
    return {
        "image": MetaTensor(torch.randn(count, 2, 16, 16, 2)),
        **volumes,
        "label_known": torch.ones(count),
        "contrast_facts": torch.rand(count, 18),
        "intensity": constants,
    }


def test_a_batch_becomes_plain_tensors() -> None:
    image, target, args, kwargs = prepare_batch(batch(), torch.device("cpu"))
    assert type(image) is torch.Tensor
    assert all(type(v) is torch.Tensor for v in target.values())
    assert target["mri_mean"].dtype == torch.float32
    assert args == ()
    assert kwargs["target"] is target


class Recorder(torch.nn.Module):
    def forward(self, x_t: torch.Tensor, image: torch.Tensor, t: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        self.seen, self.facts = (x_t, image, t), facts
        return torch.zeros(len(image), 5, *image.shape[2:])


@pytest.mark.parametrize("name", ["ddim", "rflow"])
def test_the_state_is_noised_to_the_level_that_is_told(name: str) -> None:
    scheduler, recorder = make_scheduler(name), Recorder()
    image, target, _, kwargs = prepare_batch(batch(400))
    torch.manual_seed(1)
    TrainingInferer(scheduler)(image, recorder, **kwargs)
    x_t, _, t = recorder.seen
    weight = ct_weight(torch.maximum(target["bone"], target["dense"]), target["brain"])
    clean = torch.cat([fusion_target(image, weight), lesion_state(target["label"])], dim=1)
    zero = (x_t == 0).flatten(1).all(1)
    last = t == 999
    assert 0.68 < last.float().mean() < 0.83
    assert 0.3 < (zero & last).sum() / last.sum() < 0.5
    assert not (zero & ~last).any()
    assert recorder.facts is target["contrast_facts"]
    some = (~last).nonzero()[:, 0]
    for i in some[:20]:
        from roi_fusion.core.schedule import signal_and_noise

        signal, deviation = signal_and_noise(scheduler, float(t[i]))
        epsilon = (x_t[i] - signal * clean[i]) / max(deviation, 1e-3)
        assert float(epsilon.std()) == pytest.approx(1.0, abs=0.12) or deviation < 0.05


def test_precision_is_bfloat16_only_where_asked() -> None:
    net = RoiFusionNet(channels=(8, 8, 8, 8), denoiser_channels=(4, 4, 4))
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    x, image, t = torch.randn(1, 2, 16, 16, 2), torch.randn(1, 2, 16, 16, 2), torch.tensor([500.0])
    full, auto, half = (DenoisingModel(net, p)(x, image, t) for p in ("fp32", "auto", "bf16"))
    assert torch.equal(auto, half if has_bfloat16() else full)  # on the CPU
    assert not torch.equal(full, half)
    assert half.dtype == torch.float32
    assert torch.allclose(full, half, atol=0.2)
    with pytest.raises(InputError, match="precision: expected one of auto, bf16, fp32, got 'fp16'"):
        DenoisingModel(net, "fp16")


def test_the_average_copies_first_and_lags_after() -> None:
    net = torch.nn.Linear(2, 1, bias=False)
    ema = make_ema(net, decay=0.9)
    net.weight.data.fill_(3.0)  # loaded after the average was made
    ema.update_parameters(net)
    assert ema.module.weight.data.eq(3.0).all()
    net.weight.data.fill_(4.0)
    ema.update_parameters(net)
    keep = (1 + 1) / (10 + 1)
    assert ema.module.weight.data.sub(3.0 * keep + 4.0 * (1 - keep)).abs().max() < 1e-6
    for _ in range(200):
        ema.update_parameters(net)
    before = ema.module.weight.data.clone()
    net.weight.data.fill_(5.0)
    ema.update_parameters(net)
    assert ema.module.weight.data.sub(before * 0.9 + 5.0 * 0.1).abs().max() < 1e-5
    assert set(ema.module.state_dict()) == {"weight"}
    with pytest.raises(InputError, match="ema_decay"):
        make_ema(net, 1.0)


def test_the_learning_rate_follows_its_plan() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    plan = plan_learning_rate(optimizer, total_steps=1000, warmup_steps=100, final_learning_rate=5e-5)
    rates = []
    for _ in range(1001):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    assert rates[0] == pytest.approx(1e-6)
    assert rates[99] == rates[100] == pytest.approx(1e-4)
    assert all(a >= b for a, b in pairwise(rates[100:]))
    assert rates[550] == pytest.approx(7.5e-5, rel=0.01)
    assert rates[-1] == pytest.approx(5e-5)
    assert max(plan_rates(10)) == pytest.approx(1e-4)  # a short run still reaches its peak
    with pytest.raises(InputError, match=r"a final rate from 0 to 0\.0001"):
        plan_learning_rate(torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-4), 10, 1, 1e-3)


def plan_rates(steps: int) -> list[float]:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    plan = plan_learning_rate(optimizer, steps, 200, 5e-5)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    return rates
