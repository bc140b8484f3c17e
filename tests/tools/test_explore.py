# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from roi_fusion.data.cases import find_cases
from roi_fusion.errors import InputError
from roi_fusion_tools.explore import FLAGS, explore, look_at_case
from roi_fusion_tools.explore_page import summary_of, write_exploration
from roi_fusion_tools.phantoms.render import PhantomConfig
from roi_fusion_tools.phantoms.write import write_phantoms

GRID = PhantomConfig(shape=(64, 64, 12), spacing_mm=(3.6, 3.6, 12.5))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    list(write_phantoms(folder, 50, GRID, seed=31))
    return folder


@pytest.fixture
def case(good: Path, tmp_path: Path) -> Path:
    """A copy of one good case, to be spoilt."""
    shutil.copytree(good / "phantom_0005", tmp_path / "c")
    return tmp_path / "c"


def rewrite(path: Path, change) -> None:
    image = nib.load(path)
    array, affine = change(np.asarray(image.dataobj).copy(), image.affine.copy())
    nib.save(nib.Nifti1Image(array, affine), path)


def flags(case: Path) -> list[str]:
    return look_at_case(find_cases(case.parent)[0])["flags"]


def test_nothing_is_flagged_on_50_good_phantoms(good: Path) -> None:
    found = list(explore(good))
    assert {c["case"]: (c["flags"], c["notes"]) for c in found if c["flags"]} == {}
    summary = summary_of(found)
    assert summary["cases"] == 50
    record = json.loads((good / "dataset.json").read_text())["cases"].values()
    volumes = [p["lesion_ml"] for p in record]
    assert summary["lesions"]["without"] == sum(v == 0 for v in volumes)
    assert summary["lesions"]["share_under_5_ml"] == pytest.approx(np.mean([v < 5 for v in volumes if v]), abs=1e-3)
    assert summary["orientations"] == ["RAS"]
    assert summary["shapes"] == ["[64, 64, 12]"]


def test_a_ct_divided_by_1000_is_flagged(case: Path) -> None:
    rewrite(case / "ct.nii.gz", lambda v, a: (v.astype(np.float32) / 1000, a))
    assert flags(case) == ["ct_not_in_hu"]


def test_swapped_modalities_are_flagged(case: Path) -> None:
    (case / "ct.nii.gz").rename(case / "x")
    (case / "mri.nii.gz").rename(case / "ct.nii.gz")
    (case / "x").rename(case / "mri.nii.gz")
    assert flags(case) == ["ct_not_in_hu", "swapped"]


@pytest.mark.parametrize("number", [1, 5, 9, 20, 33])
@pytest.mark.parametrize("which", ["ct", "mri"])
def test_a_flipped_volume_is_flagged(good: Path, tmp_path: Path, number: int, which: str) -> None:
    case = tmp_path / "c"
    shutil.copytree(good / f"phantom_{number:04d}", case)
    rewrite(case / f"{which}.nii.gz", lambda v, a: (v[::-1], a))
    assert "flipped" in flags(case)


@pytest.mark.parametrize("shift_mm", [(15.0, 0, 0), (0, -18.0, 0), (0, 0, 20.0)])
def test_a_shifted_grid_is_flagged(case: Path, shift_mm: tuple[float, float, float]) -> None:
    def move(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        affine[:3, 3] += shift_mm
        return volume, affine

    rewrite(case / "ct.nii.gz", move)
    assert set(flags(case)) in ({"shifted"}, {"shifted", "truncated"})  # moved on the MRI's grid, it may be cut


def test_saturation_truncation_and_a_missing_skull_are_flagged(case: Path) -> None:
    original = case.parent.parent / "keep"
    shutil.copytree(case, original)
    rewrite(case / "ct.nii.gz", lambda v, a: (np.minimum(v, 300), a))
    assert "saturated" in flags(case)
    shutil.copy(original / "ct.nii.gz", case / "ct.nii.gz")
    for stem in ("mri", "ct", "lesion_mask", "brain_mask", "bone_mask"):
        rewrite(case / f"{stem}.nii.gz", lambda v, a: (v[20:], a))
    assert "truncated" in flags(case)
    shutil.copytree(original, case, dirs_exist_ok=True)
    rewrite(
        case / "ct.nii.gz",
        lambda v, a: (
            (np.where((v > 100) & (v < 2900), 40, v) + np.where(np.arange(v.size).reshape(v.shape) == 0, 2000, 0)).astype(
                np.int16
            ),
            a,
        ),
    )
    assert "no_brain" in flags(case)


def test_an_unreadable_case_does_not_stop_the_others(good: Path, tmp_path: Path) -> None:
    for n in (1, 2):
        shutil.copytree(good / f"phantom_000{n}", tmp_path / f"phantom_000{n}")
    (tmp_path / "phantom_0001" / "ct.nii.gz").write_text("no volume")
    found = list(explore(tmp_path))
    assert [c["flags"] for c in found] == [["unreadable"], []]
    assert "expected a readable volume" in found[0]["notes"][0]
    summary = write_exploration(found, tmp_path / "out", "Test")
    assert summary["flags"] == {"unreadable": ["phantom_0001"]}
    page = (tmp_path / "out" / "explore.html").read_text()
    assert FLAGS["unreadable"] in page
    assert page.count("data:image/png") >= 1
    assert json.loads((tmp_path / "out" / "explore.json").read_text())["summary"] == summary


def test_no_data_set_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no folder"):
        list(explore(tmp_path / "none"))
