# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from roi_fusion.core.intensity import brighten_bone
from roi_fusion.data.results import RESULT_FILES, save_case
from roi_fusion.data.transforms.results import FusionResultd, MaskOutsided
from roi_fusion.values import PREDICTION_CHANNELS

INTENSITY = {
    "mri_low": 0.0,
    "mri_high": 950.0,
    "mri_mean": 0.5,
    "mri_std": 0.2,
    "ct_mean": 0.45,
    "ct_std": 0.2,
    "lower": 0.05,
    "upper": 1.0,
}


def case() -> dict:
    torch.manual_seed(0)
    image = torch.randn(2, 8, 8, 3) * 0.3
    image[:, :2] = 0
    image[1, 5] = image[1, 5].clamp(max=0.1)  # so that the next line stays in the linear part
    image[0, 5] = brighten_bone(image[1, 5])  # the sources agree here
    channels = {
        "fused": image[0] + 0.1,
        "lesion_prob": torch.rand(8, 8, 3),
        "uncertainty": torch.rand(8, 8, 3),
        "provenance": torch.rand(8, 8, 3),
        "residual": torch.full((8, 8, 3), 0.1),
        "lesion_std": torch.zeros(8, 8, 3),
    }
    pred = torch.stack([channels[n] for n in PREDICTION_CHANNELS])
    return {"image": MetaTensor(image), "pred": MetaTensor(pred), "intensity": INTENSITY}


def test_results_are_in_mri_units_and_clean_outside() -> None:
    data = case()
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


def test_files_carry_the_mris_place_and_are_named_by_case(tmp_path: Path) -> None:
    affine = np.diag([-0.9, 0.9, 6.0, 1.0])
    affine[:3, 3] = 11, -22, 33
    result = FusionResultd(threshold=0.5)(case())
    for key in RESULT_FILES:
        result[key] = MetaTensor(result[key].as_tensor(), affine=affine, meta={"affine": affine, "sform_code": 1})
    for name in ("a", "b"):
        save_case(tmp_path, name, result, {"case": name})
    for key, (stem, dtype) in RESULT_FILES.items():
        image = nib.load(tmp_path / "a" / f"{stem}.nii.gz")
        assert image.get_data_dtype() == dtype
        np.testing.assert_allclose(image.affine, affine, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(image.dataobj), result[key][0].numpy().astype(dtype))
    assert json.loads((tmp_path / "b" / "result.json").read_text()) == {"case": "b"}
