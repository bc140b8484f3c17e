#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""nnU-Net v2 beside ours: write the benchmark's cases in its format, and score what it predicts."""

from pathlib import Path

from _cli import main
from roi_fusion.errors import InputError
from roi_fusion_tools.nnunet import METHOD, score_nnunet, write_nnunet_dataset


def nnunet_baseline(
    action: str, benchmark_dir: str, folder: str, train_cases: int | None = None, cases: int | None = None
) -> None:
    """Prepare nnU-Net's data set, or score its masks.

    Args:
        action: prepare or score.
        benchmark_dir: --output_dir of benchmark.py quality, which holds train_cases and test_cases.
        folder: prepare: nnU-Net's nnUNet_raw; score: its predictions.
        train_cases: how many training cases; all when None.
        cases: how many test cases; all when None.
    """
    root = Path(benchmark_dir)
    if action == "prepare":
        written = write_nnunet_dataset(root / "train_cases", root / "test_cases", folder, train_cases, cases)
        print(
            f"{written}\nnow, with nnUNet_raw, nnUNet_preprocessed and nnUNet_results set:\n"
            "  nnUNetv2_plan_and_preprocess -d 1 -c 3d_fullres\n"
            f"  cp {written / 'splits_final.json'} $nnUNet_preprocessed/{written.name}/\n  nnUNetv2_train 1 3d_fullres 0\n"
            f"  nnUNetv2_predict -d 1 -c 3d_fullres -f 0 -i {written / 'imagesTs'} -o PREDICTIONS\n"
            f"  python scripts/nnunet_baseline.py score --benchmark_dir {benchmark_dir} --folder PREDICTIONS"
        )
    elif action == "score":
        rows = score_nnunet(folder, root / "test_cases", root, cases)
        print(f"{len(rows)} cases of {METHOD}; scripts/benchmark.py quality --stages shipped puts them into quality.json")
    else:
        raise InputError(f"action: expected prepare or score, got {action!r}")


if __name__ == "__main__":
    main(nnunet_baseline)
