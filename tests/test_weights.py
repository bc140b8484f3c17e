# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The command behind the shipped weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import train_weights as script
from roi_fusion.errors import InputError


def test_lesions_for_tests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lesion_ids: wanted masks below 800, which are for training, came 0:900"):
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
