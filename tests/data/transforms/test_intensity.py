# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import head_ct, meta
from roi_fusion.core.intensity import IntensityMap
from roi_fusion.data.transforms.intensity import CompandHUd
from roi_fusion.errors import InputError


def test_companding_points_must_rise() -> None:
    with pytest.raises(InputError, match="two rising lists of one length"):
        CompandHUd("ct", hu_points=[0, 100, 50], scaled_points=[0.1, 0.2, 0.3])
    with pytest.raises(InputError, match="two rising lists of one length"):
        CompandHUd("ct", hu_points=[0, 100], scaled_points=[0.1])


@pytest.mark.parametrize("kind", ["noisy air", "Rician background", "bright lesion", "outliers"])
def test_both_volumes_end_with_mean_0_and_deviation_1_over_the_head(kind: str, shared_preprocessing) -> None:
    rng = np.random.default_rng(0)
    ct = head_ct((48, 48, 6))
    ct[4:44, 4:44] = 900
    ct[7:41, 7:41] = rng.normal(35, 4, (34, 34, 6))
    mri = np.zeros((48, 48, 6))
    mri[4:44, 4:44] = rng.normal(400, 60, (40, 40, 6))
    if kind == "noisy air":
        ct[ct == -1000] = rng.normal(-1000, 30, (ct == -1000).sum())
    if kind == "Rician background":
        mri = np.hypot(mri + 20 * rng.standard_normal(mri.shape), 20 * rng.standard_normal(mri.shape))
    if kind == "bright lesion":
        mri[20:26, 20:26] = 1500
    if kind == "outliers":
        mri[10, 10, 2], ct[5, 5, 2] = 4547, -1183
    out = shared_preprocessing({"image": meta(mri), "ct": meta(ct)})
    head = out["head"] > 0
    for key in ("image", "ct"):
        inside = out[key][head]
        assert abs(float(inside.mean())) < 0.02
        assert abs(float(inside.std()) - 1) < 0.02
        assert bool((out[key][~head] == 0).all())
        assert float(inside.abs().max()) < 12
    ratio = float(out["image"][head].std() / out["ct"][head].std())
    assert 0.5 < ratio < 2
    if kind == "bright lesion":  # a hard clip at the 99th percentile would flatten it to the brightest tissue
        assert float(out["image"][0, :, :, :].max()) > 1.2 * float(torch.quantile(out["image"][head], 0.95))
    back = IntensityMap.from_case(out["intensity"]).normalised_to_mri_units(out["image"].as_tensor())
    cropped = (
        torch.from_numpy(mri).float()[None][:, : head.shape[1], : head.shape[2]] if head.shape[1:] == (48, 48, 6) else None
    )
    assert cropped is None or torch.allclose(back[head], cropped[head], rtol=1e-3, atol=0.5)
