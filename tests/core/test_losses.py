# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest
import torch

from helpers import loss_target, perfect_prediction
from roi_fusion.core.choices import PRESETS
from roi_fusion.core.losses import COMPONENTS, RoiFusionLoss, boundary_loss, brain_ssim_loss, regional_ssim_loss
from roi_fusion.errors import InputError
from roi_fusion.metrics.fusion import regional_ssim


def test_the_target_itself_costs_nothing() -> None:
    target = loss_target()
    loss = RoiFusionLoss()
    loss(perfect_prediction(target), target)
    assert set(loss.components) == {*COMPONENTS, "total"}
    for name in ("diffusion", "bone"):
        assert float(loss.components[name]) == pytest.approx(0, abs=1e-5), name
    assert float(loss.components["brain"]) < 0.1  # its ordinary windows see the bone beside
    assert float(loss.components["lesion"]) < 0.01
    assert float(loss.components["masks"]) < 0.1  # the cross entropy of the soft ring has a floor


@pytest.mark.parametrize(
    ("spoil", "component"),
    [
        (lambda p, t: p[:, :1].add_(0.3 * torch.randn_like(p[:, :1]) * t["brain"]), "brain"),
        (lambda p, t: p[:, :1].sub_(1.0 * t["bone"]), "bone"),
        (lambda p, t: p[:, 1:2].neg_(), "lesion"),
        (lambda p, t: p[:, 2:4].neg_(), "masks"),
        (lambda p, t: p[:, 4:5].fill_(0.5), "masks"),
    ],
)
def test_each_component_sees_its_own_fault(spoil, component: str) -> None:
    target, loss = loss_target(), RoiFusionLoss()
    loss(perfect_prediction(target), target)
    before = {k: float(v) for k, v in loss.components.items()}
    pred = perfect_prediction(target)
    spoil(pred, target)
    loss(pred, target)
    after = {k: float(v) for k, v in loss.components.items()}
    assert after[component] > before[component] + 0.01
    assert after["total"] > before["total"]
    untouched = {"bone", "lesion"} - {component}
    assert all(after[k] == pytest.approx(before[k], abs=1e-4) for k in untouched)


def test_an_unknown_lesion_is_left_out() -> None:
    target = loss_target()
    pred = perfect_prediction(target).requires_grad_()
    target["label_known"] = torch.tensor([1.0, 0.0])
    spoilt = pred.detach().clone()
    spoilt[1, 1] *= -1  # wrong where nothing is known
    loss = RoiFusionLoss()
    loss(spoilt, target)
    assert float(loss.components["lesion"]) < 0.01
    target["label_known"] = torch.zeros(2)
    total = loss(pred, target)
    assert float(loss.components["lesion"]) == 0
    total.backward()
    assert pred.grad is not None
    assert torch.isfinite(pred.grad).all()


def test_weights_and_presets() -> None:
    target, pred = loss_target(), perfect_prediction(loss_target()) + 0.2
    for name, (alpha, beta, gamma) in PRESETS.items():
        loss = RoiFusionLoss(name, roi_weight=2.0)
        total = loss(pred, target)
        c = loss.components
        expected = c["diffusion"] + 2 * (alpha * c["brain"] + beta * c["bone"] + gamma * c["lesion"] + 0.5 * c["masks"])
        assert float(total) == pytest.approx(float(expected), rel=1e-5)
    assert PRESETS["stroke"] == (1.0, 1.2, 3.0)
    assert RoiFusionLoss("stroke", gamma=0.5).weights["lesion"] == 0.5
    with pytest.raises(InputError, match=r"preset: expected one of default, stroke.*got 'strok'"):
        RoiFusionLoss("strok")
    with pytest.raises(InputError, match="beta: expected a weight of 0 or more, got -1"):
        RoiFusionLoss(beta=-1)


def test_regional_ssim_loss_is_one_minus_the_metric() -> None:
    a, b = torch.rand(2, 1, 20, 20, 3), torch.rand(2, 1, 20, 20, 3)
    roi = torch.rand(2, 1, 20, 20, 3) > 0.5
    expected = 1 - regional_ssim(a, b, roi, data_range=1.0)
    assert torch.allclose(regional_ssim_loss(a, b, roi).double(), expected, atol=1e-5)
    assert regional_ssim_loss(a, b, torch.zeros_like(roi)).tolist() == [0, 0]
    wide = 1 - regional_ssim(a, b, roi, data_range=1.0, context=True)
    assert torch.allclose(brain_ssim_loss(a, b, roi.float()).double(), 0.5 * (expected + wide), atol=1e-5)


def test_the_boundary_term_grows_with_the_distance_and_has_a_gradient() -> None:
    label = torch.zeros(1, 1, 30, 30, 2)
    label[:, :, 10:18, 10:18] = 1
    values = [float(boundary_loss(label.roll(shift, 2), label)) for shift in (0, 1, 3, 6)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[1] < 0.05  # within its tolerance of one voxel
    assert values[1] < values[2] <= values[3]
    soft = (0.8 * label.roll(3, 2) + 0.1).requires_grad_()
    boundary_loss(soft, label).sum().backward()
    assert soft.grad is not None
    assert soft.grad.abs().sum() > 0


def test_everything_is_finite_without_any_region() -> None:
    target = loss_target()
    for key in ("brain", "bone", "dense", "label"):
        target[key] = torch.zeros_like(target[key])
    pred = torch.randn(2, 5, 32, 32, 4)
    pred[:, 4] = pred[:, 4].sigmoid()
    pred.requires_grad_()
    RoiFusionLoss()(pred, target).backward()
    assert pred.grad is not None
    assert torch.isfinite(pred.grad).all()


def test_a_small_lesion_counts_as_much_as_a_large_one_in_the_same_batch() -> None:
    target = loss_target()
    target["label"][0, :, 4:28, 4:28] = 1
    target["label"][1, :, 10:12, 10:12, 1] = 1
    loss = RoiFusionLoss()

    def lesion(found: tuple[float, float]) -> float:
        pred = torch.zeros(2, 5, 32, 32, 4)
        pred[:, 1] = -10.0
        for case, logit in enumerate(found):
            pred[case, 1][target["label"][case, 0] > 0] = logit
        loss(pred, target)
        return float(loss.components["lesion"])

    both, without_large, without_small = lesion((10, 10)), lesion((-10, 10)), lesion((10, -10))
    gain_large, gain_small = without_large - both, without_small - both
    entropy = 10 * target["label"].mean(dim=(1, 2, 3, 4)) / 2  # the part that does depend on size
    assert gain_small - float(entropy[1]) > 0.8 * (gain_large - float(entropy[0])) > 0
