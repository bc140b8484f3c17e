# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from in_process import run_bundle, run_cli
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.results import read_case_table
from roi_fusion.engine.resume import settings_digest

SMALL: dict[str, Any] = {"channels": [8, 8, 12, 12], "denoiser_channels": [4, 4, 6]}


class Run:
    """An inference of two small cases that can be started again."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder, self.out = data, folder, folder / "out"
        self.weights(0)

    def weights(self, seed: int) -> None:
        torch.manual_seed(seed)
        torch.save(RoiFusionNet(**SMALL).state_dict(), self.folder / "weights.pt")

    def __call__(self, *more: str, ok: bool = True) -> str:
        knobs = {"dataset_dir": self.data, "output_dir": self.out, "checkpoint": self.folder / "weights.pt"}
        few = {"num_inference_steps": 1, "num_samples": 1}
        given = [a for name, value in {**knobs, **few}.items() for a in (f"--{name}", str(value))]
        network = [a for name, value in SMALL.items() for a in (f"--network_def#{name}", json.dumps(value))]
        return run_bundle("--config_file", "configs/inference.json", *given, *network, *more, ok=ok)

    def written(self) -> dict[str, int]:
        return {p.parent.name: p.stat().st_mtime_ns for p in self.out.glob("*/result.json")}

    def tables(self) -> dict[str, bytes]:
        return {name: (self.out / name).read_bytes() for name in ("metrics.csv", "summary.json")}


@pytest.fixture
def run(tiny_dataset: Path, tmp_path: Path) -> Run:
    for folder in sorted(p for p in tiny_dataset.iterdir() if p.is_dir())[:2]:
        shutil.copytree(folder, tmp_path / "data" / folder.name)
    return Run(tmp_path / "data", tmp_path)


def redone(run: Run, *more: str) -> set[str]:
    before = run.written()
    run(*more)
    return {case for case, when in run.written().items() if before.get(case) != when}


def test_a_second_run_skips_what_is_done_and_leaves_the_tables_as_they_were(run: Run) -> None:
    run()
    before, tables, cases = run.written(), run.tables(), set(run.written())
    assert "2 cases are done" in run()
    assert (run.written(), run.tables()) == (before, tables)
    assert redone(run, "--overwrite", "true") == cases
    assert run.tables() == tables
    assert redone(run, "--num_workers", "1", "--verbose", "true") == set()  # change no result
    assert redone(run, "--num_samples", "2") == cases
    run.weights(1)
    assert redone(run, "--num_samples", "2") == cases


def test_only_a_changed_or_half_case_is_done_again(run: Run) -> None:
    run()
    first, second = sorted(run.written())
    tables = run.tables()
    os.utime(run.data / first / "mri.nii.gz")  # another time, the same content
    assert redone(run) == set()
    (run.out / second / "metrics.json").unlink()  # killed between result and table
    assert redone(run) == {second}
    assert run.tables() == tables
    volume = nib.load(run.data / first / "mri.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(volume.dataobj) * 2, volume.affine, volume.header), run.data / first / "mri.nii.gz")
    assert redone(run) == {first}
    (run.data / second / "lesion_mask.nii.gz").unlink()  # the metrics are of other inputs now
    assert redone(run) == {second}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rows": [1]}', '{"made_of": 3, "rows": []}', "\x00"])
def test_a_broken_note_means_that_the_case_is_done_again(run: Run, content: str) -> None:
    run()
    first, _ = sorted(run.written())
    (run.out / first / "metrics.json").write_text(content)
    assert redone(run) == {first}
    table = read_case_table(run.out / first)
    assert table is not None
    assert table["made_of"]["inputs"]


def test_a_refused_case_is_tried_again(run: Run) -> None:
    first, second = sorted(p.name for p in run.data.iterdir())
    whole = (run.data / first / "mri.nii.gz").read_bytes()
    (run.data / first / "mri.nii.gz").write_bytes(whole[:100])
    run()
    assert set(run.written()) == {second}
    (run.data / first / "mri.nii.gz").write_bytes(whole)
    assert redone(run) == {first}
    assert json.loads((run.out / "errors.json").read_text()) == {}


def test_shards_put_together_are_one_run(run: Run, tmp_path: Path) -> None:
    first, _ = sorted(p.name for p in run.data.iterdir())
    shutil.copytree(run.data / first, run.data / "broken")
    (run.data / "broken" / "ct.nii.gz").write_bytes(b"no gzip")
    serial, run.out = tmp_path / "serial" / "out", tmp_path / "shards" / "out"
    for number in (3, 1, 4, 2):
        said = run("--shard", f"{number}/4")
        assert "roi-fusion report" in said
        assert not {"metrics.csv", "summary.json", "errors.json", "report.html"} & {p.name for p in run.out.iterdir()}
    assert "is done" in run("--shard", "2/4")  # shard 1 has the broken case, 4 none
    run_cli("report", str(run.out))
    shards, run.out = run.out, serial
    run()
    run_cli("report", str(serial))
    for name in ("metrics.csv", "summary.json", "errors.json"):
        assert (shards / name).read_bytes() == (serial / name).read_bytes(), name
    pages = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "TIME", (o / "report.html").read_text()) for o in (shards, serial)]
    assert "TIME" in pages[0]
    assert pages[0] == pages[1]
    assert set(json.loads((serial / "errors.json").read_text())) == {"broken"}
    files = [{str(p.relative_to(folder)) for p in folder.rglob("*")} for folder in (shards, serial)]
    assert files[0] == files[1]
    assert "shard: expected K/N" in run("--shard", "5/4", ok=False)


def test_an_evaluation_skips_what_is_done_and_what_only_a_training_uses_changes_nothing(run: Run, tmp_path: Path) -> None:
    names = sorted(p.name for p in run.data.iterdir())
    (run.data / "splits.json").write_text(json.dumps({"train": [], "val": [], "test": names}))
    run.out = tmp_path / "run" / "evaluation"
    knobs = {"dataset_dir": run.data, "output_dir": tmp_path / "run", "checkpoint": tmp_path / "weights.pt"}
    few = {"num_inference_steps": 1, "num_samples": 1}
    given = [a for name, value in {**knobs, **few}.items() for a in (f"--{name}", str(value))]
    network = [a for name, value in SMALL.items() for a in (f"--network_def#{name}", json.dumps(value))]
    configs = "['configs/train.json','configs/evaluate.json']"

    def evaluate(*more: str) -> set[str]:
        before = run.written()
        run_bundle("--config_file", configs, *given, *network, *more)
        return {case for case, when in run.written().items() if before.get(case) != when}

    assert evaluate() == set(names)
    tables = run.tables()
    assert evaluate("--learning_rate", "0.5", "--max_epochs", "7") == set()
    assert run.tables() == tables
    (run.data / names[0] / "lesion_mask.nii.gz").unlink()
    assert evaluate() == {names[0]}
    assert evaluate("--num_samples", "2") == set(names)


def test_overwrite_expects_true_or_false(run: Run) -> None:
    assert "overwrite: expected true or false" in run("--overwrite", "perhaps", ok=False)


def test_the_digest_is_of_what_changes_a_result() -> None:
    loose = {"num_samples": 4, "output_dir": "a", "inferer": {"seed": 0}}
    assert settings_digest(loose) == settings_digest({**loose, "output_dir": "b", "verbose": True})
    run = ["$check()", "$@resume_cases.run(@evaluator)"]
    parts = {"evaluator": {"inferer": "@inferer"}, "inferer": {"seed": 0, "count": "@num_samples"}, "loss": {"alpha": 1}}
    config = {"run": run, "num_samples": 4, "output_dir": "a", **parts}
    assert settings_digest(config) == settings_digest({**config, "loss": {"alpha": 2}})  # nothing that is run refers to it
    assert settings_digest(config) != settings_digest({**config, "num_samples": 5})
    assert settings_digest(config) == settings_digest({**config, "output_dir": "b", "verbose": True})
    assert settings_digest(config) != settings_digest({**config, "inferer": {"seed": 1}})
