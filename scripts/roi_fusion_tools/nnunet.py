# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""nnU-Net v2 (Isensee et al. 2021) as a further row of the benchmark: our cases in its format, its masks scored by our metrics.

nnU-Net itself is not needed here; it is installed and run by its own commands (``pip install "roi-fusion[nnunet]"``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import Compose

from roi_fusion.data.cases import CaseDataset, each_item, load_datalist
from roi_fusion.data.grids import spacing_of
from roi_fusion.data.io import read_volume
from roi_fusion.data.transforms.geometry import MatchGridd
from roi_fusion.data.transforms.loading import CheckVolumesd, LoadVolumesd
from roi_fusion.errors import InputError
from roi_fusion.metrics.lesion import LesionMetrics
from roi_fusion.values import write_json

__all__ = ["METHOD", "score_nnunet", "write_nnunet_dataset"]

METHOD = "nnU-Net v2"


_KEYS = ("image", "ct", "label")


def _cases(dataset_dir: str | Path, count: int | None) -> Iterator[Mapping[str, Any]]:
    """MRI, CT and lesion mask on the MRI's grid, as the files hold them."""
    loading = Compose(
        [
            LoadVolumesd(_KEYS),
            CheckVolumesd(_KEYS),
            MatchGridd(("ct", "label"), mode=("bilinear", "nearest"), padding_value=(-1024.0, 0.0)),
        ]
    )
    for item in each_item(CaseDataset(load_datalist(dataset_dir), loading, cache=False), count):
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

    Args:
        train_dir: folder of cases to train on.
        test_dir: folder of cases to predict.
        output_dir: nnU-Net's ``nnUNet_raw``.
        train_cases, cases: how many of each, the first ones; all when None.

    Returns:
        The data set's folder.

    Raises:
        InputError: when a case has no lesion mask or cannot be read.
    """
    root = Path(output_dir) / "Dataset001_RoiFusion"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True, exist_ok=True)

    def write(path: Path, volume: Any, dtype: type) -> None:
        nib.save(nib.Nifti1Image(np.asarray(volume[0]).astype(dtype), np.asarray(volume.affine)), path)

    written = 0
    for source, split, count in ((train_dir, "Tr", train_cases), (test_dir, "Ts", cases)):
        for item in _cases(source, count):
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
    return root


def score_nnunet(
    predictions_dir: str | Path, test_dir: str | Path, benchmark_dir: str | Path, cases: int | None = None
) -> list[dict[str, Any]]:
    """Score the masks that nnU-Net predicted, and keep them as rows of a benchmark of quality.

    A mask has no probability, so what judges one (calibration) is left out.

    Args:
        predictions_dir: ``<case>.nii.gz`` masks on the MRI's grid.
        test_dir: the cases that they were predicted for.
        benchmark_dir: ``--output_dir`` of ``benchmark.py quality``.
        cases: how many, the first ones; all when None.

    Raises:
        InputError: when a prediction is missing or lies on another grid.
    """
    rows = []
    for item in _cases(test_dir, cases):
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
