# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.augment import (
    ContrastFactsd,
    RandCoilBiasd,
    RandMirrord,
    RandMissingModalityd,
    RandRegistrationJitterd,
    rigid_resample,
)
from roi_fusion.errors import InputError


def blob(shape: tuple[int, int, int], centre: tuple[float, float, float], spacing: tuple[float, float, float]) -> torch.Tensor:
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    square = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return torch.from_numpy(np.exp(-square / (2 * 9.0**2))).float()[None]


def centre_of(volume: torch.Tensor, spacing: tuple[float, float, float]) -> np.ndarray:
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(volume.shape[1:], spacing)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    weight = volume[0].numpy()
    return (grid * weight).sum((1, 2, 3)) / weight.sum()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 6.0), (2.0, 1.0, 1.0)])
def test_a_shift_is_in_millimetres_on_anisotropic_voxels(spacing: tuple[float, float, float]) -> None:
    shape = tuple(int(90 / s) for s in spacing)
    still = blob(shape, (0, 0, 0), spacing)
    moved = rigid_resample(still, spacing, (0, 0, 0), (4.0, -3.0, 6.0))
    np.testing.assert_allclose(centre_of(moved, spacing), [-4.0, 3.0, -6.0], atol=0.3)


def test_a_rotation_keeps_distances_on_anisotropic_voxels() -> None:
    spacing, shape = (1.0, 1.0, 6.0), (120, 120, 20)
    start = np.array([0.0, 25.0, 12.0])
    angles = np.deg2rad([10.0, 0, 0])
    moved = centre_of(rigid_resample(blob(shape, tuple(start), spacing), spacing, angles, (0, 0, 0)), spacing)
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(start), abs=0.5)
    cosine = moved[1:] @ start[1:] / np.linalg.norm(start) ** 2
    assert np.rad2deg(np.arccos(cosine)) == pytest.approx(10.0, abs=1.0)


def sample() -> dict:
    torch.manual_seed(0)
    head = torch.zeros(1, 40, 40, 8)
    head[:, 6:34, 6:34] = 1
    bone = head.clone()
    bone[:, 9:31, 9:31] = 0
    ct = (3 * bone + torch.randn_like(head) * 0.1) * head
    mri = (torch.randn_like(head) + 0.5) * head
    affine = np.diag([1.0, 1.0, 6.0, 1.0])
    volumes = {
        "image": mri,
        "ct": ct,
        "head": head,
        "bone": bone,
        "dense": torch.zeros_like(head),
        "label": head * 0,
        "brain": head - bone,
    }
    data = {k: MetaTensor(v, affine=affine) for k, v in volumes.items()}
    for key in ("head", "bone", "dense", "label", "brain"):
        data[key] = data[key].to(torch.uint8)
    data["intensity"] = {"lower": 0.05, "ct_mean": 0.5, "ct_std": 0.2}
    return data


def test_ct_bone_and_head_move_together_and_the_mri_stays() -> None:
    data = sample()
    jitter = RandRegistrationJitterd(prob=1.0, shift_mm=3.0, rotation_degrees=0.0)
    jitter.set_random_state(1)
    out = jitter(data)
    assert not torch.equal(out["ct"], data["ct"])
    assert not torch.equal(out["bone"], data["bone"])
    assert torch.equal(out["brain"], data["brain"])
    both = (out["head"] > 0) & (data["head"] > 0)
    assert torch.equal(out["image"][both], data["image"][both])
    outside = out["head"] == 0
    assert (out["ct"][outside] == 0).all()
    assert (out["image"][outside] == 0).all()
    assert (out["ct"][out["head"] > 0] != 0).all()
    assert float(out["ct"][out["bone"] > 0].mean()) > 2  # the mask moved with what it marks
    assert out["bone"].dtype == torch.uint8
    assert torch.equal(data["ct"], sample()["ct"])  # nothing is changed in place


def test_the_same_state_moves_alike_and_probability_zero_does_not_move() -> None:
    jitter = RandRegistrationJitterd(prob=1.0)
    first, second = (jitter.set_random_state(3)(sample())["ct"] for _ in range(2))
    assert torch.equal(first, second)
    data = sample()
    assert torch.equal(RandRegistrationJitterd(prob=0.0)(data)["ct"], data["ct"])
    assert torch.equal(RandRegistrationJitterd(1.0, 0.0, 0.0)(data)["ct"], data["ct"])


def test_bad_limits_are_refused() -> None:
    with pytest.raises(InputError, match="registration jitter"):
        RandRegistrationJitterd(shift_mm=-1)
    with pytest.raises(InputError, match="registration jitter"):
        RandRegistrationJitterd(prob=1.5)


def test_without_a_modality_the_target_comes_from_the_other() -> None:
    data = sample()
    seen = set()
    drop = RandMissingModalityd(prob=1.0)
    drop.set_random_state(0)
    for _ in range(12):
        out = drop(data)
        if not out["image"].any():
            seen.add("mri")
            assert torch.equal(torch.as_tensor(out["dense"]) > 0, torch.as_tensor(data["head"]) > 0)
            assert torch.equal(torch.as_tensor(out["ct"]), torch.as_tensor(data["ct"]))
        else:
            seen.add("ct")
            assert not any(out[key].any() for key in ("ct", "bone", "dense"))
    assert seen == {"mri", "ct"}
    assert RandMissingModalityd(prob=0.0)(data)["image"].any()
    with pytest.raises(InputError, match="missing_modality"):
        RandMissingModalityd(prob=1.5)


def test_a_crop_is_trained_with_the_description_that_inference_gives_the_whole() -> None:
    torch.manual_seed(0)
    image, ct = torch.randn(1, 41, 38, 6), torch.randn(1, 41, 38, 6)
    image[:, :9], ct[:, :9] = 0, 0
    net = RoiFusionNet(channels=(4, 4, 4, 4), denoiser_channels=(4, 4, 4), detail_channels=4)
    noted = ContrastFactsd()({"image": MetaTensor(image), "ct": MetaTensor(ct)})
    whole, crop = torch.cat([image, ct])[None], torch.cat([image, ct])[None, :, 10:26, 10:26]
    told = net.descriptor(noted["contrast_facts"][None])
    assert torch.equal(told, net.describe(whole))
    assert not torch.allclose(told, net.describe(crop), atol=1e-2)
    for parameter in net.parameters():  # layers that start at zero would hide a difference
        parameter.data += 0.1 * torch.randn_like(parameter)
    out, t = net.eval()(crop), torch.full((1,), 999.0)
    assert torch.equal(out, net.denoise(torch.zeros_like(crop), crop, t))
    assert not torch.equal(out, net.denoise(torch.zeros_like(crop), crop, t, noted["contrast_facts"][None]))


def test_a_missing_ct_is_not_moved_into_being() -> None:
    data = {**sample(), "ct": torch.zeros_like(sample()["ct"])}
    moved = RandRegistrationJitterd(prob=1.0)(data)
    assert not moved["ct"].any()


def test_a_head_is_mirrored_left_to_right_whatever_its_slices_are() -> None:
    sagittal = np.zeros((4, 4))  # array axes run to anterior, superior, right
    sagittal[1, 0] = sagittal[2, 1] = sagittal[0, 2] = sagittal[3, 3] = 1
    for affine, axis in ((np.eye(4), 1), (sagittal, 3)):
        volumes = {k: MetaTensor(torch.rand(1, 5, 6, 7), affine=torch.as_tensor(affine)) for k in ("image", "label")}
        out = RandMirrord(("image", "label"), prob=1.0)(volumes)
        for key, volume in volumes.items():
            assert torch.equal(out[key].as_tensor(), volume.as_tensor().flip(axis))
        same = RandMirrord(("image", "label"), prob=0.0)(volumes)
        assert torch.equal(same["image"], volumes["image"])
    with pytest.raises(InputError, match="mirror: expected a share from 0 to 1"):
        RandMirrord(("image",), prob=2.0)


def test_a_coil_bias_is_a_smooth_gain_of_the_signal() -> None:
    """On a chessboard of signals 0.8 and 0.4, what a gain does to neighbours tells it from an offset: v = 2·(v - v') - mean."""
    data = sample()
    inside = data["head"].as_tensor() > 0
    x, y, z = np.indices(inside.shape[1:])
    bright = torch.from_numpy((x + y + z) % 2 == 0)[None]
    signal = torch.where(bright, 0.8, 0.4)
    mean, std = float(signal[inside].mean()), float(signal[inside].std(unbiased=False))
    data["image"] = MetaTensor((signal - mean) / std * inside, affine=data["ct"].affine)
    data["intensity"] = {**data["intensity"], "mri_mean": mean + 0.05, "mri_std": std, "lower": 0.05}
    bias = RandCoilBiasd(prob=1.0, coefficient=0.2)
    bias.set_random_state(3)
    out = bias(data)
    values = out["image"].as_tensor()
    assert float(values[inside].mean()) == pytest.approx(0, abs=1e-5)
    assert float(values[inside].std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert bool((values[~inside] == 0).all())
    assert torch.equal(out["ct"], data["ct"])
    around = (values[:, 1:-1, :-2] + values[:, 1:-1, 2:] + values[:, :-2, 1:-1] + values[:, 2:, 1:-1]) / 4
    centre, judged = values[:, 1:-1, 1:-1], bright[:, 1:-1, 1:-1] & inside[:, 1:-1, 1:-1]
    judged &= inside[:, 1:-1, :-2] & inside[:, 1:-1, 2:] & inside[:, :-2, 1:-1] & inside[:, 2:, 1:-1]
    slope, _ = np.polyfit((centre - around)[judged].numpy(), centre[judged].numpy(), 1)
    assert slope == pytest.approx(2.0, abs=0.1)
    assert float(centre[judged].std()) > 0.1


def test_a_coil_bias_repeats_by_its_seed_and_leaves_a_missing_mri_alone() -> None:
    data = sample()
    data["intensity"] = {**data["intensity"], "mri_mean": 0.45, "mri_std": 0.2}
    first, second = RandCoilBiasd(prob=1.0), RandCoilBiasd(prob=1.0)
    for bias in (first, second):
        bias.set_random_state(5)
    assert torch.equal(first(data)["image"], second(data)["image"])
    assert torch.equal(RandCoilBiasd(prob=0.0)(data)["image"], data["image"])
    missing = {**data, "image": data["image"] * 0}
    assert not bool(first(missing)["image"].any())
    with pytest.raises(InputError, match=r"got 2\.0, 0\.2"):
        RandCoilBiasd(prob=2.0)
