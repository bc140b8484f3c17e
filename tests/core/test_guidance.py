# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest
import torch

from helpers import LATE, NO_BLOOD, flat_logits, textured_head
from roi_fusion.core.choices import HU_POINTS, SCALED_POINTS
from roi_fusion.core.facts import facts_of
from roi_fusion.core.guidance import GuidedDraw, RoiGuidance
from roi_fusion.core.intensity import compand_hu, fusion_sources
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.regional_energy import find_regions
from roi_fusion.core.schedule import Level, make_scheduler
from roi_fusion.engine.inferer import SamplingInferer
from roi_fusion.errors import InputError
from roi_fusion.values import PREDICTION_CHANNELS


def never(x_t: torch.Tensor, level: Level) -> torch.Tensor:
    raise AssertionError("no pass through the network is expected")


def test_guidance_on_the_logits_lowers_the_energy_and_stays_inside_blend_and_bound(net: RoiFusionNet) -> None:
    image, brain, bone = textured_head()
    raw = flat_logits(brain, bone)
    draw = GuidedDraw(RoiGuidance(num_updates=8), net, image, ct_scale=NO_BLOOD)
    guided = raw
    for _ in range(3):
        guided = draw.correct(raw, torch.zeros_like(image), LATE, never)
    assert len(draw.energies) == 3
    assert all(after < before for before, after in draw.energies)
    assert draw.energies[-1][1] < 0.5 * draw.energies[0][0]
    gate = torch.sigmoid(guided[:, 3:4])
    assert gate[brain > 0].mean() > 0.65 > 0.35 > gate[bone > 0].mean()
    fused, (mri, ct) = net.compose(image, guided)[:, :1], fusion_sources(image)
    residual = fused - (gate * mri + (1 - gate) * ct)
    assert residual.abs().max() <= net.residual_bound + 1e-6
    assert torch.equal(guided[:, 1:3], raw[:, 1:3])
    assert torch.allclose(fused[bone > 0], ct[bone > 0], atol=0.02)  # bone is the CT itself


def test_nothing_is_darker_than_the_mri_or_brighter_than_both(net: RoiFusionNet) -> None:
    image, brain, bone = textured_head()
    image[:, 1] = (image[:, 1] - 3) * (image[:, 1] != 0)  # a CT of air, far below the MRI's darkest
    draw = GuidedDraw(RoiGuidance(), net, image, ct_scale=NO_BLOOD)
    fused = net.compose(image, draw.correct(flat_logits(brain, bone), torch.zeros_like(image), LATE, never))[:, :1]
    mri, ct = fusion_sources(image)
    inside = (image != 0).any(1, keepdim=True) & (bone == 0)
    assert fused[inside].min() >= mri[mri != 0].min() - 2e-3
    assert fused[inside].unique().numel() > 0.9 * inside.sum()  # no clamp that many voxels share
    assert (fused - torch.maximum(mri, ct)).max() <= 2e-3
    without_mri = torch.cat([torch.zeros_like(mri), image[:, 1:]], dim=1)
    draw = GuidedDraw(RoiGuidance(), net, without_mri, ct_scale=NO_BLOOD)
    fused = net.compose(without_mri, draw.correct(flat_logits(brain, bone), torch.zeros_like(image), LATE, never))[:, :1]
    assert fused.min() < -2  # the CT is all there is


@pytest.mark.parametrize("hole", [False, True])
def test_blood_and_calcium_come_from_the_ct_though_the_gate_wants_the_mri(net: RoiFusionNet, hole: bool) -> None:
    image, brain, bone = textured_head()
    mean, std = 0.49, 0.22
    image[:, 1][brain[:, 0] > 0] = (compand_hu(torch.tensor(35.0)) - mean) / std
    image[:, 1, 14:20, 14:22, 1:3] = (compand_hu(torch.tensor(75.0)) - mean) / std
    if hole:  # as the brain head leaves one over a dense choroid plexus
        brain[:, :, 13:21, 13:23, 1:3] = 0
    draw = GuidedDraw(RoiGuidance(), net, image, ct_scale=(mean, std), spacing_mm=(1.0, 1.0, 3.0))
    for _ in range(2):
        guided = draw.correct(flat_logits(brain, bone, gate=4.0), torch.zeros_like(image), LATE, never)
    gate = torch.sigmoid(guided[0, 3])
    assert gate[15:19, 15:21, 1:3].max() < 0.1
    assert gate[10:12, 26:34].min() > 0.6  # brain elsewhere shows the MRI
    unguided = GuidedDraw(RoiGuidance(), net, image, ct_scale=(mean, std), regional=False)
    assert torch.equal(
        unguided.correct(flat_logits(brain, bone, gate=4.0), torch.zeros_like(image), LATE, never)[:, 3],
        flat_logits(brain, bone, 4.0)[:, 3],
    )


def test_a_rim_of_bone_that_the_head_has_lost_comes_from_the_ct(net: RoiFusionNet) -> None:
    image, brain, bone = textured_head()
    mean, std = 0.49, 0.22
    image[:, 1, 8:36] = (compand_hu(torch.tensor(35.0)) - mean) / std
    image[:, 1, 28:36] = (compand_hu(torch.tensor(800.0)) - mean) / std
    lost = bone.clone()
    lost[:, :, (28, 35)] = 0
    raw, ct = flat_logits(brain, lost, gate=4.0), fusion_sources(image)[1]
    settings = {"ct_scale": (mean, std), "spacing_mm": (1.0, 1.0, 3.0)}
    for masks, from_ct in (({}, True), ({"bone_mask": lost}, False)):
        draw = GuidedDraw(RoiGuidance(), net, image, masks=masks, **settings)
        fused = net.compose(image, draw.correct(raw, torch.zeros_like(image), LATE, never))[:, :1]
        rim = (fused - ct)[:, :, (28, 35)].abs()
        assert bool((rim < 0.02).all()) is from_ct  # the user's mask is taken at its word
        assert (fused - ct)[:, :, 29:35].abs().max() < 0.02


def test_a_tiny_change_of_the_logits_moves_the_image_by_little(net: RoiFusionNet) -> None:
    """Tiles and whole volumes differ by rounding; no threshold and no sign may make a seam of it."""
    torch.manual_seed(5)
    image, brain, bone = textured_head()
    raw = flat_logits(brain, bone) + torch.randn(1, 5, 48, 40, 4)  # many logits near 0
    ends = []
    for noise in (0.0, 1e-4):
        draw = GuidedDraw(RoiGuidance(num_updates=3), net, image)
        seen = raw + noise * torch.randn_like(raw)
        for _ in range(4):
            guided = draw.correct(seen, torch.zeros_like(image), LATE, never)
        ends.append(net.compose(image, guided)[:, :1])
    assert (ends[0] - ends[1]).abs().max() < 0.01


def test_many_steps_guide_no_further_than_few(net: RoiFusionNet) -> None:
    image, brain, bone = textured_head()
    lesion = torch.zeros_like(brain)
    lesion[:, :, 12:18, 10:20, 1:3] = 1
    raw, ends = flat_logits(brain, bone), {}
    for count in (4, 50):
        settings = RoiGuidance(kappa=0)
        draw = GuidedDraw(settings, net, image, ct_scale=NO_BLOOD, masks={"lesion_mask": lesion}, num_inference_steps=count)
        for _ in range(count):
            guided = draw.correct(raw, torch.zeros_like(image), LATE, never)
        ends[count] = (draw.energies[-1][1], float((guided - raw)[:, :1].abs().max()))
    start = draw.energies[0][0]
    assert ends[4][0] < 0.8 * start
    assert ends[50][0] == pytest.approx(ends[4][0], abs=0.05 * (start - ends[4][0]))
    assert ends[50][1] == pytest.approx(ends[4][1], rel=0.05)
    assert ends[4][1] > 0.05


def test_the_users_masks_replace_the_networks(net: RoiFusionNet) -> None:
    image, brain, bone = textured_head()
    raw = flat_logits(bone, brain)  # the network takes one for the other
    masks = {"brain_mask": brain, "bone_mask": bone}
    draw = GuidedDraw(RoiGuidance(num_updates=4), net, image, ct_scale=NO_BLOOD, masks=masks)
    gate = torch.sigmoid(draw.correct(raw, torch.zeros_like(image), LATE, never)[:, 3:4])
    assert gate[brain > 0].mean() > 0.6 > 0.4 > gate[bone > 0].mean()
    lesion = torch.zeros_like(brain)
    lesion[:, :, 10:14, 10:14, 1:3] = 1
    draw = GuidedDraw(RoiGuidance(gamma=1.0, strength=6.0), net, image, masks={"lesion_mask": lesion})
    early = Level(900.0, 0.1, 0.99)
    for _ in range(3):
        moved = draw.correct(raw, torch.zeros_like(image), early, never)
    assert moved[:, :1][lesion > 0].min() > 0 > moved[:, :1][lesion == 0].max()


@pytest.mark.parametrize("mode", ["logits", "full"])
@pytest.mark.parametrize("scheduler", ["ddim", "rflow"])
def test_a_guided_run_is_deterministic_and_logs_falling_energies(net: RoiFusionNet, mode: str, scheduler: str) -> None:
    image = textured_head()[0]
    guidance = RoiGuidance(mode=mode, num_updates=1)
    inferer = SamplingInferer(make_scheduler(scheduler), 3, num_samples=2, guidance=guidance)
    first = inferer(image, net)
    energies = facts_of(first[0]).guidance_energy
    assert len(energies) == 3
    assert all(after <= before for before, after in energies)
    assert torch.equal(inferer(image, net), first)
    assert not first.requires_grad
    channel = dict(zip(PREDICTION_CHANNELS, first[0]))
    mri, ct = (v[0, 0] for v in fusion_sources(image))
    blend = channel["provenance"] * mri + (1 - channel["provenance"]) * ct
    assert torch.allclose(channel["fused"][4:], (blend + channel["residual"])[4:], atol=1e-5)
    assert channel["residual"].abs().max() <= net.residual_bound


def test_off_and_strength_zero_change_nothing(net: RoiFusionNet) -> None:
    image = textured_head()[0]
    plain = SamplingInferer(make_scheduler(), 2, num_samples=2)(image, net)
    for guidance in (RoiGuidance(mode="off"), RoiGuidance(strength=0.0)):
        assert torch.equal(SamplingInferer(make_scheduler(), 2, num_samples=2, guidance=guidance)(image, net), plain)


def test_bad_settings_are_refused(net: RoiFusionNet) -> None:
    for wrong, word in (
        ({"strength": -1.0}, "strength"),
        ({"mode": "on"}, "mode"),
        ({"schedule": "up"}, "schedule"),
        ({"num_updates": 0}, "num_updates"),
        ({"kappa": float("nan")}, "kappa"),
    ):
        with pytest.raises(InputError, match=word):
            RoiGuidance(**wrong)
    image, brain, _ = textured_head()
    with pytest.raises(InputError, match=r"brain_mask: expected the grid \(48, 40, 4\) of the image, got \(48, 40, 3\)"):
        GuidedDraw(RoiGuidance(), net, image, masks={"brain_mask": brain[..., :3]})
    with pytest.raises(InputError, match="guidance_masks"):
        GuidedDraw(RoiGuidance(), net, image, masks={"skull": brain})


def test_guidance_reads_the_ct_by_the_curve_that_it_was_companded_with() -> None:
    """With the default curve it would read 45 HU as 78, and take oedema beside grey matter for blood."""
    curve = ((-1000.0, -100.0, 0.0, 40.0, 300.0, 1500.0), SCALED_POINTS)
    hu = torch.full((1, 1, 32, 32, 8), 30.0)
    hu[:, :, 10:22, 10:22, 2:6] = 45
    image = torch.cat([torch.ones_like(hu), compand_hu(hu, *curve)], dim=1)
    raw = torch.zeros(1, 5, *hu.shape[2:])
    raw[:, 3] = 9.0  # the gate: all from the MRI
    masks = {"brain_mask": torch.ones_like(hu), "bone_mask": torch.zeros_like(hu)}
    found = [
        find_regions(raw, image, (0.0, 1.0), (1.0, 1.0, 5.0), masks, c).from_ct for c in (curve, (HU_POINTS, SCALED_POINTS))
    ]
    assert float(found[0].max()) < 0.01
    assert float(found[1][..., 4].max()) > 0.9
    settings = RoiGuidance(hu_points=curve[0], scaled_points=curve[1])
    assert (settings.hu_points, settings.scaled_points) == curve
