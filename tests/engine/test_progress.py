# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Lines of cases and epochs, as they are logged and drawn."""

from __future__ import annotations

import io
import logging
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ignite.engine import Engine, Events

from roi_fusion.engine.checkpoint import CheckpointWriter
from roi_fusion.engine.handlers import TrainingEvents
from roi_fusion.engine.progress import CaseProgress, TrainingProgress, case_line, epoch_line

FACTS: dict[str, Any] = {
    "case": "case_07",
    "lesion_ml": 12.44,
    "lesion_ml_interval": [8.13, 17.0],
    "lesion_ml_interval_note": None,
    "lesion_ml_is_lower_bound": False,
    "outside_training": None,
    "warnings": [],
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "lesion 12.4 mL (8.1–17.0)"),
        ({"warnings": ["a"]}, "lesion 12.4 mL (8.1–17.0)  1 warning"),
        ({"warnings": ["a", "b"]}, "lesion 12.4 mL (8.1–17.0)  2 warnings"),
        ({"lesion_ml": 0.0, "lesion_ml_interval": [0.0, 0.134]}, "no lesion found (0.0–0.13 mL)"),
        ({"lesion_ml": 0.0, "lesion_ml_interval": None}, "no lesion found, no interval"),
        ({"lesion_ml": 0.04, "lesion_ml_interval": None}, "lesion 0.04 mL, no interval"),
        (
            {"lesion_ml": None, "lesion_ml_interval": None, "lesion_ml_interval_note": "a part of the brain was not seen"},
            "lesion not measured: a part of the brain was not seen",
        ),
        ({"lesion_ml_interval": None, "lesion_ml_is_lower_bound": True}, "lesion 12.4 mL or more"),
        (
            {
                "lesion_ml_interval": None,
                "outside_training": [
                    "slices of 12.0 mm (known: 3.0 to 6.0 mm)",
                    "the contrast (2.1 times the distance between known cases)",
                ],
            },
            "lesion 12.4 mL, no interval  not to be relied on, outside training: slices of 12.0 mm, the contrast",
        ),
    ],
)
def test_line_of_a_case(changes: dict[str, Any], said: str) -> None:
    assert case_line({**FACTS, **changes}, 9.84) == f"case_07  {said}  9.8 s"


def test_names_stand_in_a_column_and_a_known_lesion_has_its_dice() -> None:
    assert case_line(FACTS, 75, width=9, dice=0.813) == "case_07    lesion 12.4 mL (8.1–17.0)  Dice 0.81  1 min 15 s"


def test_line_of_an_epoch() -> None:
    metrics = {"loss_total": 6.7295, "loss_brain": 0.2558, "loss_lesion": 1.3669, "learning_rate": 1e-4, "ct_mean": 0.1}
    assert epoch_line(3, 200, metrics, None, 2.31) == "epoch 3/200  loss 6.73 (brain 0.256, lesion 1.37)  lr 0.0001  2.3 s"
    validation = {"score": 0.3451, "lesion_dice": math.nan, "brain_ssim": 0.79, "n_cases": 4}
    line = epoch_line(3, 200, metrics, validation, 2.31, best=True)
    assert "  validation: score 0.345, brain SSIM 0.790, new best  lr" in line  # what does not exist is left out
    assert len(line) < 200


def case_engine(facts: list[dict[str, Any] | None]) -> Engine:
    """An evaluation of one case a batch, None of a refused one."""

    def step(engine: Engine, fact: dict[str, Any] | None) -> None:
        engine.state.batch = [] if fact is None else [fact]
        engine.state.case_facts = [] if fact is None else [fact]
        engine.state.case_rows = [{"case": "b", "method": "roi_fusion", "lesion_dice": 0.5}]

    engine = Engine(step)
    engine.logger.disabled = True
    data = [{"case": (f or {}).get("case", "refused_1")} for f in facts]
    engine.data_loader = SimpleNamespace(dataset=SimpleNamespace(data=data))
    return engine


def test_cases_are_said_with_the_time_left_where_no_bar_is_drawn(caplog: pytest.LogCaptureFixture) -> None:
    facts = [{**FACTS, "case": "a"}, None, {**FACTS, "case": "b"}]
    engine = case_engine(facts)
    CaseProgress().attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run(facts, max_epochs=1)
    first, last = [r.message for r in caplog.records]
    assert first.startswith("a          lesion 12.4 mL (8.1–17.0)  0.0 s  1/3, ")
    assert first.endswith(" left")
    assert last == "b          lesion 12.4 mL (8.1–17.0)  Dice 0.50  0.0 s  3/3"


def test_a_bar_counts_all_cases_from_none(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    facts = [{**FACTS, "case": "a"}, None, {**FACTS, "case": "b"}]
    engine = case_engine(facts)
    CaseProgress().attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run(facts, max_epochs=1)
    assert "  0% |" in terminal.getvalue()
    assert "0/3 cases" in terminal.getvalue()
    assert all(" left" not in r.message for r in caplog.records)


def training(tmp_path: Path) -> Engine:
    """A trainer with a validation every second epoch."""
    evaluator = Engine(lambda engine, batch: None)
    trainer = Engine(lambda engine, batch: None)
    for engine in (trainer, evaluator):
        engine.logger.disabled = True

    @trainer.on(Events.EPOCH_COMPLETED)
    def measure(engine: Engine) -> None:
        engine.state.metrics = {"loss_total": 1.0 / engine.state.epoch, "learning_rate": 1e-4}
        if engine.state.epoch % 2 == 0:
            evaluator.run([0], max_epochs=1)
            evaluator.state.metrics = {"score": 0.1 * engine.state.epoch}
            evaluator.state.key_metric_name = "score"
            evaluator.state.epoch = engine.state.epoch

    best = CheckpointWriter(tmp_path, "model.pt", {}, bare=False, best_of=evaluator)
    TrainingProgress(best).attach(trainer)
    return trainer


def test_epochs_are_said_in_a_line_with_the_time_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = training(tmp_path)
    with caplog.at_level(logging.INFO):
        trainer.run([0, 1], max_epochs=3)
    head, *lines = [r.message for r in caplog.records]
    assert head.startswith("training: 3 epochs of 2 iterations, everything goes to ")
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "validation" not in lines[0]
    assert "validation: score 0.200, new best" in lines[1]
    assert lines[0].endswith(" left")
    assert not lines[2].endswith(" left")


def test_bars_over_and_within_epochs_end_with_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    trainer = training(tmp_path)
    trainer.run([0, 1], max_epochs=2)
    for part in ("epoch 2/2", "this epoch", "validation"):
        assert part in terminal.getvalue(), part


def test_a_training_that_fails_closes_its_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    trainer = training(tmp_path)

    @trainer.on(Events.ITERATION_COMPLETED)
    def stop(engine: Engine) -> None:
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        trainer.run([0, 1], max_epochs=2)
    trainer.fire_event(TrainingEvents.FAILED)
    written = len(terminal.getvalue())
    trainer.fire_event(TrainingEvents.FAILED)
    assert len(terminal.getvalue()) == written
