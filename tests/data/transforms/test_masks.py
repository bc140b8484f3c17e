# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from helpers import head_ct, meta
from roi_fusion.data.transforms.masks import HeadMaskd, RoiMasksd
from roi_fusion.errors import InputError

RNG = np.random.default_rng(0)


def test_head_and_regions_are_added() -> None:
    data = {"image": meta(RNG.random((24, 24, 5))), "ct": meta(head_ct())}
    out = RoiMasksd()(HeadMaskd()(data))
    assert set(out) == {"image", "ct", "head", "bone", "brain", "dense", "bone_known", "brain_known"}
    assert out["brain_known"] == out["bone_known"] == 0
    assert all(out[k].dtype == torch.uint8 and out[k].shape == (1, 24, 24, 5) for k in ("head", "bone", "brain", "dense"))
    assert out["brain"][0, 12, 12, 2] == 1
    assert out["bone"][0, 5, 12, 2] == 1
    given = torch.zeros(1, 24, 24, 5)
    given[:, 8:16, 8:16] = 1
    kept = RoiMasksd()({**HeadMaskd()(data), "brain": MetaTensor(given)})
    assert torch.equal(kept["brain"].float().as_tensor(), given)
    assert (kept["brain_known"], kept["bone_known"]) == (1, 0)


def test_no_head_and_no_brain_are_refused() -> None:
    air = np.full((24, 24, 5), -1000.0)
    with pytest.raises(InputError, match="expected a head, got 0 voxels"):
        HeadMaskd()({"image": meta(RNG.random((24, 24, 5))), "ct": meta(air)})
    block = air.copy()
    block[4:20, 4:20] = 900
    with pytest.raises(InputError, match="expected a brain inside the skull"):
        RoiMasksd()(HeadMaskd()({"image": meta(RNG.random((24, 24, 5))), "ct": meta(block)}))
