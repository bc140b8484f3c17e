# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest

from helpers import RUN, changed, healthy
from roi_fusion.engine.doctor_chart import Chart
from roi_fusion.engine.doctor_rules import diagnose
from roi_fusion.errors import InputError


def codes(rows: list[dict], run: dict | None = None, start: dict | None = None) -> list[str]:
    return [f.code for f in diagnose(Chart(rows, run if run is not None else RUN, start or {}))]


@pytest.mark.parametrize("epochs", [1, 3, 6, 11, 21, 60, 200])
@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_training_gets_no_finding_at_any_time(epochs: int, seed: int) -> None:
    assert codes(healthy(epochs, seed)) == []


@pytest.mark.parametrize(
    ("rows", "code", "since"),
    [
        (changed(healthy(40), validation={"bone_ssim": 0.0001}), "zero_ssim", 5),
        (changed(healthy(40), validation={"brain_ssim": 0.0}), "zero_ssim", 5),
        (changed(healthy(20), validation={"bone_psnr": -4.5}), "negative_psnr", 15),
        (changed(healthy(12), loss_total=5.0), "flat_loss", 1),
        (changed(healthy(12), since=4, fused_at_bounds=812.0, fused_min=-3.0, fused_max=5.0), "bounds", 4),
        (changed(healthy(12), validation={"fused_at_bounds": 3.0}), "bounds", 5),
        (changed(healthy(12), validation={"lesion_dice": 1.0}), "too_good", 5),
        (changed(healthy(40), validation={"n_empty_pred": 20.0}), "nothing_predicted", 25),
        (changed(healthy(30), since=8, gradient_share_bone=0.002, loss_bone=0.5), "starved", 8),
        (changed(healthy(80), validation={"bone_ssim_context": 0.3, "brain_ssim_context": 0.8}), "worse_than_rules", 50),
        (changed(healthy(30), since=20, learning_rate=3e-3), "learning_rate", 20),
        (changed(healthy(30), since=20, learning_rate=1e-7), "learning_rate", 20),
    ],
)
def test_each_fault_is_named_with_its_epoch(rows: list[dict], code: str, since: int) -> None:
    found = diagnose(Chart(rows, RUN))
    assert [f.code for f in found] == [code]
    assert found[0].since_epoch == since
    assert found[0].cause
    assert found[0].remedy


def test_faults_of_the_start() -> None:
    assert codes(healthy(3), start={"schedule": "at timestep 949 the state carries noise 1.2", "scales": {}}) == ["schedule"]
    assert codes([], start={"scales": {"c7": "CT min-max scaled: ..."}, "cases": 9}) == ["scales"]
    assert codes(healthy(3), run={**RUN, "loss_weights": {**RUN["loss_weights"], "bone": 0.0}}) == ["zero_weight"]


def test_a_diffusion_loss_that_falls_beside_a_zero_ssim_points_at_the_sampler() -> None:
    found = diagnose(Chart(changed(healthy(40), validation={"bone_ssim": 0.0, "brain_ssim": 0.0}), RUN))
    assert [f.code for f in found] == ["zero_ssim", "zero_ssim"]
    assert "the sampler does not follow its schedule" in found[0].cause


def test_missing_numbers_are_findings_and_never_zeros() -> None:
    rows = healthy(12)
    del rows[7]["loss_total"], rows[7]["loss_lesion"]
    assert codes(rows) == ["nan"]
    rows = healthy(12)
    del rows[4]["validation"]["brain_ssim"]
    assert codes(rows) == ["nan"]


def test_a_history_with_gaps_is_refused() -> None:
    rows = healthy(12)
    del rows[5]
    with pytest.raises(InputError, match="expected every epoch once from 1 to 12, got epoch 7 behind 5"):
        diagnose(Chart(rows))
    with pytest.raises(InputError, match="got epoch 3 behind 3"):
        diagnose(Chart([*healthy(3), *healthy(3)[2:]]))
