# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from roi_fusion.core.network import RoiFusionNet
from roi_fusion.errors import InputError
from roi_fusion_tools.benchmark.robustness import CONDITIONS, _changed, _scores, run_robustness


def test_conditions_change_what_they_name(small_dataset: Path, tmp_path: Path) -> None:
    def volume(folder: Path, name: str) -> np.ndarray:
        return np.asarray(nib.load(folder / "phantom_0000" / f"{name}.nii.gz").dataobj, dtype=float)

    before = {n: volume(small_dataset, n) for n in ("mri", "ct")}
    scale = np.percentile(before["mri"], 99)
    for name, change in CONDITIONS.items():
        folder = _changed(small_dataset, tmp_path / name, change)
        there = {n: (folder / "phantom_0000" / f"{n}.nii.gz").is_file() for n in ("mri", "ct")}
        assert there == {"mri": name != "without the MRI", "ct": name != "without the CT"}
        same = {n: np.array_equal(volume(folder, n), before[n]) for n in before if there[n]}
        assert same.get("ct", True) is (name != "CT noise 10 HU")
        assert same.get("mri", True) is not (name.startswith("MRI"))
        assert (folder / "phantom_0000" / "lesion_mask.nii.gz").is_file()
        if name == "MRI noise 5 %":
            inside = before["mri"] > 0.3 * scale
            assert (volume(folder, "mri") - before["mri"])[inside].std() == pytest.approx(0.05 * scale, rel=0.1)


def test_scores_leave_out_what_a_missing_volume_cannot_have(tiny_dataset: Path, tmp_path: Path) -> None:
    network = RoiFusionNet().eval()
    no_ct = _scores(network, _changed(tiny_dataset, tmp_path / "a", CONDITIONS["without the CT"]), 1, "fp32")
    assert math.isnan(no_ct["bone_ssim"])
    assert 0 < no_ct["brain_ssim"] <= 1
    no_mri = _scores(network, _changed(tiny_dataset, tmp_path / "b", CONDITIONS["without the MRI"]), 1, "fp32")
    assert math.isnan(no_mri["brain_ssim"])
    assert 0 < no_mri["bone_ssim"] <= 1


def test_bad_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cases: expected a whole number"):
        run_robustness(tmp_path, "none.npz", "none.pt", cases=0)
