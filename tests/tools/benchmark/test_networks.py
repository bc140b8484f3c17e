# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from roi_fusion.errors import InputError
from roi_fusion_tools.benchmark.quality import run_quality
from short_benchmark import tiny_options


def test_ablations_want_the_training_of_ours_first(small_dataset: Path, tmp_path: Path) -> None:
    for name in ("train_cases", "test_cases"):
        shutil.copytree(small_dataset, tmp_path / name)
    with pytest.raises(InputError, match=r"ours\.json: expected the training of ours"):
        run_quality(replace(tiny_options(tmp_path), networks=("no_gate",)), ["train"])
