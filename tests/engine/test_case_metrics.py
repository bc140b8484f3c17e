# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from conftest import BUNDLE
from helpers import case_item, case_prediction
from roi_fusion.core.intensity import IntensityMap
from roi_fusion.data.grids import spacing_of
from roi_fusion.engine.case_metrics import (
    LesionDice,
    LesionHausdorff,
    LesionNSD,
    RegionalPSNR,
    RegionalSSIM,
    checked_metrics,
    default_metrics,
)
from roi_fusion.engine.evaluator import CaseMetrics
from roi_fusion.errors import InputError
from roi_fusion.metrics import fusion, lesion, surface


@pytest.mark.parametrize(("name", "place"), [("train", "validate#additional_metrics"), ("inference", "additional_metrics")])
def test_the_configs_list_every_metric_with_its_settings(name: str, place: str) -> None:
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / f"{name}.json"))
    listed, default = parser.get_parsed_content(place), default_metrics()
    assert list(listed) == list(default)
    assert [(type(m), vars(m)) for m in listed.values()] == [(type(m), vars(m)) for m in default.values()]
    text = json.dumps(parser[place])
    assert '"tolerance_mm": 2.0' in text
    assert '"percentile": 95' in text


def test_lesion_metrics_equal_monais_with_the_same_settings() -> None:
    torch.manual_seed(0)
    case = case_item(spacing=(1.5, 1.0, 4.0))
    probability = (case["label"].float().roll((2, 1), (1, 2)) * 0.9 + 0.02 * torch.rand(1, 24, 24, 4)).clamp(0, 1)
    found = lesion.LesionComparison(probability, case["label"], spacing_mm=spacing_of(case["image"]))
    mask, truth = (probability > 0.5)[None].float(), case["label"][None].float()
    assert LesionDice()(found) == pytest.approx(float(compute_dice(mask, truth)))
    spacing = [1.5, 1.0, 4.0]
    for tolerance in (0.5, 1.5, 3.0):
        theirs = compute_surface_dice(mask, truth, [tolerance], include_background=True, spacing=spacing)
        assert LesionNSD(tolerance)(found) == pytest.approx(float(theirs), abs=1e-6)
    for percentile in (50, 95, 100):
        theirs = compute_hausdorff_distance(mask, truth, include_background=True, percentile=percentile, spacing=spacing)
        assert LesionHausdorff(percentile)(found) == pytest.approx(float(theirs), abs=1e-5)


def test_one_distance_pass_serves_all_metrics_of_the_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = surface._distances
    monkeypatch.setattr(surface, "_distances", lambda *a: calls.append(1) or real(*a))
    case = case_item()
    guess = case_prediction(case, case["image"][:1].as_tensor(), case["label"].float().roll(1, 1))
    metrics = {**default_metrics(), "lesion_nsd_5mm": LesionNSD(5.0), "lesion_hd100_mm": LesionHausdorff(100)}
    row = CaseMetrics(with_baselines=False, metrics=metrics).measure(case, guess)[0]
    assert len(calls) == 2  # there and back
    assert row["lesion_nsd_5mm"] >= row["lesion_nsd_2mm"]
    assert row["lesion_hd100_mm"] >= row["lesion_hd95_mm"]


def test_a_row_holds_what_is_listed_and_nothing_else() -> None:
    case = case_item()
    guess = case_prediction(case, case["image"][:1].as_tensor(), case["label"].float())
    few = {"bone_psnr": RegionalPSNR("bone"), "lesion_dice": LesionDice()}
    rows = CaseMetrics(metrics=few, score_of=["lesion_dice"]).measure(case, guess)
    assert {"bone_psnr", "lesion_dice"} <= set(rows[0])
    assert not {"brain_ssim", "lesion_nsd_2mm"} & set(rows[0])
    assert "bone_psnr" in rows[1]
    assert "lesion_dice" not in rows[1]  # no head ran there
    whole = CaseMetrics(with_baselines=False).measure(case, guess)[0]
    assert whole["bone_psnr"] == rows[0]["bone_psnr"]


def test_the_window_of_the_ssim_is_a_setting() -> None:
    case = case_item()
    guess = case["image"][:1].as_tensor() + 0.3 * torch.randn(1, 24, 24, 4)
    parts = {k: case[k] > 0 for k in ("brain", "bone", "dense")}
    scale = IntensityMap.from_case(case["intensity"])
    found = fusion.FusionComparison(guess, case["image"].as_tensor(), **parts, intensity=scale)
    assert RegionalSSIM("brain", window_size=5)(found) != RegionalSSIM("brain")(found)
    with pytest.raises(InputError, match="region: expected one of brain, bone, got 'skull'"):
        RegionalSSIM("skull")(found)


def test_a_name_that_hides_a_setting_is_refused() -> None:
    with pytest.raises(
        InputError, match="expected the name lesion_nsd_5mm for LesionNSD with these settings, got lesion_nsd_2mm"
    ):
        checked_metrics({"lesion_nsd_2mm": LesionNSD(5.0)})
    with pytest.raises(InputError, match="expected the name lesion_hd95_mm for LesionHausdorff"):
        CaseMetrics(metrics={"hd": LesionHausdorff(95)}, score_of=[])
    with pytest.raises(InputError, match="score_of: expected measured metrics"):
        CaseMetrics(metrics={"lesion_dice": LesionDice()})
    found = lesion.MaskComparison(np.ones((2, 2, 2)), np.ones((2, 2, 2)), spacing_mm=(1, 1, 1))
    with pytest.raises(InputError, match="expected a percentile from 0 to 100, got 101"):
        found.hausdorff_mm(101)
    with pytest.raises(InputError, match="expected tolerance_mm of 0 or more, got -1"):
        found.nsd(-1)


def test_each_handler_publishes_the_mean_of_its_column() -> None:
    def rows(engine: Engine) -> None:
        values = {"a": 0.5, "b": math.nan, "c": 1.0}
        engine.state.case_rows = [{"method": "roi_fusion", "case": k, "lesion_dice": v} for k, v in values.items()]
        engine.state.case_rows += [{"method": "paste", "case": "a", "lesion_dice": 0.0}]

    engine = Engine(lambda e, b: None)
    engine.add_event_handler(Events.EPOCH_COMPLETED, rows)
    for name, metric in default_metrics().items():
        metric.attach(engine, name)
    engine.run([0], max_epochs=1)
    assert engine.state.metrics == {"lesion_dice": 0.75}  # what no case has is absent, and never 0
    alone = Engine(lambda e, b: None)
    alone.logger.disabled = True
    LesionDice().attach(alone, "lesion_dice")
    with pytest.raises(InputError, match="lesion_dice: expected CaseMetrics as key metric"):
        alone.run([0], max_epochs=1)
