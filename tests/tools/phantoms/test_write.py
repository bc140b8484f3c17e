# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from roi_fusion.errors import InputError
from roi_fusion_tools.phantoms.render import PhantomConfig, draw_phantom
from roi_fusion_tools.phantoms.write import write_phantoms


def test_files_parameters_and_progress(tmp_path: Path) -> None:
    config = PhantomConfig(shape=(40, 44, 6), spacing_mm=(5.0, 5.0, 24.0))
    names = list(write_phantoms(tmp_path, 2, config, seed=9))
    assert names == ["phantom_0000", "phantom_0001"]
    record = json.loads((tmp_path / "dataset.json").read_text())
    assert set(record["cases"]) == set(names)
    assert record["cases"]["phantom_0001"]["seed"] == [9, 1]
    for stem in ("mri", "ct", "lesion_mask", "brain_mask", "bone_mask"):
        image = nib.load(tmp_path / "phantom_0001" / f"{stem}.nii.gz")
        assert image.shape == (40, 44, 6)
        assert image.header.get_zooms() == (5.0, 5.0, 24.0)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    stored = np.asarray(nib.load(tmp_path / "phantom_0000" / "ct.nii.gz").dataobj)
    assert np.array_equal(stored, draw_phantom(config, (9, 0)).ct)


def test_an_interrupted_call_is_completed_and_workers_draw_the_same(tmp_path: Path) -> None:
    config = PhantomConfig(shape=(32, 36, 4), spacing_mm=(6.0, 6.0, 30.0))
    cases = write_phantoms(tmp_path / "a", 3, config, seed=2)
    next(cases)
    cases.close()
    first = tmp_path / "a" / "phantom_0000" / "ct.nii.gz"
    written = first.stat().st_mtime_ns
    assert len(list(write_phantoms(tmp_path / "a", 3, config, seed=2))) == 3
    assert first.stat().st_mtime_ns == written
    list(write_phantoms(tmp_path / "b", 3, config, seed=2, num_workers=1))
    for name in ("phantom_0000", "phantom_0002"):
        same = [nib.load(tmp_path / d / name / "mri.nii.gz").get_fdata() for d in "ab"]
        assert np.array_equal(*same)
    list(write_phantoms(tmp_path / "a", 1, config, seed=3))  # another seed makes it anew
    assert first.stat().st_mtime_ns != written
    with pytest.raises(InputError, match="num_workers"):
        list(write_phantoms(tmp_path, 1, config, num_workers=-1))
