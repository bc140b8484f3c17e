# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The commands run the bundle's own configs, and texts are data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import BUNDLE
from helpers import pair_of
from in_process import run_bundle as run_monai
from in_process import run_cli
from roi_fusion_tools.cli import bundle


@pytest.fixture(scope="module")
def case(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One pair in a folder whose name would be code to a config."""
    folder = tmp_path_factory.mktemp("data") / "$1+1" / "a"
    folder.mkdir(parents=True)
    for file in pair_of(tiny_dataset):
        shutil.copy(file, folder)
    return folder


def test_predict_is_what_monai_runs_and_takes_paths_as_typed(case: Path, tmp_path: Path) -> None:
    mri, ct = pair_of(case.parent, case.name)
    how = ["--num_samples", "1", "--num_inference_steps", "2", "--plausibility", "off", "--precision", "fp32"]
    for name in ("run#1", "@mri"):
        run_cli("predict", "--mri", str(mri), "--ct", str(ct), "--output", name, *how, cwd=tmp_path)
    run_monai(
        *("--config_file", "configs/inference.json", "--mri", str(mri), "--ct", str(ct)),
        *("--output_dir", str(tmp_path / "monai"), *how),
    )
    results = [json.loads((tmp_path / n / "a" / "result.json").read_text()) for n in ("run#1", "@mri", "monai")]
    assert results[0] == results[1] == results[2]
    import nibabel as nib

    volumes = [np.asarray(nib.load(tmp_path / n / "a" / "fused.nii.gz").dataobj) for n in ("run#1", "monai")]
    np.testing.assert_array_equal(*volumes)


def test_a_training_is_evaluated_reported_and_examined(tiny_dataset: Path, tmp_path: Path) -> None:
    short = ["--patch_size", "32,32,4", "--num_inference_steps", "1", "--plausibility", "off"]
    data = ["--dataset_dir", str(tiny_dataset)]
    run_cli("train", *data, "--output", "run", "--max_epochs", "1", "--val_interval", "1", *short, cwd=tmp_path)
    assert (tmp_path / "run" / "model.pt").is_file()
    run_cli("evaluate", *data, "--run_dir", "run", "--num_samples", "1", *short[2:], cwd=tmp_path)
    assert "ROI Fusion" in run_cli("report", "run/evaluation", "--history_dir", "run", cwd=tmp_path)
    assert "epoch" in run_cli("doctor", "run", cwd=tmp_path)


def test_what_the_data_get_wrong_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = run_cli("predict", "--dataset_dir", "empty", "--output", "o", cwd=tmp_path, ok=False)
    assert text.strip().splitlines()[-1].startswith("error: ")


def test_a_training_may_start_from_the_shipped_weights_and_names_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    turned: list[dict] = []
    monkeypatch.setattr(bundle, "run_bundle", lambda configs, knobs, tracking: turned.append(knobs))
    run_cli("train", "--dataset_dir", ".", "--output", "run", "--initial_weights", "shipped")
    text = run_cli("train", "--dataset_dir", ".", "--output", "a run")
    assert "next: roi-fusion evaluate --dataset_dir . --run_dir 'a run'" in text
    assert Path(turned[0]["initial_weights"]) == BUNDLE / "models" / "model.pt"
    assert "initial_weights" not in turned[1]
