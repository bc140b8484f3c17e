# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from conftest import BUNDLE
from heads_for_tests import write_head
from roi_fusion.data.cases import collate_cases
from roi_fusion.data.synthesis.samples import write_samples
from roi_fusion.data.synthesis.transforms import (
    RandCropInterestd,
    RandDrawHeadd,
    RandPaintd,
    RepeatedCompose,
    ShuffleCropsd,
    draw_list,
)
from roi_fusion.data.synthesis.unseen import prepare_validation, write_cases
from roi_fusion.engine.training import prepare_batch
from roi_fusion.errors import InputError


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_head(tmp_path_factory.mktemp("maps"))


def pipeline(maps: Path, **knobs: Any) -> Compose:
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / "train.json"), str(BUNDLE / "configs" / "synthesis.json")])
    parser.update({"label_maps": str(maps), "patch_size": [48, 48, 8], "output_dir": "unused", **knobs})
    compose = parser.get_parsed_content("train#preprocessing")
    compose.set_random_state(seed=0)
    return compose


@pytest.fixture(scope="module")
def small(monkeypatch_module: pytest.MonkeyPatch) -> None:
    """Grids of few voxels, so that the tests are quick."""


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    patch = pytest.MonkeyPatch()
    from roi_fusion.data.synthesis import geometry

    patch.setattr(geometry.draw_grid, "__defaults__", (60_000,))
    yield patch
    patch.undo()


@pytest.mark.parametrize(
    "knobs",
    [
        {"no_ct_share": 0.0, "no_mri_share": 0.0},
        {"no_ct_share": 1.0, "no_mri_share": 0.0},
        {"no_ct_share": 0.0, "no_mri_share": 1.0},
    ],
)
def test_the_config_makes_batches_for_the_trainer(maps: Path, small: None, knobs: dict) -> None:
    crops = pipeline(maps, **knobs)({"case": "a"})
    assert len(crops) == 8
    batch = collate_cases(crops)
    image, target, _, _ = prepare_batch(batch)
    assert tuple(image.shape) == (8, 2, 48, 48, 8)
    assert tuple(target["contrast_facts"].shape) == (8, 37)
    assert bool((image[:, 1] == 0).all()) is (knobs["no_ct_share"] == 1)
    assert bool((image[:, 0] == 0).all()) is (knobs["no_mri_share"] == 1)
    assert bool(torch.isfinite(image).all())
    if knobs["no_mri_share"]:
        assert bool((target["dense"] > 0).any())


def test_preprocessing_is_the_bundles_own() -> None:
    """From the head mask on, a painted case passes through the very transforms of an inference."""
    train, synthesis = (json.loads((BUNDLE / "configs" / f"{n}.json").read_text()) for n in ("train", "synthesis"))
    names = [t["_target_"] for t in train["preprocessing"]]
    own = train["preprocessing"][names.index("roi_fusion.data.transforms.masks.HeadMaskd") :]
    targets = [t["_target_"] if isinstance(t, dict) else t for t in synthesis["painting"]]
    painted = synthesis["painting"][targets.index(own[0]["_target_"]) :][: len(own)]
    assert len(painted) == len(own)
    for ours, theirs in zip(painted, own):
        without_keys = [{k: v for k, v in t.items() if k != "keys"} for t in (ours, theirs)]
        assert without_keys[0] == without_keys[1]


def test_a_case_is_the_same_for_the_same_state(maps: Path, small: None) -> None:
    one, two = (pipeline(maps)({"case": "a"}) for _ in range(2))
    assert torch.equal(one[0]["image"].as_tensor(), two[0]["image"].as_tensor())


def test_a_geometry_is_used_several_times_and_replaced(maps: Path, small: None) -> None:
    draw = RandDrawHeadd(str(maps), pool=3, uses=3.0)
    draw.set_random_state(0)
    seen = [id(draw({})["geometry"]) for _ in range(14)]
    assert 3 <= len(set(seen)) < 14


def test_crops_lie_where_something_is_to_be_learnt() -> None:
    interest = torch.zeros(1, 40, 40, 12, dtype=torch.uint8)
    interest[0, 30:34, 30:34, 6] = 2
    from monai.data import MetaTensor

    crop = RandCropInterestd((16, 16, 6), num_samples=6)
    crop.set_random_state(0)
    crops = crop({"interest": MetaTensor(interest), "image": MetaTensor(interest.float()), "case": "a"})
    assert all(tuple(c["image"].shape) == (1, 16, 16, 6) for c in crops)
    assert all(float(c["interest"].max()) == 2 for c in crops)


def test_shuffled_crops_come_from_several_heads() -> None:
    shuffle = ShuffleCropsd(keep=8, keys=["n"])
    shuffle.set_random_state(0)
    out = [shuffle({"n": n, "other": 1}) for n in range(40)]
    assert all(set(c) == {"n"} for c in out)
    late = [c["n"] for c in out[20:]]
    assert len(set(late)) == len(late)
    assert late != sorted(late)
    assert ShuffleCropsd(keep=0)({"n": 1}) == {"n": 1}


@pytest.mark.parametrize("shares", [{"no_ct_share": 0.8, "no_mri_share": 0.3}, {"stripped_share": 1.2}])
def test_impossible_shares_are_refused(shares: dict) -> None:
    with pytest.raises(InputError, match="synthesis: expected shares from 0 to 1"):
        RandPaintd(**shares)
    with pytest.raises(InputError, match="cases_per_epoch: expected a whole number of 1 or more, got 0"):
        draw_list(0)


def test_cases_for_validation_are_ordinary_folders(maps: Path, small: None, tmp_path: Path) -> None:
    prepare_validation(tmp_path, 2, label_maps=maps)
    assert json.loads((tmp_path / "splits.json").read_text())["val"] == ["head_000", "head_001"]
    stems = {p.name for p in (tmp_path / "head_000").iterdir()}
    assert stems == {f"{s}.nii.gz" for s in ("mri", "ct", "lesion_mask", "brain_mask", "bone_mask")}
    before = (tmp_path / "head_001" / "mri.nii.gz").stat().st_mtime_ns
    assert list(write_cases(tmp_path, 2, label_maps=maps)) == ["head_000", "head_001"]
    assert (tmp_path / "head_001" / "mri.nii.gz").stat().st_mtime_ns == before


def test_the_picture_leaves_the_transforms_as_they_were(maps: Path, small: None, tmp_path: Path) -> None:
    draw, paint = RandDrawHeadd(str(maps)), RandPaintd()
    state = draw.R
    assert write_samples(tmp_path / "samples.png", draw, paint, dots_per_inch=20).stat().st_size > 10_000
    assert draw.R is state
    assert draw.uses == 4.0
    assert np.isfinite(draw.uses)


def test_a_painted_head_is_handed_out_several_times() -> None:
    made = iter(range(10))
    repeated = RepeatedCompose([lambda d: {**d, "number": next(made)}], uses=3)
    assert [repeated({})["number"] for _ in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    with pytest.raises(InputError, match="painting_uses"):
        RepeatedCompose([], uses=0)
