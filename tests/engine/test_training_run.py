# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from roi_fusion.engine import training_run
from roi_fusion.engine.handlers import TrainingEvents
from roi_fusion.engine.training_run import TrainingRun, start_training
from roi_fusion.errors import InputError


def test_the_start_seeds_and_moves_an_earlier_training_aside(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_text("earlier")
    draws = []
    for _ in range(2):
        start_training(tmp_path, seed=3)
        draws.append(float(torch.rand(())))
    assert draws[0] == draws[1]
    assert not (tmp_path / "model.pt").exists()
    assert len(list(tmp_path.glob("previous-*/model.pt"))) == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"resume": "no/last.pt"}, r"no/last\.pt: expected a checkpoint to resume \(last\.pt\), found no such file"),
        ({"initial_weights": "no/model.pt"}, r"no/model\.pt: expected weights of this network, found no such file"),
    ],
)
def test_a_missing_checkpoint_moves_nothing(given: dict[str, str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_text("earlier")
    with pytest.raises(InputError, match=sentence):
        start_training(tmp_path, seed=0, **given)
    assert (tmp_path / "model.pt").read_text() == "earlier"


def order_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: object, **knobs: object) -> tuple[list[str], TrainingRun]:
    """What a run does, in order, with the parts that other tests cover replaced by their names."""
    done: list[str] = []
    for name in ("load_weights", "prepare_training", "record_run", "publish_weights", "write_training_report"):
        monkeypatch.setattr(training_run, name, lambda *a, _name=name: done.append(_name))
    trainer = Engine(lambda e, b: done.append("train") or step())  # type: ignore[func-returns-value, operator]
    trainer.logger.disabled = True
    run = trainer.run
    monkeypatch.setattr(trainer, "run", lambda: run([0], max_epochs=1))
    state = {"model": torch.nn.Linear(1, 1), "plan": None}
    whole = TrainingRun(state, trainer, {"train": SimpleNamespace()}, None, None, tmp_path, tmp_path, **knobs)  # type: ignore[arg-type]
    return done, whole


def test_everything_is_done_once_and_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done, whole = order_of(monkeypatch, tmp_path, lambda: None)
    whole.run()
    assert done == ["prepare_training", "record_run", "train", "publish_weights", "write_training_report"]
    done, whole = order_of(monkeypatch, tmp_path, lambda: None, initial_weights="model.pt")
    whole.run()
    assert done[0] == "load_weights"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_is_told_to_all_who_listen_and_goes_on(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def crash() -> None:
        raise kind("why")

    done, whole = order_of(monkeypatch, tmp_path, crash)
    heard: list[BaseException] = []
    whole.trainer.register_events(*TrainingEvents)
    for _ in range(2):
        whole.trainer.add_event_handler(TrainingEvents.FAILED, lambda e: heard.append(e.state.error))
    with pytest.raises(kind, match="why"):
        whole.run()
    assert [str(e) for e in heard] == ["why", "why"]
    assert "publish_weights" not in done
