# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Each published tree becomes prepared cases and a table by one command; the network is stood in for, but for real data."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from conftest import shared
from public_trees import TREES
from roi_fusion.data.cases import find_cases
from roi_fusion.data.splits import read_splits
from roi_fusion.errors import InputError
from roi_fusion_tools.cli import bundle
from roi_fusion_tools.cli.measure import evaluate_public
from roi_fusion_tools.phantoms.render import PhantomConfig
from roi_fusion_tools.prepare import prepare_dataset
from roi_fusion_tools.public_data import PUBLIC_SETS
from unregistered import Pair, draw_pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    config = PhantomConfig((60, 68, 14), (3.5, 3.5, 10.0))
    return draw_pair(101, "adc", config, config, np.eye(3), np.zeros(3))


def moved_reference(configs: list[str], knobs: dict[str, Any]) -> None:
    """In place of the network: the true lesion, one voxel aside; nothing where it is not known."""
    assert configs == ["inference"]
    for entry in find_cases(knobs["dataset_dir"], allow_missing=True):
        image = nib.load(entry.get("label") or entry.get("image") or entry["ct"])
        mask = np.asarray(image.dataobj) * ("label" in entry)
        folder = Path(knobs["output_dir"], entry["case"])
        folder.mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.roll(mask, 1, axis=0).astype(np.uint8), image.affine), folder / "lesion.nii.gz")


@pytest.mark.parametrize("name", TREES)
def test_each_tree_becomes_a_table_by_one_command(
    name: str, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, names, scored = TREES[name]
    write(tmp_path / "raw", pair)
    monkeypatch.setattr(bundle, "run_bundle", moved_reference)
    out = tmp_path / "out"
    evaluate_public(name, str(tmp_path / "raw"), output=str(out), num_workers=0)
    content = json.loads((out / f"{name}.json").read_text())
    rows = list(csv.DictReader((out / f"{name}.csv").open()))
    assert sorted({r["case"] for r in rows} | set(content["unscored"])) == names
    assert len({r["case"] for r in rows}) == scored
    assert content["refused"] == {}
    known = PUBLIC_SETS[name]
    assert list(content["metrics"]) == list(known.metrics)
    assert 0.3 < content["metrics"]["dice"]["mean"] < 1
    text = (out / f"{name}.md").read_text()
    assert text.startswith(f"{known.title}: {scored} case")
    assert text.strip() in capsys.readouterr().out
    files = {p.name for p in (out / "cases" / names[-1]).iterdir()}
    assert f"{known.images}.nii.gz" in files
    assert not files & ({"mri.nii.gz", "ct.nii.gz"} - {f"{known.images}.nii.gz"})
    if name == "apis":  # both radiologists count
        assert [r["rater"] for r in rows] == ["r1", "r2"]
        assert content["metrics"]["dice"]["cases"] == 1
        assert float(rows[1]["dice"]) == 1.0  # moved by as much as the second mask
    if name in ("atlas2", "isles15", "apis"):
        splits = read_splits(out / "cases")
        assert splits is not None
        assert splits["test"] == content["unscored"]


def test_a_case_that_cannot_be_read_costs_one_sentence(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TREES["isles22"][0](tmp_path / "raw", pair)
    images = tmp_path / "raw" / "ISLES-2022" / "sub-strokecase0001" / "ses-0001" / "dwi"
    (images / "sub-strokecase0001_ses-0001_adc.nii.gz").write_bytes(b"cut off")
    monkeypatch.setattr(bundle, "run_bundle", moved_reference)
    evaluate_public("isles22", str(tmp_path / "raw"), output=str(tmp_path / "out"), num_workers=0)
    content = json.loads((tmp_path / "out" / "isles22.json").read_text())
    assert list(content["refused"]) == ["sub-strokecase0001"]
    text = (tmp_path / "out" / "isles22.md").read_text()
    assert "Refused, not scored (1; a challenge counts such a case as its worst)" in text
    with pytest.raises(InputError, match=r"name: expected one of isles22, .*, got 'isles17'"):
        evaluate_public("isles17", str(tmp_path), output=str(tmp_path / "x"))


def test_prepare_takes_the_mri_alone_and_keeps_what_is_unchanged(pair: Pair, tmp_path: Path) -> None:
    TREES["isles22"][0](tmp_path / "raw", pair)
    how: dict[str, Any] = {"layout": "isles22", "num_workers": 0, "progress": False}
    record = prepare_dataset(tmp_path / "raw", tmp_path / "cases", **how)
    assert record["counts"] == {"prepared": 2, "kept": 0, "refused": 0}
    assert prepare_dataset(tmp_path / "raw", tmp_path / "cases", **how)["counts"]["kept"] == 2
    case = tmp_path / "cases" / "sub-strokecase0009"
    prepared = nib.load(case / "lesion_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(prepared.dataobj) > 0, pair.lesion)
    np.testing.assert_allclose(np.asarray(nib.load(case / "mri.nii.gz").dataobj), pair.mri, rtol=1e-6)
    assert json.loads((case / "case.json").read_text())["alone"] == "mri"
    assert "<td>–</td>" in (tmp_path / "cases" / "prepare.html").read_text()


@pytest.mark.slow
def test_a_real_case_runs_through_isles22(tmp_path: Path) -> None:
    source, name = shared("data/real/stroke_case"), "sub-strokecase0009"
    images, masks = (tmp_path / "raw" / part / name / "ses-0001" for part in ("rawdata", "derivatives"))
    for folder, kinds in ((images, {"dwi": "dwi", "adc": "adc", "flair": "flair"}), (masks, {"lesion_mask": "msk"})):
        folder.mkdir(parents=True)
        for file, ending in kinds.items():
            shutil.copyfile(source / f"{file}.nii.gz", folder / f"{name}_ses-0001_{ending}.nii.gz")
    evaluate_public("isles22", str(tmp_path / "raw" / "rawdata"), output=str(tmp_path / "out"), num_workers=0)
    content = json.loads((tmp_path / "out" / "isles22.json").read_text())
    assert [row["case"] for row in content["cases"]] == [name]
    assert 0 <= content["metrics"]["dice"]["mean"] <= 1
