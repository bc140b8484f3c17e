# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The studies of the sampler on tiny phantoms, and their parts against something independent."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from roi_fusion.core.network import RoiFusionNet
from roi_fusion.errors import InputError
from roi_fusion_tools.cli.measure import study
from roi_fusion_tools.phantoms.render import PhantomConfig
from roi_fusion_tools.phantoms.write import make_phantoms
from roi_fusion_tools.studies import POSES, STUDIES, auroc, load_study, move_ct, study_table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    make_phantoms(folder, 2, PhantomConfig(shape=(40, 44, 5), spacing_mm=(5.6, 5.2, 28.0), lesion_free_share=0.0))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = RoiFusionNet()
    with torch.no_grad():
        network.out.weight.normal_(0, 0.3)
    network.volume_quantile.fill_(1.0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("name", list(STUDIES))
def test_a_study_measures_and_writes_what_it_prints(
    name: str, data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(name, checkpoint=(str(weights),), dataset_dir=str(data), output=str(tmp_path), cases=1)
    found = json.loads((tmp_path / f"study_{name}.json").read_text())
    assert found["study"] == name
    assert {r["cases"] for r in found["rows"]} == {1}
    printed = capsys.readouterr().out
    for row in found["rows"]:
        assert f"| {row['name']} |" in printed
        for key in ("brain_ssim", "bone_ssim"):
            assert -1 <= row.get(key, 0) <= 1
    if name == "guidance":
        assert found["rows"][-1]["lesion_dice"] is None  # no head ran
        assert found["rows"][0]["time_to_unguided"] == 1
    if name == "misregistration":
        assert [(r["shift_mm"], r["angle_degrees"]) for r in found["rows"]] == [(0, 0), *POSES]
        assert len({r["bone_ssim"] for r in found["rows"]}) > 1
    if name == "seams":
        assert all(0 <= r["median_difference"] <= r["largest_difference"] for r in found["rows"])


def test_several_weights_are_rows_of_one_table(data: Path, weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(weights.read_bytes())
    study("seams", checkpoint=(str(weights), str(other)), dataset_dir=str(data), output=str(tmp_path), cases=1)
    names = [r["name"] for r in json.loads((tmp_path / "study_seams.json").read_text())["rows"]]
    assert names == ["model: unguided", "model: guided", "other: unguided", "other: guided"]


def test_bad_input_is_one_sentence(data: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"name: expected one of steps, guidance, .* got 'speed'"):
        study("speed", checkpoint=(str(weights),), dataset_dir=str(data), output=str(tmp_path))
    with pytest.raises(InputError, match="cases: expected 1 or more, got 0"):
        load_study([weights], data, 0)


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.3
    right = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    assert auroc(score, positive) == pytest.approx(np.mean(right))
    assert math.isnan(auroc(score, np.ones(60, bool)))


@pytest.mark.parametrize(("shift", "angle"), [(3.0, 0.0), (0.0, 4.0)])
def test_a_moved_ct_lies_where_it_was_asked_to_and_is_not_resampled(
    shift: float, angle: float, data: Path, tmp_path: Path
) -> None:
    for _ in range(2):  # a second call finds what the first wrote
        folder = move_ct(data, tmp_path, shift, angle)
    source, moved = data / "phantom_0001", folder / "phantom_0001"
    for name in ("ct", "bone_mask"):
        before, after = nib.load(source / f"{name}.nii.gz"), nib.load(moved / f"{name}.nii.gz")
        assert np.array_equal(np.asarray(before.dataobj), np.asarray(after.dataobj))
        pose = after.affine @ np.linalg.inv(before.affine)
        middle = before.affine @ [*((np.array(before.shape) - 1) / 2), 1]
        assert np.linalg.norm((pose @ middle - middle)[:3]) == pytest.approx(shift, abs=1e-3)
        assert np.rad2deg(np.arccos(np.clip((np.trace(pose[:3, :3]) - 1) / 2, -1, 1))) == pytest.approx(angle, abs=0.02)
    assert (moved / "mri.nii.gz").resolve() == (source / "mri.nii.gz").resolve()


def test_a_missing_value_is_a_dash() -> None:
    rows = [{"name": "a", "cases": 2, "dice": float("nan")}, {"name": "b", "cases": 2, "dice": 0.51234}]
    assert study_table(rows).splitlines()[2:] == ["| a | 2 | – |", "| b | 2 | 0.512 |"]
