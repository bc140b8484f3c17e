# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from roi_fusion.data.transforms.masks import HeadMaskd
from roi_fusion.data.transforms.shown import ScaleShownd, ShownRegiond, background_of, hidden_mask
from roi_fusion.errors import InputError

RNG = np.random.default_rng(0)


def meta(array: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array[None])), affine=torch.eye(4))


def disk(radius: float, size: int = 48, depth: int = 6) -> np.ndarray:
    x, y = np.ogrid[:size, :size]
    flat = (x - size / 2) ** 2 + (y - size / 2) ** 2 <= radius**2
    return np.repeat(flat[..., None], depth, -1)


def stripped_case(missing: str = "") -> dict[Any, Any]:
    head, brain = disk(20), disk(12)
    mri = np.where(brain, 100 + 10 * RNG.standard_normal(head.shape), 0).astype(np.float32)
    mri[disk(4)] = 20  # dark fluid
    mri[24, 24, 3] = 0  # one voxel of noise
    ct = np.where(head, 40, -1000).astype(np.float32)
    return {
        "image": meta(mri),
        "ct": meta(ct),
        "missing": missing,
        "head": meta(head.astype(np.uint8)),
        "dense": meta(np.zeros(head.shape, np.uint8)),
    }


def test_a_constant_background_is_found_and_noise_is_none() -> None:
    assert background_of(np.where(disk(12), RNG.random((48, 48, 6)), -3.0)) == -3.0
    assert background_of(RNG.random((16, 16, 4))) is None
    assert not hidden_mask(RNG.random((16, 16, 4))).any()


def test_zeros_around_a_stripped_brain_are_not_shown() -> None:
    d = ShownRegiond()(stripped_case())
    shown = np.asarray(d["mri_shown"][0]) > 0
    assert d["partly_shown"] == 1
    assert np.array_equal(shown, disk(12))  # the dark fluid and the voxel of noise are tissue
    assert np.array_equal(np.asarray(d["ct_shown"][0]) > 0, disk(20))
    assert np.array_equal(np.asarray(d["dense"][0]) > 0, disk(20) & ~disk(12))


def test_an_ordinary_mri_is_scaled_as_monai_does() -> None:
    from monai.transforms import ScaleIntensityRangePercentiles

    case = stripped_case()
    case["image"] = meta(RNG.random((48, 48, 6)).astype(np.float32))
    d = ScaleShownd()(ShownRegiond()(case))
    assert d["partly_shown"] == 0
    assert torch.equal(d["image"].as_tensor(), ScaleIntensityRangePercentiles(1, 99, 0.05, 1)(case["image"]).as_tensor())


def test_a_stripped_brain_is_scaled_over_itself_with_a_ct_and_without() -> None:
    pair = ScaleShownd()(ShownRegiond()(stripped_case()))
    alone = stripped_case("ct")
    del alone["head"]
    alone = ScaleShownd()(ShownRegiond()(HeadMaskd()(alone)))
    assert pair["intensity"]["mri_low"] == pytest.approx(alone["intensity"]["mri_low"])
    assert pair["intensity"]["mri_high"] == pytest.approx(alone["intensity"]["mri_high"], rel=0.02)
    assert np.array_equal(np.asarray(alone["head"][0]) > 0, disk(12))
    assert not np.asarray(alone["ct_shown"]).any()


def test_an_image_that_is_missing_shows_nothing() -> None:
    d = ScaleShownd()(ShownRegiond()(stripped_case("mri")))
    assert not np.asarray(d["mri_shown"]).any()
    assert (d["intensity"]["mri_low"], d["intensity"]["mri_high"]) == (0, 1)


def test_an_mri_beside_the_head_is_refused() -> None:
    case = stripped_case()
    image = np.zeros((48, 48, 6), np.float32)
    image[:3, :3] = 1 + RNG.random((3, 3, 6))
    with pytest.raises(InputError, match="expected tissue inside the CT's head, got 0 voxels"):
        ShownRegiond()({**case, "image": meta(image)})
