# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""``kill -9`` of a training and of an inference at random moments: nothing half, nothing lost, nothing done twice.

Each run is killed once and started again; then all is as if it had never been killed. A preparation with two workers is killed
in ``tests/tools/test_prepare.py``.
"""

from __future__ import annotations

import csv
import filecmp
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from killed import Ended, Parent, parent
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.results import RESULT_FILES, result_folders

SMALL: dict[str, Any] = {"channels": [8, 8, 12, 12], "denoiser_channels": [4, 4, 6]}
NETWORK = [a for name, value in SMALL.items() for a in (f"--network_def#{name}", json.dumps(value))]
KILLS = [1, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parent]:
    with parent(tmp_path_factory.mktemp("log") / "output.txt") as process:
        yield process


@pytest.fixture(scope="module")
def data(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cases: three to train on, one to validate."""
    folder, names = tmp_path_factory.mktemp("killed") / "data", sorted(p.name for p in tiny_dataset.iterdir() if p.is_dir())[:4]
    for name in names:
        shutil.copytree(tiny_dataset / name, folder / name)
    (folder / "splits.json").write_text(json.dumps({"train": names[:3], "val": names[3:], "test": []}))
    return folder


def whole_run(run: Callable[..., Ended]) -> Ended:
    """A run that is not killed; it has to end well."""
    ended = run()
    assert ended.code == 0, ended.text[-3000:]
    return ended


def moments(kills: int, duration: float) -> list[float]:
    """Seeded random moments of a run that takes so many seconds."""
    return np.random.default_rng(kills).uniform(0, duration, kills).tolist()


def kill_at(moment: float, run: Callable[..., Ended], start_again: Callable[[], None]) -> str:
    """Kill a run after `moment` seconds, sooner where it had ended by then; returns when it was, for messages."""
    while True:
        ended = run(kill_after=moment)
        if ended.killed:
            return f"killed after {ended.seconds:.2f} s"
        assert ended.code == 0, ended.text[-3000:]
        start_again()
        moment *= 0.8


def check_nothing_is_half(folder: Path) -> None:
    """Every file under a name of its own can be read to its end; what begins with a dot is scratch."""
    for path in folder.rglob("*"):
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path
        elif path.suffix == ".csv":
            assert path.read_text().endswith("\n"), path
        elif path.name.endswith(".nii.gz"):
            np.asarray(nib.load(path).dataobj)
        else:
            assert path.name.startswith("events.out.tfevents"), path  # a log: readers stop at its last whole record


def names_in(folder: Path) -> set[str]:
    """Every file below a folder, scratch too; those of TensorBoard, which are named by time and process, as one."""
    return {"tensorboard" if "tensorboard" in p.parts else str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kills", KILLS)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(kills: int, commands: Parent, data: Path, tmp_path: Path) -> None:
    def train(out: Path, *more: str, **kill: Any) -> Ended:
        knobs = {"dataset_dir": data, "output_dir": out, "max_epochs": 3, "val_interval": 1, "num_inference_steps": 1}
        given = [a for name, value in knobs.items() for a in (f"--{name}", str(value))]
        patch = ["--patch_size", "[32,32,4]"]
        arguments = ["training", "--config_file", "configs/train.json", *given, *patch, *NETWORK, *more]
        return commands.run(*arguments, **kill)

    whole, out = tmp_path / "whole", tmp_path / "out"
    duration = whole_run(lambda: train(whole)).seconds
    check_nothing_is_half(whole)
    epochs = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    assert [e["epoch"] for e in epochs] == [1, 2, 3]
    last = out / "last.pt"
    kill: dict[str, Any] = {"behind": last} if kills == 1 else {}  # a single one hits the second epoch
    for moment in moments(kills, 0.1 if kills == 1 else duration):
        shutil.rmtree(out, ignore_errors=True)
        said = kill_at(moment, lambda kill_after: train(out, kill_after=kill_after, **kill), lambda: shutil.rmtree(out))
        check_nothing_is_half(out)
        again = ["--resume", str(last)] if last.exists() else []
        assert again or kills > 1
        whole_run(lambda more=again: train(out, *more))
        check_nothing_is_half(out)
        aside = [p for p in out.glob("previous-*") if p.is_dir()]
        assert bool(aside) <= (not again), said  # a training without a checkpoint starts anew
        for folder in aside:
            shutil.rmtree(folder)
        assert names_in(out) == names_in(whole), said
        assert [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()] == epochs, said
        for name in ("last.pt", "model.pt"):
            same(*(torch.load(f / name, weights_only=True) for f in (whole, out)), f"{said}: {name}")


def same(one: Any, other: Any, where: str) -> None:
    """Bit-identical tensors and equal values in checkpoints of one structure."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}#{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other)):
            same(*pair, f"{where}#{number}")
    else:
        assert one == other, where


def rows_of(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of ``metrics.csv`` by case and method, of which each is there once."""
    if not (folder / "metrics.csv").exists():
        return {}
    with (folder / "metrics.csv").open() as f:
        rows = list(csv.DictReader(f))
    by_name = {(r["case"], r["method"]): r for r in rows}
    assert len(by_name) == len(rows)
    return by_name


@pytest.mark.parametrize("kills", KILLS)
def test_a_killed_inference_leaves_whole_cases_and_ends_the_same(
    kills: int, commands: Parent, data: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    weights, whole, out = tmp_path / "weights.pt", tmp_path / "whole", tmp_path / "out"
    torch.save(RoiFusionNet(**SMALL).state_dict(), weights)

    def infer(folder: Path, kill_after: float | None = None) -> Ended:
        knobs = {"dataset_dir": data, "output_dir": folder, "checkpoint": weights, "num_inference_steps": 1, "num_samples": 1}
        given = [a for name, value in knobs.items() for a in (f"--{name}", str(value))]
        return commands.run("--config_file", "configs/inference.json", *given, *NETWORK, kill_after=kill_after)

    duration = whole_run(lambda: infer(whole)).seconds
    check_nothing_is_half(whole)
    cases = {p.name for p in result_folders(whole)}
    rows, files = rows_of(whole), [*(f"{stem}.nii.gz" for stem, _ in RESULT_FILES.values()), "result.json"]
    assert cases == {p.name for p in data.iterdir() if p.is_dir()} == {case for case, _ in rows}
    for moment in moments(kills, duration):
        shutil.rmtree(out, ignore_errors=True)
        said = kill_at(moment, lambda kill_after: infer(out, kill_after), lambda: shutil.rmtree(out))
        check_nothing_is_half(out)
        done = {p.name for p in result_folders(out)}
        for case in done:  # a folder with its result.json is a finished case
            assert all(filecmp.cmp(whole / case / f, out / case / f, shallow=False) for f in files), f"{said}: {case}"
        found = rows_of(out)
        assert found == {key: row for key, row in rows.items() if key in found}, said
        assert {case for case, _ in found} <= done, said
        whole_run(lambda: infer(out))
        check_nothing_is_half(out)
        assert names_in(out) == names_in(whole), said
        assert rows_of(out) == rows, said
        same_files = [f"{case}/{f}" for case in cases for f in files] + ["summary.json", "errors.json"]
        assert all(filecmp.cmp(whole / f, out / f, shallow=False) for f in same_files), said
