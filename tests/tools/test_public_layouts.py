# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Published trees are found by their names, from above and below; a tree with a fault gets one sentence per case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from public_trees import INSIDE, TREES
from roi_fusion.errors import InputError
from roi_fusion_tools.layouts import CaseSource, find_pairs
from unregistered import Pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Volumes of a few voxels: finding reads none."""
    image, mask = np.ones((12, 12, 12), np.float32), np.zeros((12, 12, 12), bool)
    mask[4:8, 4:8, 4:8] = True
    return Pair(image, np.eye(4), image, np.eye(4), np.eye(4), mask, mask, mask, mask, "adc")


def found(root: Path, name: str, **options: str) -> dict[str, CaseSource]:
    return {c.case: c for c in find_pairs(root, name, **options).cases}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_is_found_from_its_own_folder_above_and_below(name: str, pair: Pair, tmp_path: Path) -> None:
    write, names, _ = TREES[name]
    write(tmp_path / "download", pair)
    above = found(tmp_path, name)
    assert sorted(above) == names
    assert all(c.refused is None for c in above.values())
    below = tmp_path / "download" / INSIDE.get(name, ".")
    assert {n: sorted(map(str, dict(c.files()).values())) for n, c in found(below, name).items()} == {
        n: sorted(map(str, dict(c.files()).values())) for n, c in above.items()
    }


def test_each_takes_the_image_that_its_masks_lie_on(pair: Pair, tmp_path: Path) -> None:
    for name, (write, _, _) in TREES.items():
        write(tmp_path / name, pair)
    taken = {
        name: next(iter(found(tmp_path / name, name, contrast="dwi" if name == "soop" else "auto").values())) for name in TREES
    }
    assert {n: (c.contrast, c.alone) for n, c in taken.items()} == {
        "isles22": ("adc", "mri"),
        "isles24": ("adc", ""),
        "apis": ("adc", ""),
        "soop": ("dwi", "mri"),
        "atlas2": ("t1", "mri"),
        "isles15": ("dwi", "mri"),
    }
    assert str(taken["soop"].lesion_mask).endswith("desc-lesion_mask.nii.gz")
    assert str(taken["isles24"].lesion_mask).endswith("space-ncct_lesion-msk.nii.gz")  # not the stray one
    ct = found(tmp_path / "isles24", "isles24", images="ct")["sub-stroke0001"]
    assert (ct.alone, ct.mri, str(ct.ct)[-11:]) == ("ct", None, "ncct.nii.gz"[-11:])


def test_raters_and_official_parts_are_kept(pair: Pair, tmp_path: Path) -> None:
    for name in ("apis", "atlas2", "isles15"):
        TREES[name][0](tmp_path / name, pair)
    apis = found(tmp_path / "apis", "apis")
    assert str(apis["train_000"].lesion_mask).endswith("r1.nii.gz")
    assert [(r, p.name) for r, p in apis["train_000"].more_masks.items()] == [("r2", "train_000_r2.nii.gz")]
    assert apis["test_000"].lesion_mask is None
    for name in ("apis", "atlas2", "isles15"):
        cases = found(tmp_path / name, name).values()
        assert all(c.part == ("train" if c.lesion_mask else "test") for c in cases), name


def test_a_tree_with_faults_gets_one_sentence_a_case(pair: Pair, tmp_path: Path) -> None:
    TREES["isles22"][0](tmp_path, pair)
    images = tmp_path / "ISLES-2022" / "sub-strokecase0001" / "ses-0001" / "dwi"
    for file in images.iterdir():
        file.unlink()
    for file in (images.parent / "anat").iterdir():
        file.unlink()
    copy = tmp_path / "ISLES-2022" / "copy" / "sub-strokecase0009_ses-0001_msk.nii.gz"
    copy.parent.mkdir()
    copy.touch()
    fetched = tmp_path / "ISLES-2022" / "sub-strokecase0010" / "ses-0001" / "dwi"
    fetched.mkdir(parents=True)
    (fetched / "sub-strokecase0010_ses-0001_dwi.nii.gz").symlink_to(tmp_path / ".git" / "annex" / "gone")
    good = tmp_path / "ISLES-2022" / "sub-strokecase0011" / "ses-0001" / "dwi" / "sub-strokecase0011_ses-0001_dwi.nii.gz"
    good.parent.mkdir(parents=True)
    good.touch()
    refused = {n: c.refused for n, c in found(tmp_path, "isles22").items()}
    assert "expected an image beside the lesion mask, found none but" in str(refused["sub-strokecase0001"])
    assert "expected one lesion mask a rater, got 2 candidates" in str(refused["sub-strokecase0009"])
    assert "got a link to nothing (fetch it: datalad get, git annex get)" in str(refused["sub-strokecase0010"])
    assert refused["sub-strokecase0011"] is None


def test_another_tree_is_one_sentence(pair: Pair, tmp_path: Path) -> None:
    TREES["isles22"][0](tmp_path, pair)
    with pytest.raises(
        InputError, match=r"expected the tree of atlas2, Training/R001/sub-r001s001/.*, found none among 8 files"
    ):
        find_pairs(tmp_path, "atlas2")
    with pytest.raises(InputError, match=r"the nearest to a pair was .*: expected a T2 MRI, found none but"):
        find_pairs(tmp_path, "isles22", contrast="t2")
    with pytest.raises(InputError, match=r"images: expected one of mri, ct, pair with a layout of .*, got both"):
        find_pairs(tmp_path, "isles22", images="both")
    with pytest.raises(InputError, match="expected a CT, found none but"):
        find_pairs(tmp_path, "isles22", images="ct")
