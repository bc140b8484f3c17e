# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""nnU-Net v2 (Isensee et al. 2021) as a further row of the benchmark: our cases in its format, its masks scored by our metrics.

nnU-Net itself is not needed here; it is installed and run by its own commands (``pip install "roi-fusion[nnunet]"``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import Compose

from roi_fusion.data.cases import CaseDataset, each_item, load_datalist
from roi_fusion.data.grids import spacing_of
from roi_fusion.data.io import read_volume
from roi_fusion.data.splits import by_subject
from roi_fusion.data.transforms.geometry import MatchGridd
from roi_fusion.data.transforms.loading import CheckVolumesd, LoadVolumesd
from roi_fusion.errors import InputError
from roi_fusion.metrics.lesion import LesionMetrics
from roi_fusion.values import write_json

__all__ = ["METHOD", "score_nnunet", "write_nnunet_dataset"]

METHOD = "nnU-Net v2"


_KEYS = ("image", "ct", "label")


def _cases(cases: Sequence[Mapping[str, str]]) -> Iterator[Mapping[str, Any]]:
    """MRI, CT and lesion mask on the MRI's grid, as the files hold them."""
    loading = Compose(
        [
            LoadVolumesd(_KEYS),
            CheckVolumesd(_KEYS),
            MatchGridd(("ct", "label"), mode=("bilinear", "nearest"), padding_value=(-1024.0, 0.0)),
        ]
    )
    for item in each_item(CaseDataset([dict(c) for c in cases], loading, cache=False)):
        if "label" not in item:
            raise InputError(f"{item['case']}: expected a lesion_mask, there is none")
        yield item


def write_nnunet_dataset(
    train_dir: str | Path,
    test_dir: str | Path,
    output_dir: str | Path,
    train_cases: int | None = None,
    cases: int | None = None,
) -> Path:
    """Write ``<output_dir>/Dataset001_RoiFusion`` in nnU-Net's raw format: MRI as channel 0, CT on the MRI's grid as channel 1.

    ``splits_final.json`` beside them holds the folds by patient: nnU-Net reads it in its folder of preprocessed data.

    Args:
        train_dir: folder of cases to train on.
        test_dir: folder of cases to predict.
        output_dir: nnU-Net's ``nnUNet_raw``.
        train_cases, cases: how many of each, the first ones; all when None.

    Returns:
        The data set's folder.

    Raises:
        InputError: when a case has no lesion mask or cannot be read, or a patient stands in both folders.
    """
    train, test = (load_datalist(d)[:n] for d, n in ((train_dir, train_cases), (test_dir, cases)))
    _check_patients(train, test)
    root = Path(output_dir) / "Dataset001_RoiFusion"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True, exist_ok=True)

    def write(path: Path, volume: Any, dtype: type) -> None:
        nib.save(nib.Nifti1Image(np.asarray(volume[0]).astype(dtype), np.asarray(volume.affine)), path)

    written = 0
    for source, split in ((train, "Tr"), (test, "Ts")):
        for item in _cases(source):
            for channel, key in enumerate(("image", "ct")):
                write(root / f"images{split}" / f"{item['case']}_{channel:04d}.nii.gz", item[key], np.float32)
            if split == "Tr":
                write(root / "labelsTr" / f"{item['case']}.nii.gz", item["label"], np.uint8)
                written += 1
    write_json(
        root / "dataset.json",
        {
            "channel_names": {"0": "MRI", "1": "CT"},
            "labels": {"background": 0, "lesion": 1},
            "numTraining": written,
            "file_ending": ".nii.gz",
        },
    )
    write_json(root / "splits_final.json", _folds(train))
    return root


def _check_patients(train: Sequence[Mapping[str, str]], test: Sequence[Mapping[str, str]]) -> None:
    """Refuse a patient in both; a name alone tells none, as two folders of phantoms have equal ones."""

    def known(cases: Sequence[Mapping[str, str]]) -> dict[str, str]:
        found = {subject: cases[group[0]]["case"] for subject, group in by_subject(cases).items()}
        return {subject: case for subject, case in found.items() if subject != case or case.startswith("sub-")}

    trained, tested = known(train), known(test)
    for subject in sorted(set(trained) & set(tested)):
        both = f"{subject} in both ({tested[subject]}, {trained[subject]})"
        raise InputError(f"test_dir: expected patients that are not in train_dir, got {both}")


def _folds(cases: Sequence[Mapping[str, str]], count: int = 5) -> list[dict[str, list[str]]]:
    """nnU-Net's cross-validation, by patient: its own would spread the cases of one over the folds.

    Returns:
        ``[{"train": [...], "val": [...]}]``, `count` of them, or one for each patient where there are fewer.
    """
    groups = list(by_subject(cases).values())
    groups = [groups[i] for i in np.random.default_rng(12345).permutation(len(groups))]
    folds: list[list[str]] = [[] for _ in range(min(count, len(groups)))]
    for group in sorted(groups, key=len, reverse=True):
        min(folds, key=len).extend(cases[i]["case"] for i in group)
    names = sorted(c["case"] for c in cases)
    return [{"train": [n for n in names if n not in fold], "val": sorted(fold)} for fold in folds]


def score_nnunet(
    predictions_dir: str | Path, test_dir: str | Path, benchmark_dir: str | Path, cases: int | None = None
) -> list[dict[str, Any]]:
    """Score the masks that nnU-Net predicted, and keep them as rows of a benchmark of quality.

    A mask has no probability, so what judges one (calibration) is left out.

    Args:
        predictions_dir: ``<case>.nii.gz`` masks on the MRI's grid.
        test_dir: the cases that they were predicted for.
        benchmark_dir: ``--output`` of ``roi-fusion benchmark quality``.
        cases: how many, the first ones; all when None.

    Raises:
        InputError: when a prediction is missing or lies on another grid.
    """
    rows = []
    for item in _cases(load_datalist(test_dir)[:cases]):
        file = Path(predictions_dir) / f"{item['case']}.nii.gz"
        if not file.is_file():
            raise InputError(f"{file}: expected the mask predicted for {item['case']}, there is none")
        found = read_volume(file, as_stored=True).array > 0
        if found.shape != item["label"].shape[1:]:
            raise InputError(f"{file}: expected the grid {tuple(item['label'].shape[1:])} of the MRI, got {found.shape}")
        scores = LesionMetrics()(torch.from_numpy(found[None]).float(), item["label"], spacing_mm=spacing_of(item["image"]))
        kept = {k: v for k, v in scores.items() if k not in ("lesion_ece", "lesion_brier")}
        rows.append({"case": str(item["case"]), "method": METHOD, **kept})
        write_json(Path(benchmark_dir) / "rows" / METHOD / f"{item['case']}.json", rows[-1:])
    return rows
