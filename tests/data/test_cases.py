# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import shutil
import weakref
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandShiftIntensityd, Transform
from torch.utils.data import DataLoader

from roi_fusion.data.cases import CaseDataset, collate_cases, find_cases, inference_datalist, load_datalist
from roi_fusion.data.transforms.loading import CheckVolumesd, CompleteCased, LoadVolumesd
from roi_fusion.errors import InputError
from roi_fusion.values import write_json

KEYS = ("image", "ct", "label", "brain", "bone")


def fake_case(folder: Path, lesion_voxels: int = 3, **extra: np.ndarray) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(lesion_voxels)
    ct = np.full((10, 10, 3), -1000, np.int16)
    ct[2:8, 2:8] = rng.integers(20, 1000, (6, 6, 3))
    lesion = np.zeros((10, 10, 3), np.uint8)
    lesion.ravel()[:lesion_voxels] = 1
    volumes = {"mri": rng.random((10, 10, 3)).astype(np.float32), "ct": ct, "lesion_mask": lesion, **extra}
    for stem, array in volumes.items():
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{stem}.nii.gz")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for n in range(10):
        fake_case(tmp_path / f"c{n:02d}", lesion_voxels=10 * n)
    return tmp_path


def loading(*more) -> Compose:
    return Compose(
        [
            CompleteCased(),
            LoadVolumesd(KEYS),
            CheckVolumesd(KEYS),
            *more,
        ]
    )


def test_cases_are_found_with_what_they_have(dataset: Path) -> None:
    (dataset / "c03" / "lesion_mask.nii.gz").unlink()
    (dataset / "notes").mkdir()
    (dataset / "dataset.json").write_text("{}")
    cases = find_cases(dataset)
    assert [c["case"] for c in cases] == [f"c{n:02d}" for n in range(10)]
    assert set(cases[0]) == {"case", "folder", "image", "ct", "label"}
    assert "label" not in cases[3]


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dataset_dir: expected a folder of cases, found no folder"):
        find_cases(tmp_path / "none")
    with pytest.raises(InputError, match=r"with mri\.nii\.gz and ct\.nii\.gz, found 0 folders"):
        find_cases(tmp_path)


def test_cases_in_no_part_are_named_once(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(dataset / "splits.json", {"train": ["c01", "c02"], "val": ["c03"], "test": ["c77"]})
    for part in ("train", "val", "test"):
        load_datalist(dataset, part)
    (said,) = [r.getMessage() for r in caplog.records if r.name == "roi_fusion.data.cases"]
    assert said == f"{dataset}: 7 of 10 cases stand in no part of the splits and are left out: c00, c04, c05, …"
    caplog.clear()
    write_json(dataset / "splits.json", {"train": [f"c{n:02d}" for n in range(1, 10)], "val": ["c77"]})
    load_datalist(dataset, "train")
    assert caplog.messages == [f"{dataset}: 1 of 10 cases stand in no part of the splits and are left out: c00"]
    caplog.clear()
    (dataset / "splits.json").unlink()
    load_datalist(dataset, "train")
    assert not caplog.messages


def break_cases(dataset: Path) -> dict[str, str]:
    """Spoil five cases; returns what each sentence must say."""
    (dataset / "c00" / "ct.nii.gz").unlink()
    data = (dataset / "c01" / "mri.nii.gz").read_bytes()
    (dataset / "c01" / "mri.nii.gz").write_bytes(data[: len(data) // 2])
    (dataset / "c02" / "ct.nii.gz").write_text("this is no volume")
    mri = np.asarray(nib.load(dataset / "c03" / "mri.nii.gz").dataobj).copy()
    mri[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(mri, np.eye(4)), dataset / "c03" / "mri.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 2, 3), np.float32), np.eye(4)), dataset / "c04" / "mri.nii.gz")
    return {
        "c00": "expected its CT at",
        "c01": "mri.nii.gz: expected a readable volume",
        "c02": "ct.nii.gz: expected a readable volume",
        "c03": "mri.nii.gz: expected finite values",
        "c04": "mri.nii.gz: expected a 3-D volume, got shape [4, 4, 2, 3]",
    }


def test_a_bad_case_never_stops_the_others_in_training(dataset: Path) -> None:
    expected = break_cases(dataset)
    found = CaseDataset(load_datalist(dataset), loading(RandShiftIntensityd("image", 1.0, prob=1.0)))
    assert len(found) == 5
    assert [found[i]["case"] for i in range(5)] == ["c05", "c06", "c07", "c08", "c09"]
    assert set(found.errors) == set(expected)
    for case, sentence in expected.items():
        assert sentence in found.errors[case]
        assert "\n" not in found.errors[case]


def test_a_bad_case_never_stops_the_others_in_inference(dataset: Path) -> None:
    expected = break_cases(dataset)
    found = CaseDataset(load_datalist(dataset), loading(), cache=False)
    assert not found.errors  # nothing is loaded yet
    batches = [collate_cases([found[i]]) for i in range(len(found))]
    assert ["image" in b for b in batches] == [False] * 5 + [True] * 5
    assert set(found.errors) == set(expected)
    loader = DataLoader(found, batch_size=1, num_workers=1, collate_fn=collate_cases)
    told = {k: v for batch in loader for k, v in batch.get("refused", {}).items()}
    assert told == found.errors  # a worker has its own copy of the data set: the sentences come with the batches


def test_a_name_without_a_folder_is_refused_and_not_lost(dataset: Path) -> None:
    write_json(dataset / "splits.json", {"train": ["c01", "c77"], "val": ["c02"], "test": ["c03"]})
    found = CaseDataset(load_datalist(dataset, "train"), loading())
    assert len(found) == 1
    assert "c77: expected mri.nii.gz and ct.nii.gz" in found.errors["c77"]


def test_no_usable_case_at_all_is_one_sentence(dataset: Path) -> None:
    for n in range(10):
        (dataset / f"c{n:02d}" / "mri.nii.gz").write_text("broken")
    with pytest.raises(InputError, match="expected at least one usable case, got none"):
        CaseDataset(load_datalist(dataset), loading())


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_any_cache_rate_gives_the_same_cases(dataset: Path, rate: float) -> None:
    break_cases(dataset)
    found = CaseDataset(load_datalist(dataset), loading(), cache_rate=rate)
    assert [found[i]["case"] for i in range(len(found))] == ["c05", "c06", "c07", "c08", "c09"]


class CountImages(Transform):
    """Notes how many images lived at once."""

    def __init__(self) -> None:
        self.images: list[weakref.ref] = []
        self.most = 0

    def __call__(self, data: dict) -> dict:
        self.images.append(weakref.ref(data["image"]))
        self.most = max(self.most, sum(image() is not None for image in self.images))
        return data


def test_screening_a_large_data_set_keeps_no_more_in_memory_than_the_cache(dataset: Path) -> None:
    count = CountImages()
    found = CaseDataset(load_datalist(dataset), loading(count), cache_rate=0.3, num_workers=0)
    assert len(count.images) == len(found) == 10
    assert len(found.loaded) == 3
    assert count.most <= 4  # those of the cache and the one that is being read


def test_random_transforms_leave_the_cache_alone(small_dataset: Path) -> None:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config("bundle/configs/train.json" if Path("bundle").is_dir() else "configs/train.json")
    parser.update(
        {"dataset_dir": str(small_dataset), "patch_size": [64, 64, 8], "train#dataset#data": load_datalist(small_dataset)}
    )
    found = parser.get_parsed_content("train#dataset")
    before = [
        {k: (v.clone(), len(v.applied_operations)) for k, v in c.items() if hasattr(v, "applied_operations")}
        for c in found._cache
    ]
    for _ in range(3):
        batch = [found[i] for i in range(len(found))]
    for case, old in zip(found._cache, before):
        for key, (values, operations) in old.items():
            assert torch.equal(case[key], values), key
            assert len(case[key].applied_operations) == operations, key
    assert collate_cases(batch)["image"].shape == (3, 2, 64, 64, 8)


def test_a_single_pair_and_its_faults(dataset: Path) -> None:
    mri, ct = (str(dataset / "c01" / f"{n}.nii.gz") for n in ("mri", "ct"))
    assert inference_datalist("unused", mri=mri, ct=ct) == [{"image": mri, "ct": ct}]
    assert inference_datalist("unused", mri=mri) == [{"image": mri}]
    assert inference_datalist("unused", ct=ct) == [{"ct": ct}]
    with pytest.raises(InputError, match=r"x\.nii\.gz: expected a volume, found no such file"):
        inference_datalist("unused", mri="x.nii.gz", ct=ct)
    shutil.rmtree(dataset / "c01")
    assert len(inference_datalist(dataset)) == 9
