# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from helpers import predicted_case
from roi_fusion.core.intensity import IntensityMap, brighten_bone, compand_hu
from roi_fusion.data.results import RESULT_FILES
from roi_fusion.data.transforms.results import FusionResultd, MaskOutsided, display_range


def test_results_are_in_mri_units_and_clean_outside() -> None:
    data = predicted_case()
    out = FusionResultd("pred", threshold=0.6)(data)
    assert {k: tuple(out[k].shape) for k in RESULT_FILES} == dict.fromkeys(RESULT_FILES, (1, 8, 8, 3))
    assert torch.equal(out["prediction"], data["pred"])
    # scaled = normalised·0.2 + 0.5 lies in the linear part: 1000 MRI units a scaled unit, 0.05 at 0.
    expected = ((data["pred"][0] * 0.2 + 0.5) - 0.05) * 1000
    assert torch.allclose(out["fused"][0, 2:].as_tensor(), expected[2:].as_tensor(), atol=1e-2)
    assert torch.allclose(out["residual"][0, 2:].as_tensor(), torch.full((6, 8, 3), 0.1 * 0.2 * 1000), atol=1e-2)
    assert out["pred"].dtype == torch.uint8
    assert torch.equal(out["pred"][0, 2:] > 0, data["pred"][1, 2:] > 0.6)
    for key in ("pred", "fused", "residual", "lesion_prob", "uncertainty"):
        assert (out[key][0, :2] == 0).all(), key
    assert out["provenance"][0, :2].isnan().all()
    assert out["provenance"][0, 5].isnan().all()  # nobody can tell
    far = (data["image"][0] - brighten_bone(data["image"][1])).abs() >= 0.1
    far[:2] = False  # outside the head
    assert torch.equal(out["provenance"][0][far].as_tensor(), data["pred"][3][far].as_tensor())


def test_outside_is_restored_after_the_inversion() -> None:
    inside = torch.zeros(1, 4, 4, 2)
    inside[:, 1:3] = 1
    data = {"fused": torch.ones(1, 4, 4, 2), "provenance": torch.zeros(1, 4, 4, 2), "inside": inside}
    out = MaskOutsided(["fused", "provenance"])(data)
    assert out["fused"][inside == 0].eq(0).all()
    assert out["provenance"][inside == 0].isnan().all()
    assert out["provenance"][inside == 1].eq(0).all()


def _with_a_shifted_skull(missing: str = "") -> dict:
    """A case whose CT has bone where the MRI is as bright as brain in half of the bone's rows, 30 x 30 x 2 voxels of 1 mm."""
    data = predicted_case()
    to_ct = IntensityMap.from_case(data["intensity"])
    ct = torch.full((1, 30, 30, 2), 35.0)
    ct[:, 4:14] = 1000.0
    image = torch.cat([torch.full_like(ct, 1.0), (compand_hu(ct) - to_ct.ct_mean) / to_ct.ct_std])
    image[0, 4:9] = -2.0
    brain, bone = (torch.zeros(1, 30, 30, 2, dtype=torch.uint8) for _ in range(2))
    brain[:, 14:], bone[:, 4:14] = 1, 1
    noise = 0.01 * torch.randn(6, 30, 30, 2)
    pred = MetaTensor(torch.rand(6, 30, 30, 2), meta=data["pred"].meta)
    return {**data, "image": MetaTensor(image + noise[:2]), "pred": pred, "brain": brain, "bone": bone, "missing": missing}


def test_bone_over_the_mris_brain_is_told() -> None:
    conflict = FusionResultd("pred", threshold=0.5)(_with_a_shifted_skull())["conflict"]
    assert conflict.dtype == torch.uint8
    assert conflict[0, 9:14].float().mean() > 0.9
    assert conflict[0, 14:].sum() == conflict[0, :9].sum() == 0
    assert FusionResultd("pred", threshold=0.5)(_with_a_shifted_skull("ct"))["conflict"].sum() == 0


def test_the_range_to_show_is_that_of_the_brain_from_the_mri() -> None:
    data = predicted_case()
    data["pred"][3] = 1.0
    data["pred"][3, 6:] = 0.0  # blood, from the CT
    data["pred"][0, 6:] = 4.0
    out = FusionResultd("pred", threshold=0.5)(data)
    shown = np.asarray(out["fused"][0, 4:6])
    assert out["display_range"] == pytest.approx((np.percentile(shown, 0.5), np.percentile(shown, 99.5)), rel=1e-4)
    assert out["display_range"][1] < float(out["fused"][0, 6:].min())
    assert display_range(torch.ones(3), torch.ones(3), torch.ones(3)) is None
    assert display_range(torch.rand(3), torch.zeros(3), torch.ones(3)) is None


def test_the_range_outlives_the_inversion() -> None:
    data = {"fused": MetaTensor(torch.ones(1, 4, 4, 2)), "inside": torch.ones(1, 4, 4, 2), "display_range": (1.5, 9.0)}
    out = MaskOutsided(["fused"])(data)
    assert (out["fused"].meta["cal_min"], out["fused"].meta["cal_max"]) == (1.5, 9.0)
