# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The command behind the shipped weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from roi_fusion_tools import weights_recipe as recipe


def test_a_finished_training_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("started again")

    monkeypatch.setattr(recipe.subprocess, "Popen", never)
    run = tmp_path / "run"
    run.mkdir()
    (run / "history.jsonl").write_text("".join(json.dumps({"epoch": n}) + "\n" for n in (1, 2)))
    recipe._train(run, 2, [])
    with pytest.raises(AssertionError, match="started again"):
        recipe._train(run, 3, [])


def test_the_whole_command_trains_calibrates_and_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the work itself: which heads and lesions each part gets, and the signatures that it is called by."""
    written: dict[str, dict[str, Any]] = {}

    def cases(folder: Path, count: int, **how: Any) -> list[str]:
        written[folder.name] = how
        return []

    def train(run: Path, epochs: int, knobs: list[str]) -> None:
        assert knobs[knobs.index("--lesions") + 1] == str(tmp_path / "lesions.npz")
        run.mkdir(parents=True)

    def calibrated(checkpoint: Any, dataset_dir: Any, split: Any, output: Path, **how: Any) -> dict[str, Any]:
        assert (Path(checkpoint).parent.name, Path(dataset_dir).name, split) == ("run", "calibration", None)
        assert how["training_dir"].name == "known"
        output.write_bytes(b"weights")
        return {"temperature": 2.0}

    monkeypatch.setattr(recipe, "write_cases", create_autospec(recipe.write_cases, side_effect=cases))
    monkeypatch.setattr(recipe, "_train", train)
    monkeypatch.setattr(recipe, "calibrate_checkpoint", create_autospec(recipe.calibrate_checkpoint, side_effect=calibrated))
    monkeypatch.setattr(recipe, "BUNDLE_ROOT", tmp_path / "bundle")
    (tmp_path / "bundle" / "models").mkdir(parents=True)
    assert recipe.make_weights(str(tmp_path / "out"), lesions=str(tmp_path / "lesions.npz"), publish=True) == {
        "temperature": 2.0
    }
    assert "heads" not in written["calibration"]  # the validation heads
    assert written["known"]["lesion_ids"] == "0:700"
    digest, name = (tmp_path / "bundle" / "models" / "model.pt.sha256").read_text().split()
    assert (digest, name) == (recipe.sha256_of(tmp_path / "bundle" / "models" / "model.pt"), "model.pt")
