# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import pytest

from helpers import changed, healthy
from roi_fusion.engine.doctor_chart import Chart, gate_results, gates, read_chart
from roi_fusion.errors import InputError


def test_a_folder_of_no_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the folder of a training, found no folder"):
        read_chart(tmp_path / "none")
    with pytest.raises(InputError, match="expected the history of a training"):
        read_chart(tmp_path)
    (tmp_path / "history.jsonl").write_text("")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: expected JSON"):
        read_chart(tmp_path)


def test_each_gate_is_read_at_the_first_validation_from_its_epoch_on() -> None:
    found = gates(Chart(healthy(60)))
    assert [(g.epoch, g.metric) for g in found] == [
        (20, "brain_ssim"),
        (20, "bone_psnr"),
        (20, "bone_ssim"),
        (20, "loss_total falling"),
        (50, "brain_ssim"),
        (50, "bone_psnr"),
        (50, "bone_ssim"),
        (50, "lesion_dice"),
    ]
    assert all(g.passed for g in found)
    assert found[0].value == healthy(60)[19]["validation"]["brain_ssim"]
    assert [g.passed for g in gates(Chart(healthy(12)))] == [None] * 8
    assert [g.passed for g in gates(Chart([]))] == [None] * 8


def test_results_say_what_was_missed_and_nothing_of_what_is_to_come() -> None:
    assert gate_results(gates(Chart(healthy(12)))) == {}
    assert gate_results(gates(Chart(healthy(21)))) == {20: "passed"}
    low = changed(healthy(60), validation={"lesion_dice": 0.3})
    assert gate_results(gates(Chart(low))) == {20: "passed", 50: "MISSED: lesion_dice 0.300, expected above 0.4"}
    for row in low:
        row.get("validation", {}).pop("lesion_dice", None)
    assert gate_results(gates(Chart(low)))[50] == "MISSED: lesion_dice not measured, expected above 0.4"
    rising = changed(healthy(30), since=20, loss_total=9.0)
    assert gate_results(gates(Chart(rising)))[20] == "MISSED: loss_total falling 9.000"
