# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""nnU-Net v2 (Isensee et al. 2021) as a further row of the benchmark: our cases in its format, its masks scored by our metrics.

nnU-Net itself is not needed here; it is installed and run by its own commands (``pip install "roi-fusion[nnunet]"``).
"""

from __future__ import annotations

import logging
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
from roi_fusion.data.splits import by_subject, read_splits
from roi_fusion.data.transforms.geometry import MatchGridd
from roi_fusion.data.transforms.loading import CheckVolumesd, LoadVolumesd
from roi_fusion.errors import InputError
from roi_fusion.metrics.lesion import LesionMetrics
from roi_fusion.values import write_json

__all__ = ["METHOD", "export_dataset", "score_nnunet", "write_nnunet_dataset"]

METHOD = "nnU-Net v2"


_KEYS = ("image", "ct", "label")
#: What nnU-Net calls the channels.
_NAMES = {"image": "MRI", "ct": "CT"}

logger = logging.getLogger(__name__)


def _cases(
    cases: Sequence[Mapping[str, str]], channels: Sequence[str] = _KEYS[:2], *, known: bool = True
) -> Iterator[Mapping[str, Any]]:
    """The images and the lesion mask on the grid of the first image, as the files hold them; `known`: each has a mask."""
    keys, moved = (*channels, "label"), (*channels[1:], "label")
    fill = {"ct": ("bilinear", -1024.0), "label": ("nearest", 0.0)}
    modes, padding = zip(*(fill[k] for k in moved))
    onto_one_grid = MatchGridd(moved, mode=modes, padding_value=padding, reference_key=channels[0])
    loading = Compose([LoadVolumesd(keys), CheckVolumesd(keys), onto_one_grid])
    for item in each_item(CaseDataset([dict(c) for c in cases], loading, cache=False)):
        if known and "label" not in item:
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
        InputError: when a case to train on has no lesion mask, one cannot be read, or a patient stands in both folders.
    """
    train, test = (load_datalist(d)[:n] for d, n in ((train_dir, train_cases), (test_dir, cases)))
    return _write_dataset(train, test, output_dir, _KEYS[:2])


def export_dataset(dataset_dir: str | Path, output_dir: str | Path) -> Path:
    """Write a folder of prepared cases as ``<output_dir>/Dataset001_RoiFusion``; the test split of it stands in ``imagesTs``.

    Cases of one image have that one channel. Cases without a lesion mask are left out of training with a warning.

    Args:
        dataset_dir: folder of cases with ``splits.json``, or without: then all cases are to train on.
        output_dir: nnU-Net's ``nnUNet_raw``.

    Returns:
        The data set's folder.

    Raises:
        InputError: when no case has a lesion mask, or some have both images and some one.
    """
    cases = load_datalist(dataset_dir, allow_missing=True)
    splits = read_splits(Path(dataset_dir)) or {}
    tested = {*splits.get("test", [])}
    unknown = [c["case"] for c in cases if "label" not in c and c["case"] not in tested]
    if unknown:
        logger.warning("%s: left out, as the lesion is not known: %s", dataset_dir, ", ".join(unknown[:5]))
    train = [c for c in cases if "label" in c and c["case"] not in tested]
    if not train:
        raise InputError(f"{dataset_dir}: expected at least one case with a lesion_mask outside of the test split, got none")
    return _write_dataset(train, [c for c in cases if c["case"] in tested], output_dir, _channels(cases))


def _channels(cases: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """The images that all cases have; nnU-Net takes no case with fewer channels than another."""
    kinds = {tuple(k for k in _KEYS[:2] if k in c): c["case"] for c in cases}
    if len(kinds) > 1:
        told = "; ".join(f"{case} has {' and '.join(_NAMES[k] for k in keys) or 'none'}" for keys, case in kinds.items())
        raise InputError(f"dataset_dir: expected cases with the same images, got different ones: {told}")
    return next(iter(kinds))


def _write_dataset(
    train: Sequence[Mapping[str, str]], test: Sequence[Mapping[str, str]], output_dir: str | Path, channels: Sequence[str]
) -> Path:
    _check_patients(train, test)
    root = Path(output_dir) / "Dataset001_RoiFusion"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True, exist_ok=True)

    def write(path: Path, volume: Any, dtype: type) -> None:
        nib.save(nib.Nifti1Image(np.asarray(volume[0]).astype(dtype), np.asarray(volume.affine)), path)

    written = 0
    for source, split in ((train, "Tr"), (test, "Ts")):
        for item in _cases(source, channels, known=split == "Tr"):
            for channel, key in enumerate(channels):
                write(root / f"images{split}" / f"{item['case']}_{channel:04d}.nii.gz", item[key], np.float32)
            if split == "Tr":
                write(root / "labelsTr" / f"{item['case']}.nii.gz", item["label"], np.uint8)
                written += 1
    write_json(
        root / "dataset.json",
        {
            "channel_names": {str(n): _NAMES[key] for n, key in enumerate(channels)},
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
