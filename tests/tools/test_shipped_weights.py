# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The command behind the shipped weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from roi_fusion.errors import InputError
from roi_fusion_tools import shipped_weights as script


def test_lesions_for_tests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lesion_ids: expected masks below 800, which are for training, got 0:900"):
        script.train_weights(str(tmp_path), "lesions.npz", lesion_ids="0:900")
    assert not list(tmp_path.iterdir())


def test_a_finished_training_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("started again")

    monkeypatch.setattr(script.subprocess, "Popen", never)
    run = tmp_path / "run"
    run.mkdir()
    (run / "history.jsonl").write_text("".join(json.dumps({"epoch": n}) + "\n" for n in (1, 2)))
    script._train(run, tmp_path, 2, [])
    with pytest.raises(AssertionError, match="started again"):
        script._train(run, tmp_path, 3, [])


def test_the_whole_command_trains_calibrates_and_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the work itself: which data each part gets, and the signatures that it is called by."""
    trained: list[tuple[str, list[str]]] = []

    def phantoms(folder: Path, count: int, *_: Any, **__: Any) -> None:
        (folder / "phantom_0000").mkdir(parents=True)

    def train(run: Path, data: Path, epochs: int, knobs: list[str]) -> None:
        trained.append((run.name, json.loads((data / "splits.json").read_text())["train"]))
        run.mkdir()

    def calibrated(checkpoint: Any, dataset_dir: Any, split: Any, output: Path, **_: Any) -> dict[str, Any]:
        assert (Path(checkpoint).parent.name, split) == ("fresh_run", None)
        output.write_bytes(b"weights")
        return {"temperature": 2.0}

    monkeypatch.setattr(script, "PackedLesions", lambda file, ids: ids)
    monkeypatch.setattr(script, "make_phantoms", phantoms)
    monkeypatch.setattr(script, "_train", train)
    monkeypatch.setattr(script, "calibrate_checkpoint", create_autospec(script.calibrate_checkpoint, side_effect=calibrated))
    monkeypatch.setattr(script, "BUNDLE_ROOT", tmp_path / "bundle")
    (tmp_path / "bundle" / "models").mkdir(parents=True)
    script.train_weights(str(tmp_path / "out"), "lesions.npz", publish=True)
    assert [name for name, _ in trained] == ["coarse_run", "varied_run", "hard_run", "long_run", "fresh_run"]
    assert trained[2][1] == ["varied_train_phantom_0000", "hard_train_phantom_0000"]
    assert trained[4][1] == ["fresh_train_phantom_0000"]
    digest, name = (tmp_path / "bundle" / "models" / "model.pt.sha256").read_text().split()
    assert (digest, name) == (script.sha256_of(tmp_path / "bundle" / "models" / "model.pt"), "model.pt")
