# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The benchmark's cases in nnU-Net's format, and its masks as rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from roi_fusion.errors import InputError
from roi_fusion_tools.cli.measure import nnunet
from roi_fusion_tools.nnunet import METHOD, export_dataset, score_nnunet, write_nnunet_dataset
from roi_fusion_tools.phantoms.render import PhantomConfig
from roi_fusion_tools.phantoms.write import make_phantoms


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    config = PhantomConfig(shape=(40, 44, 8), spacing_mm=(5.6, 5.2, 18.0), lesion_free_share=0.0)
    make_phantoms(root / "train_cases", 2, config, seed=1)
    make_phantoms(root / "test_cases", 2, config, seed=2)
    # a CT on a grid of its own, as it comes from another scanner
    file = root / "train_cases" / "phantom_0001" / "ct.nii.gz"
    ct = nib.load(file)
    nib.save(nib.Nifti1Image(np.asarray(ct.dataobj)[::2], ct.affine @ np.diag([2, 1, 1, 1])), file)
    return root


def test_channels_share_a_grid_and_the_record_is_nnunets(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nnunet("prepare", benchmark_dir=str(bench), folder=str(tmp_path))
    root = tmp_path / "Dataset001_RoiFusion"
    assert f"nnUNetv2_train 1 3d_fullres 0\n  nnUNetv2_predict -d 1 -c 3d_fullres -f 0 -i {root}" in capsys.readouterr().out
    record = json.loads((root / "dataset.json").read_text())
    assert record["numTraining"] == len(list((root / "labelsTr").iterdir())) == 2
    assert record["labels"] == {"background": 0, "lesion": 1}
    assert len(list((root / "imagesTr").iterdir())) == len(list((root / "imagesTs").iterdir())) == 4
    for name in ("phantom_0000", "phantom_0001"):
        mri, ct = (nib.load(root / "imagesTr" / f"{name}_000{k}.nii.gz") for k in (0, 1))
        label = nib.load(root / "labelsTr" / f"{name}.nii.gz")
        source = bench / "train_cases" / name
        assert mri.shape == ct.shape == label.shape
        np.testing.assert_allclose(mri.affine, ct.affine)
        np.testing.assert_array_equal(np.asarray(mri.dataobj), np.asarray(nib.load(source / "mri.nii.gz").dataobj))
        np.testing.assert_array_equal(np.asarray(label.dataobj), np.asarray(nib.load(source / "lesion_mask.nii.gz").dataobj))
        assert np.asarray(ct.dataobj).max() > 500  # HU


def test_patients_stand_in_one_fold_and_not_in_the_test_set_too(tmp_path: Path) -> None:
    config = PhantomConfig(shape=(40, 44, 8), spacing_mm=(5.6, 5.2, 18.0), lesion_free_share=0.0)
    make_phantoms(tmp_path / "drawn", 1, config, seed=1)
    names = [f"sub-{n}_ses-{s}" for n in range(7) for s in range(1 + n % 2)]
    for name in names:
        shutil.copytree(tmp_path / "drawn" / "phantom_0000", tmp_path / "train" / name)
    for name in ("sub-8", "sub-9"):
        shutil.copytree(tmp_path / "drawn" / "phantom_0000", tmp_path / "test" / name)
    folds = json.loads(
        (write_nnunet_dataset(tmp_path / "train", tmp_path / "test", tmp_path) / "splits_final.json").read_text()
    )
    assert len(folds) == 5
    assert sorted(n for f in folds for n in f["val"]) == names
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == names
        assert not {n[:5] for n in fold["train"]} & {n[:5] for n in fold["val"]}
    (tmp_path / "test" / "sub-9").rename(tmp_path / "test" / "sub-3_ses-9")
    with pytest.raises(InputError, match=r"patients that are not in train_dir, got sub-3 in both \(sub-3_ses-9, sub-3_ses-0\)"):
        write_nnunet_dataset(tmp_path / "train", tmp_path / "test", tmp_path)


def test_perfect_masks_score_one_and_become_rows(bench: Path, tmp_path: Path) -> None:
    for case in (bench / "test_cases").glob("phantom_*"):
        (tmp_path / f"{case.name}.nii.gz").write_bytes((case / "lesion_mask.nii.gz").read_bytes())
    nnunet("score", benchmark_dir=str(bench), folder=str(tmp_path))
    for case in ("phantom_0000", "phantom_0001"):
        (row,) = json.loads((bench / "rows" / METHOD / f"{case}.json").read_text())
        assert (row["lesion_dice"], row["lesion_nsd_2mm"], row["lesion_hd95_mm"]) == (1, 1, 0)
        assert "lesion_ece" not in row


def test_what_is_missing_or_lies_elsewhere_is_refused(bench: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"phantom_0000.nii.gz: expected the mask predicted for phantom_0000, there is none"):
        score_nnunet(tmp_path, bench / "test_cases", tmp_path)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "phantom_0000.nii.gz")
    with pytest.raises(InputError, match=r"expected the grid \(40, 44, 8\) of the MRI, got \(4, 4, 4\)"):
        score_nnunet(tmp_path, bench / "test_cases", tmp_path)
    make_phantoms(tmp_path / "d", 1, PhantomConfig(shape=(40, 44, 5), spacing_mm=(5.6, 5.2, 28.0)))
    (tmp_path / "d" / "phantom_0000" / "lesion_mask.nii.gz").unlink()
    with pytest.raises(InputError, match="phantom_0000: expected a lesion_mask, there is none"):
        write_nnunet_dataset(tmp_path / "d", tmp_path / "d", tmp_path / "raw")
    with pytest.raises(InputError, match="action: expected prepare or score, got 'train'"):
        nnunet("train", benchmark_dir=str(bench), folder=str(tmp_path))


def test_a_prepared_set_is_exported_by_its_splits(bench: Path, tmp_path: Path) -> None:
    cases = tmp_path / "cases"
    shutil.copytree(bench / "test_cases", cases)
    (cases / "splits.json").write_text(json.dumps({"train": ["phantom_0000"], "val": [], "test": ["phantom_0001"]}))
    (cases / "phantom_0001" / "lesion_mask.nii.gz").unlink()  # hidden, as those of a challenge
    root = export_dataset(cases, tmp_path / "raw")
    written = {d: sorted(p.name for p in (root / d).iterdir()) for d in ("imagesTr", "labelsTr", "imagesTs")}
    assert written == {
        "imagesTr": ["phantom_0000_0000.nii.gz", "phantom_0000_0001.nii.gz"],
        "labelsTr": ["phantom_0000.nii.gz"],
        "imagesTs": ["phantom_0001_0000.nii.gz", "phantom_0001_0001.nii.gz"],
    }
    record = json.loads((root / "dataset.json").read_text())
    assert (record["numTraining"], record["channel_names"]) == (1, {"0": "MRI", "1": "CT"})


def test_cases_of_one_image_have_one_channel_and_none_are_mixed(bench: Path, tmp_path: Path) -> None:
    cases = tmp_path / "cases"
    shutil.copytree(bench / "train_cases", cases)
    (cases / "phantom_0000" / "mri.nii.gz").unlink()
    with pytest.raises(
        InputError, match="expected cases with the same images, got different ones: phantom_0000 has CT; phantom_0"
    ):
        export_dataset(cases, tmp_path / "raw")
    (cases / "phantom_0001" / "mri.nii.gz").unlink()
    shutil.rmtree(cases / "phantom_0001")
    mask = cases / "phantom_0000" / "lesion_mask.nii.gz"
    root = export_dataset(cases, tmp_path / "raw")
    assert [p.name for p in (root / "imagesTr").iterdir()] == ["phantom_0000_0000.nii.gz"]
    assert json.loads((root / "dataset.json").read_text())["channel_names"] == {"0": "CT"}
    label = nib.load(root / "labelsTr" / "phantom_0000.nii.gz")
    np.testing.assert_array_equal(np.asarray(label.dataobj), np.asarray(nib.load(mask).dataobj))
    mask.unlink()
    with pytest.raises(InputError, match="expected at least one case with a lesion_mask outside of the test split, got none"):
        export_dataset(cases, tmp_path / "raw")
