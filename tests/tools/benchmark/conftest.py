# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""One run of the benchmark for all tests of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import roi_fusion_tools.benchmark.networks as benchmark_networks
import roi_fusion_tools.benchmark.quality as benchmark
from roi_fusion_tools.benchmark.quality import run_quality
from short_benchmark import tiny_options


@pytest.fixture(scope="session")
def finished(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmark")
    for name in ("train_cases", "registered_cases", "test_cases"):
        shutil.copytree(small_dataset, root / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_networks, "PATCH_SIZE", (32, 32, 8))
        patch.setattr(benchmark, "_CROP", (32, 32, 8))
        run_quality(tiny_options(root))
    return root
