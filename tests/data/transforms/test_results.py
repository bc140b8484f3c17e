# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import torch

from helpers import predicted_case
from roi_fusion.core.intensity import brighten_bone
from roi_fusion.data.results import RESULT_FILES
from roi_fusion.data.transforms.results import FusionResultd, MaskOutsided


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
