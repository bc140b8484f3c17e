# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import torch

from helpers import LATE, flat_logits, textured_head
from roi_fusion.core.channels import split_raw
from roi_fusion.core.lesion_guidance import LesionGuide
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.schedule import Level

EARLY = Level(900.0, 0.1, 0.99)


def prediction() -> torch.Tensor:
    """Logits of a lesion that is sure at one end and not found at the other."""
    _, brain, bone = textured_head()
    raw = flat_logits(brain, bone)
    raw[:, :1, 10:14, 10:14, 1:3] = 1.0
    raw[:, :1, 14:16, 10:14, 1:3] = -1.0
    return raw


def test_the_lesion_follows_the_heads_own_prediction_from_half_time_on(net: RoiFusionNet) -> None:
    raw, guide = prediction(), LesionGuide(net, gamma=0.5, kappa=2.0, half_time=500.0)
    assert guide.step(raw, EARLY, 1.0) is raw
    assert guide.target is None
    late = split_raw(guide.step(raw, LATE, 1.0)).lesion
    assert (late[:, :, 10:14, 10:14, 1:3] > 1).all()
    assert (late[:, :, 14:16, 10:14, 1:3] < -1).all()
    assert torch.equal(split_raw(raw).lesion + guide.moved, late)


def test_moves_add_up_from_step_to_step_and_leave_the_other_logits(net: RoiFusionNet) -> None:
    raw, guide = prediction(), LesionGuide(net, gamma=0.5, kappa=0.0, half_time=500.0)
    first, second = (guide.step(raw, LATE, 1.0) for _ in range(2))
    assert (second - raw).abs().max() > 1.5 * (first - raw).abs().max()
    assert torch.equal(second[:, 1:], raw[:, 1:])
    assert (first - raw).abs().max() <= 0.5 * 0.5  # γ·σ(0)


def test_the_users_mask_is_followed_from_the_start(net: RoiFusionNet) -> None:
    raw = prediction()
    target = torch.zeros_like(raw[:, :1])
    target[:, :, 14:16, 10:14, 1:3] = 1
    moved = LesionGuide(net, 0.5, 2.0, 500.0, target).step(raw, EARLY, 1.0) - raw
    assert moved[:, :1][target > 0].min() > 0
    assert moved[:, 0, 10:13, 10:14, 1:3].max() < 0


def test_no_weight_or_no_lesion_leaves_everything(net: RoiFusionNet) -> None:
    raw = prediction()
    assert LesionGuide(net, 0.0, 2.0, 500.0).step(raw, LATE, 1.0) is raw
    _, brain, bone = textured_head()
    nothing = flat_logits(brain, bone)
    assert LesionGuide(net, 0.5, 2.0, 500.0).step(nothing, LATE, 1.0) is nothing
