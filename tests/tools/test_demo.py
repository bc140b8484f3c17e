# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The demonstration's cases, its table, and what it refuses. `make test-wheel` runs it as it is."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from in_process import run_cli
from roi_fusion.errors import InputError
from roi_fusion.values import read_json, write_json
from roi_fusion_tools import demo
from roi_fusion_tools.demo import PLAN, Planned, case_table, write_demo_cases


def test_the_plan_has_five_contrasts_one_without_a_lesion_and_one_that_is_flagged() -> None:
    assert {p.contrast for p in PLAN} == {"dwi", "adc", "flair", "t2", "t1"}
    assert [p.lesion for p in PLAN].count(False) == 1
    assert [bool(p.cut) for p in PLAN].count(True) == 1


def test_cases_are_written_with_their_true_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, spacing = (48, 56, 12), (4.0, 4.0, 13.0)
    small = (Planned("a", "dwi", shape, spacing, cut=0.5), Planned("b", "t1", shape, spacing, lesion=False))
    monkeypatch.setattr(demo, "PLAN", small)
    assert list(write_demo_cases(tmp_path, 2)) == ["01_a", "02_b"]
    true_ml = read_json(tmp_path / "demo.json")
    for name, planned in zip(true_ml, small):
        mri, ct, mask = (nib.load(tmp_path / name / f"{stem}.nii.gz") for stem in ("mri", "ct", "lesion_mask"))
        assert mri.shape == shape
        assert ct.shape == (*shape[:2], 6 if planned.cut else 12)
        np.testing.assert_allclose(ct.affine, mri.affine)
        volume_ml = np.asarray(mask.dataobj).sum() * np.prod(spacing) / 1000
        assert true_ml[name] == pytest.approx(volume_ml, abs=1e-3)
        assert (volume_ml > 0) == planned.lesion
    with pytest.raises(InputError, match="cases: expected a whole number of 1 or more, got 0"):
        list(write_demo_cases(tmp_path, 0))


def test_the_table_tells_true_and_found_volume_interval_and_what_was_said(tmp_path: Path) -> None:
    write_json(tmp_path / "demo.json", {"01_dwi": 12.5, "02_cut": 3.0, "03_refused": 0.0})
    facts = {"lesion_ml": 11.2, "lesion_ml_interval": [8.0, 15.0], "lesion_ml_is_lower_bound": False, "warnings": []}
    cut = {
        "lesion_ml": 2.0,
        "lesion_ml_interval": None,
        "lesion_ml_interval_note": "a part of the brain was not seen",
        "lesion_ml_is_lower_bound": True,
        "warnings": ["x/ct.nii.gz: the CT ends inside the brain"],
        "outside_training": ["12 slices"],
    }
    for name, content in (("01_dwi", facts), ("02_cut", cut)):
        write_json(tmp_path / "r" / name / "result.json", content)
    write_json(tmp_path / "r" / "errors.json", {"03_refused": "ct.nii.gz: expected CT in HU"})
    lines = case_table(tmp_path, tmp_path / "r").splitlines()[1:]
    assert lines[0].split() == ["01_dwi", "12.5", "11.2", "8.0", "to", "15.0"]
    assert lines[1].split()[:4] == ["02_cut", "3.0", "≥", "2.0"]
    assert lines[2:4] == ["    the CT ends inside the brain", "    outside of the training: 12 slices"]
    assert lines[4].split()[-1] == "refused"
    assert lines[5] == "    expected CT in HU"


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    text = run_cli("demo", "--output", str(tmp_path), ok=False)
    assert "error: output: expected a new folder or one of an earlier demonstration" in text
    assert (tmp_path / "mine.txt").exists()
