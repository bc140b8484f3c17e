# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from roi_fusion.data.cases import find_cases, load_datalist
from roi_fusion.data.splits import PARTS, hold_back, make_splits, subject_of
from roi_fusion.errors import InputError
from roi_fusion.values import write_json


def fake_case(folder: Path, lesion_voxels: int = 3, subject: str | None = None) -> None:
    """A case whose MRI and CT are empty files: splits read the lesion mask alone."""
    folder.mkdir(parents=True)
    lesion = np.zeros((10, 10, 3), np.uint8)
    lesion.ravel()[:lesion_voxels] = 1
    nib.save(nib.Nifti1Image(lesion, np.eye(4)), folder / "lesion_mask.nii.gz")
    for stem in ("mri", "ct"):
        (folder / f"{stem}.nii.gz").touch()
    if subject is not None:
        write_json(folder / "case.json", {"case": folder.name, "subject": subject})


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for n in range(10):
        fake_case(tmp_path / f"c{n:02d}", lesion_voxels=10 * n)
    return tmp_path


def test_splits_are_made_once_seeded_and_spread_over_lesion_volumes(tmp_path: Path) -> None:
    for n in range(40):
        fake_case(tmp_path / f"c{n:02d}", lesion_voxels=7 * n)
    parts = {s: [c["case"] for c in load_datalist(tmp_path, s, seed=1)] for s in ("train", "val", "test")}
    assert [len(v) for v in parts.values()] == [28, 6, 6]
    assert not set(parts["train"]) & set(parts["val"] + parts["test"])
    volumes = {s: np.array([int(c[1:]) for c in v]) for s, v in parts.items()}
    assert all(v.min() < 14 and v.max() > 25 for v in volumes.values())
    assert json.loads((tmp_path / "splits.json").read_text()) == parts
    again = make_splits(find_cases(tmp_path), seed=1)
    assert again == parts
    assert make_splits(find_cases(tmp_path), seed=2) != parts
    assert [c["case"] for c in load_datalist(tmp_path, "val", seed=99)] == parts["val"]  # the file stays


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
def test_small_data_sets_fill_every_part_they_can(count: int, tmp_path: Path) -> None:
    for n in range(count):
        fake_case(tmp_path / f"c{n}")
    splits = make_splits(find_cases(tmp_path))
    assert sum(map(len, splits.values())) == count
    assert len(splits["train"]) >= 1
    if count >= 3:
        assert all(splits.values())


def test_text_splits_are_read(dataset: Path) -> None:
    (dataset / "splits").mkdir()
    (dataset / "splits" / "train.txt").write_text("c01\nc02\n")
    (dataset / "splits" / "val.txt").write_text("c03\n")
    assert [c["case"] for c in load_datalist(dataset, "train")] == ["c01", "c02"]
    with pytest.raises(InputError, match="at least one case in the test split, got 10 cases and none in it"):
        load_datalist(dataset, "test")
    with pytest.raises(InputError, match="split: expected train, val or test, got 'dev'"):
        load_datalist(dataset, "dev")


def test_a_broken_splits_file_is_refused(dataset: Path) -> None:
    (dataset / "splits.json").write_text("[1, 2")
    with pytest.raises(InputError, match=r"splits\.json: expected"):
        load_datalist(dataset, "train")
    (dataset / "splits.json").write_text('{"train": "all"}')
    with pytest.raises(InputError, match=r"splits\.json: expected"):
        load_datalist(dataset, "train")


def test_a_case_in_two_parts_is_refused(dataset: Path) -> None:
    (dataset / "splits").mkdir()
    for part, names in (("train", "c01\nc02\n"), ("val", "c03\n"), ("test", "c04\nc01\n")):
        (dataset / "splits" / f"{part}.txt").write_text(names)
    with pytest.raises(InputError, match=r"splits/test\.txt: expected each case in one part, got c01 in train and in test"):
        load_datalist(dataset, "val")
    write_json(dataset / "splits.json", {"train": ["c01", "c02"], "val": ["c02"], "test": ["c03"]})
    for part in ("train", "val", "test"):
        with pytest.raises(InputError, match=r"splits\.json: expected each case in one part, got c02 in train and in val"):
            load_datalist(dataset, part)


def test_the_subject_of_a_case(tmp_path: Path) -> None:
    fake_case(tmp_path / "sub-01_ses-1", subject="sub-9")
    assert subject_of("sub-01_ses-1", tmp_path / "sub-01_ses-1") == "sub-9"
    for broken in ("[1]", "{", '{"subject": 3}', '{"subject": ""}'):
        (tmp_path / "sub-01_ses-1" / "case.json").write_text(broken)
        assert subject_of("sub-01_ses-1", tmp_path / "sub-01_ses-1") == "sub-01"
    assert subject_of("sub-01") == "sub-01"
    assert subject_of("subject_1") == "subject_1"


@pytest.mark.parametrize("known_by", ["name", "case.json"])
def test_all_cases_of_a_patient_stand_in_one_part(known_by: str, tmp_path: Path) -> None:
    """Eighteen patients with one to three sessions, whose lesions differ in volume: what used to spread them over the parts."""
    rng, patient_of = np.random.default_rng(0), {}
    for n in range(18):
        for session in range(1 + n % 3):
            name = f"sub-{n:02d}_ses-{session}" if known_by == "name" else f"scan{len(patient_of):03d}"
            fake_case(tmp_path / name, int(rng.integers(300)), subject=None if known_by == "name" else f"p{n}")
            patient_of[name] = n
    for seed in range(5):
        splits = make_splits(find_cases(tmp_path), seed)
        patients = {part: {patient_of[c] for c in splits[part]} for part in PARTS}
        assert sum(map(len, patients.values())) == 18
        assert sorted(c for part in PARTS for c in splits[part]) == sorted(patient_of)
        assert 22 <= len(splits["train"]) <= 28
        assert len(splits["val"]) >= 3
        assert len(splits["test"]) >= 3


def test_one_patient_alone_is_not_spread(tmp_path: Path) -> None:
    for session in range(5):
        fake_case(tmp_path / f"sub-01_ses-{session}")
    assert [len(v) for v in make_splits(find_cases(tmp_path)).values()] == [5, 0, 0]
    with pytest.raises(InputError, match="val split, got 5 cases of 1 patient and none in it"):
        load_datalist(tmp_path, "val")


@pytest.mark.parametrize("kind", ["json", "txt"])
def test_a_patient_in_two_parts_is_refused(kind: str, tmp_path: Path) -> None:
    for name in ("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"):
        fake_case(tmp_path / name)
    parts = {"train": ["sub-01_ses-1"], "val": ["sub-02_ses-1"], "test": ["sub-01_ses-2"]}
    if kind == "json":
        write_json(tmp_path / "splits.json", parts)
    else:
        (tmp_path / "splits").mkdir()
        for part, names in parts.items():
            (tmp_path / "splits" / f"{part}.txt").write_text("\n".join(names))
    sentence = r"expected each patient in one part, got sub-01 in train \(sub-01_ses-1\) and in test \(sub-01_ses-2\)"
    for part in PARTS:
        with pytest.raises(InputError, match=sentence):
            load_datalist(tmp_path, part)
    assert len(load_datalist(tmp_path)) == 3  # all cases go without a split


def test_whole_patients_are_held_back() -> None:
    cases = [{"case": c} for c in ("a", "sub-1_ses-1", "sub-1_ses-2", "sub-2", "sub-1_ses-3")]
    assert hold_back(cases, 0) == ([0, 1, 2, 3, 4], [])
    assert hold_back(cases, 1) == ([0, 1, 2, 4], [3])
    assert hold_back(cases, 2) == ([0], [1, 2, 3, 4])
    assert hold_back(cases, 9) == ([0], [1, 2, 3, 4])
    assert hold_back(cases[1:3], 1) == ([0, 1], [])  # of one patient
    alone = [{"case": f"c{n}"} for n in range(5)]
    assert hold_back(alone, 2) == ([0, 1, 2], [3, 4])
