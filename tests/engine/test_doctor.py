# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from conftest import BUNDLE
from helpers import RUN, changed, healthy
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.schedule import Level, inference_levels, make_scheduler, sample
from roi_fusion.data.cases import find_cases
from roi_fusion.engine.doctor import Doctor, case_scales, check_scales, check_schedule, prescription, scale_fault
from roi_fusion.engine.doctor_chart import Chart, read_chart
from roi_fusion.engine.doctor_rules import diagnose
from roi_fusion.engine.evaluator import CaseMetrics
from roi_fusion.engine.inferer import SamplingInferer
from roi_fusion.errors import InputError


# --- the checks at the start -----------------------------------------------------------------------------------------------
def one_step_sampler(predict_x0, noise: torch.Tensor, levels: list[Level]) -> torch.Tensor:
    """The seed's fault: DDPM coefficients of neighbouring timesteps on a strided list."""
    scheduler = make_scheduler("ddim")
    x = noise
    for level in levels:
        t = int(level.t)
        alpha_bar, alpha = float(scheduler.alphas_cumprod[t]), 1 - float(scheduler.betas[t])
        x0 = predict_x0(x, level)
        epsilon = (x - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
        x = (x - (1 - alpha) / (1 - alpha_bar) ** 0.5 * epsilon) / alpha**0.5
    return x


def monai_sampler(predict_x0, noise: torch.Tensor, levels: list[Level]) -> torch.Tensor:
    """MONAI's own stepping, whose state and timestep disagree."""
    scheduler = make_scheduler("ddim")
    scheduler.set_timesteps(len(levels))
    x = noise
    for t in scheduler.timesteps:
        x, _ = scheduler.step(predict_x0(x, Level(float(t), 0, 0)), int(t), x)
    return x


@pytest.mark.parametrize("name", ["ddim", "rflow"])
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 20, 50, 1000])
def test_the_sampler_passes(name: str, steps: int) -> None:
    inferer = SamplingInferer(make_scheduler(name), num_inference_steps=steps)
    assert check_schedule(inferer, make_scheduler(name)) is None


def strided() -> list[Level]:
    scheduler = make_scheduler("ddim")
    return [
        Level(float(t), float(scheduler.alphas_cumprod[t]) ** 0.5, float(1 - scheduler.alphas_cumprod[t]) ** 0.5)
        for t in range(999, 0, -50)
    ]


def test_one_step_coefficients_are_found() -> None:
    fault = check_schedule(SimpleNamespace(levels=strided(), sampler=one_step_sampler), make_scheduler("ddim"))
    assert fault is not None
    assert "the state carries noise" in fault


def test_monais_own_stride_is_found() -> None:
    fault = check_schedule(
        SimpleNamespace(levels=inference_levels(make_scheduler("ddim"), 5), sampler=monai_sampler), make_scheduler("ddim")
    )
    assert fault is not None
    assert "the state carries noise" in fault


def test_training_and_sampling_on_different_schedules_are_found() -> None:
    inferer = SamplingInferer(make_scheduler("rflow"), num_inference_steps=4)
    assert check_schedule(inferer, make_scheduler("ddim")) is not None


def test_a_sampler_that_stops_early_is_found() -> None:
    def early(predict_x0, noise: torch.Tensor, levels: list[Level]) -> torch.Tensor:
        states: list[torch.Tensor] = []
        sample(predict_x0, noise, levels, on_step=lambda i, level, x, x0: states.append(x))
        return states[-1]

    scheduler = make_scheduler("rflow")
    fault = check_schedule(SimpleNamespace(levels=inference_levels(scheduler, 4), sampler=early), scheduler)
    assert fault is not None
    assert "away from the clean state" in fault


def pair(ct) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head = torch.zeros(1, 20, 20, 4)
    head[:, 2:18, 2:18] = 1
    mri = torch.randn(1, 20, 20, 4)
    return mri * head, ct(torch.randn(1, 20, 20, 4)) * head, head


@pytest.mark.parametrize(
    ("ct", "fault"),
    [
        (lambda z: z, None),
        (lambda z: 1.6 * z, None),
        (lambda z: (z - z.min()) / (z.max() - z.min()), "CT min-max scaled"),
        (lambda z: 0.1 * z, "deviations a factor of"),
        (lambda z: z + 0.5, "mean away from 0"),
    ],
)
def test_scales_of_a_case(ct, fault: str | None) -> None:
    found = scale_fault(case_scales(*pair(ct)))
    assert (found is None) if fault is None else fault in str(found)


def test_every_loaded_case_is_measured() -> None:
    good, bad = pair(lambda z: z), pair(lambda z: 0.01 * z)
    cache = [{"case": n, **dict(zip(("image", "ct", "head"), p))} for n, p in (("a", good), ("b", bad), ("c", good))]
    cases, broken = check_scales(SimpleNamespace(loaded=cache))
    assert cases == 3
    assert set(broken) == {"b"}
    assert check_scales(object()) == (0, {})


# --- the handler on a history ----------------------------------------------------------------------------------------------
def test_the_prescription_holds_findings_and_gates() -> None:
    text = prescription(Chart(changed(healthy(60), validation={"lesion_dice": 0.3}), RUN))
    assert "60 epochs, 12 validations, 0 findings" in text
    assert "gate of epoch 50: lesion_dice > 0.4: MISSED (0.300)" in text
    assert "gate of epoch 20: loss_total falling: passed" in text


def play(folder: Path, rows: list[dict], first: int = 0) -> None:
    """A training that writes `rows` one an epoch, from epoch `first` on, with the doctor behind it."""
    engine = Engine(lambda e, b: None)
    history = folder / "history.jsonl"

    @engine.on(Events.EPOCH_COMPLETED)
    def _(e: Engine) -> None:
        with history.open("a") as f:
            f.write(json.dumps(rows[e.state.epoch - 1]) + "\n")

    scheduler = make_scheduler("ddim")
    Doctor(folder, object(), SamplingInferer(scheduler, num_inference_steps=2), scheduler).attach(engine)
    engine.load_state_dict({"epoch": first, "max_epochs": len(rows), "epoch_length": 1})
    engine.run([0], max_epochs=len(rows))


def test_gates_are_said_once_when_they_are_reached_and_not_again_by_a_resumed_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="roi_fusion")
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    rows = changed(healthy(52), since=21, validation={"bone_ssim": 0.2})
    play(tmp_path, rows[:30])
    assert [r.message for r in caplog.records if "gate" in r.message] == ["doctor: gate of epoch 20: passed"]
    caplog.clear()
    play(tmp_path, rows, first=30)
    said = [r for r in caplog.records if "gate" in r.message]
    assert [r.message for r in said] == ["doctor: gate of epoch 50: MISSED: bone_ssim 0.200, expected above 0.3"]
    assert said[0].levelname == "WARNING"
    notes = json.loads((tmp_path / "doctor.json").read_text())
    assert notes["gate_results"] == {"20": "passed", "50": "MISSED: bone_ssim 0.200, expected above 0.3"}
    missed = [g for g in notes["gates"] if not g["passed"]]
    assert missed == [{"epoch": 50, "metric": "bone_ssim", "least": 0.3, "value": 0.2, "passed": False}]


def test_stop_on_takes_two_words() -> None:
    with pytest.raises(InputError, match="stop_on: expected never or critical, got 'always'"):
        Doctor("somewhere", None, None, None, stop_on="always")


# --- five faults injected into real trainings -------------------------------------------------------------------------------
class ClampedNet(RoiFusionNet):
    """The seed's second fault."""

    def compose(self, image, raw):
        out = super().compose(image, raw)
        return out.index_copy(1, out.new_zeros(1).long(), out[:, :1].clamp(-1.0, 1.0))


class ReferenceAsPrediction(CaseMetrics):
    """The seed's fifth fault."""

    def measure(self, item, prediction):
        prediction = prediction.clone()
        prediction[1:2] = item["label"].float()
        return super().measure(item, prediction)


def train(data: Path, out: Path, **changes: object) -> Chart:
    settings = {
        "network_def#channels": [8, 8, 12, 12],
        "network_def#denoiser_channels": [4, 4, 6],
        "patch_size": [32, 32, 4],
        "val_interval": 2,
        "num_inference_steps": 2,
        "max_epochs": 7,
        "learning_rate": 3e-3,
        "warmup_steps": 4,
        "dataset_dir": str(data),
        "output_dir": str(out),
        "samples_per_case": 2,
    }
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "train.json"), run_id="training", logging_file=False, **{**settings, **changes}
    )
    workflow.initialize()
    workflow.run()
    return read_chart(out)


def minmax_ct() -> dict:
    steps = json.loads((BUNDLE / "configs" / "train.json").read_text())["preprocessing"]
    for n, step in enumerate(steps):
        if step["_target_"] == "roi_fusion.data.transforms.intensity.CompandHUd":
            steps[n] = {"_target_": "ScaleIntensityd", "keys": "ct", "minv": 0.0, "maxv": 1.0}
        if step["_target_"] == "NormalizeIntensityd":
            step["keys"] = ["image"]
    return {"preprocessing": steps}


@pytest.fixture(scope="module")
def data(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set, split so that the validation cases have a lesion."""
    folder = tmp_path_factory.mktemp("doctor") / "data"
    shutil.copytree(tiny_dataset, folder)
    names = [c["case"] for c in find_cases(folder)]
    volumes = {n: int(np.asarray(nib.load(folder / n / "lesion_mask.nii.gz").dataobj).sum()) for n in names}
    names.sort(key=lambda n: -volumes[n])
    assert volumes[names[1]] > 0
    (folder / "splits.json").write_text(json.dumps({"val": names[:2], "train": names[2:7], "test": names[7:]}))
    return folder


FAULTS = {
    "scales": minmax_ct(),
    "bounds": {"network_def#_target_": "tests.engine.test_doctor.ClampedNet"},
    "schedule": {"validate#inferer#sampler": "$__import__('tests.engine.test_doctor', fromlist=['x']).one_step_sampler"},
    "too_good": {"validate#key_metric#score#_target_": "tests.engine.test_doctor.ReferenceAsPrediction"},
    "zero_weight": {"beta": 0.0},
}


@pytest.mark.parametrize("code", FAULTS)
def test_an_injected_fault_is_named(code: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if code == "schedule":  # the seed's list of timesteps with its coefficients
        monkeypatch.setattr("roi_fusion.engine.inferer.inference_levels", lambda scheduler, steps: strided())
        assert one_step_sampler is not None
    chart = train(data, tmp_path / "run", **FAULTS[code])
    found = diagnose(chart)
    assert code in {f.code for f in found}
    assert next(f for f in found if f.code == code).severity == "critical"
    stored = json.loads((tmp_path / "run" / "doctor.json").read_text())
    assert code in {f["code"] for f in stored["findings"]}
    assert [f.code for f in found if f.severity == "critical"] == [code]


def test_a_healthy_training_is_left_in_peace(data: Path, tmp_path: Path) -> None:
    chart = train(data, tmp_path / "run")
    assert diagnose(chart) == []
    assert chart.start["cases"] > 0
    notes = json.loads((tmp_path / "run" / "doctor.json").read_text())
    assert notes["findings"] == []
    assert {g["passed"] for g in notes["gates"]} == {None}
    assert notes["gate_results"] == {}


def test_a_critical_finding_can_stop_the_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as e:
        train(data, tmp_path / "run", stop_on="critical", beta=0.0)
    cause = e.value.__cause__
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__ or cause.__context__
    assert "doctor: stopped the training: the bone term has weight 0" in str(cause)
    assert not (tmp_path / "run" / "last.pt").exists()
