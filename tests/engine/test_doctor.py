# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from tests.engine.test_start_check import one_step_sampler, strided

from conftest import BUNDLE
from roi_fusion.core.losses import COMPONENTS
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.cases import find_cases
from roi_fusion.engine.doctor import Doctor, diagnose, gates, prescription, read_chart
from roi_fusion.engine.doctor_rules import Chart
from roi_fusion.engine.evaluator import CaseMetrics
from roi_fusion.errors import InputError

RUN = {
    "loss_weights": dict.fromkeys(COMPONENTS, 1.0),
    "learning_rate_plan": {"peak": 1e-4, "final": 5e-5, "warmup_steps": 200, "total_steps": 8000},
}


def healthy(epochs: int = 200, seed: int = 0) -> list[dict]:
    """A history as a good training writes it: noise, plateaus, a late jump, validation every fifth epoch."""
    rng = np.random.default_rng(seed)
    rows = []
    for e in range(1, epochs + 1):
        stage = 1 - math.exp(-e / 12) if e < 60 or e > 120 else 1 - math.exp(-60 / 12)  # a plateau of 60 epochs
        wobble = 1 + 0.04 * rng.standard_normal()
        losses = {"diffusion": 0.5, "brain": 0.15, "bone": 0.6, "lesion": 1.5, "masks": 3.0}
        row = {"epoch": e, "iteration": 40 * e}
        row.update({f"loss_{k}": v * (1.02 - stage) * wobble for k, v in losses.items()})
        row["loss_total"] = sum(row[f"loss_{k}"] for k in losses)
        shares = rng.dirichlet([4, 2, 8, 20, 30]) if e < 150 else np.array([0.04, 0.004, 0.2, 0.3, 0.456])  # brain has arrived
        row.update({f"gradient_share_{k}": float(s) for k, s in zip(losses, shares)})
        row["learning_rate"] = 1e-4 if 40 * e > 200 else 2e-5
        row.update(
            fused_min=-2.5 - 0.1 * rng.random(), fused_max=7 + rng.random(), fused_at_bounds=0.0, mri_std=1.0, ct_std=0.86
        )
        if e % 5 == 0:
            # The lesion head finds nothing at first, as real ones do.
            row["validation"] = {
                "brain_ssim": 0.99 * stage,
                "bone_ssim": 0.95 * stage,
                "bone_psnr": 28 * stage,
                "lesion_dice": 0.7 * stage if e > 10 else 0.0,
                "brain_ssim_context": 0.92 * stage,
                "bone_ssim_context": 0.8 * stage,
                "n_empty_pred": 20.0 if e <= 10 else 2.0,
                "n_empty_ref": 2.0,
                "n_cases": 20.0,
                "fused_at_bounds": 0.0,
            }
            row["baselines"] = {
                "paste": {"brain_ssim_context": 0.94, "bone_ssim_context": 0.5},
                "maximum": {"brain_ssim_context": 0.89, "bone_ssim_context": 0.8},
            }
        rows.append(row)
    return rows


def codes(rows: list[dict], run: dict | None = None, start: dict | None = None) -> list[str]:
    return [f.code for f in diagnose(Chart(rows, run if run is not None else RUN, start or {}))]


@pytest.mark.parametrize("epochs", [1, 3, 6, 11, 21, 60, 200])
@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_training_gets_no_finding_at_any_time(epochs: int, seed: int) -> None:
    assert codes(healthy(epochs, seed)) == []


def change(rows: list[dict], since: int = 1, validation: dict | None = None, **values: float) -> list[dict]:
    for row in rows:
        if row["epoch"] >= since:
            row.update(values)
            if validation and "validation" in row:
                row["validation"].update(validation)
    return rows


@pytest.mark.parametrize(
    ("rows", "code", "since"),
    [
        (change(healthy(40), validation={"bone_ssim": 0.0001}), "zero_ssim", 5),
        (change(healthy(40), validation={"brain_ssim": 0.0}), "zero_ssim", 5),
        (change(healthy(20), validation={"bone_psnr": -4.5}), "negative_psnr", 15),
        (change(healthy(12), loss_total=5.0), "flat_loss", 1),
        (change(healthy(12), since=4, fused_at_bounds=812.0, fused_min=-3.0, fused_max=5.0), "bounds", 4),
        (change(healthy(12), validation={"fused_at_bounds": 3.0}), "bounds", 5),
        (change(healthy(12), validation={"lesion_dice": 1.0}), "too_good", 5),
        (change(healthy(40), validation={"n_empty_pred": 20.0}), "nothing_predicted", 25),
        (change(healthy(30), since=8, gradient_share_bone=0.002, loss_bone=0.5), "starved", 8),
        (change(healthy(80), validation={"bone_ssim_context": 0.3, "brain_ssim_context": 0.8}), "worse_than_rules", 50),
        (change(healthy(30), since=20, learning_rate=3e-3), "learning_rate", 20),
        (change(healthy(30), since=20, learning_rate=1e-7), "learning_rate", 20),
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
    found = diagnose(Chart(change(healthy(40), validation={"bone_ssim": 0.0, "brain_ssim": 0.0}), RUN))
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


def test_a_folder_of_no_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the folder of a training, found no folder"):
        read_chart(tmp_path / "none")
    with pytest.raises(InputError, match="expected the history of a training"):
        read_chart(tmp_path)
    (tmp_path / "history.jsonl").write_text("")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: expected JSON"):
        read_chart(tmp_path)
    with pytest.raises(InputError, match="stop_on: expected never or critical, got 'always'"):
        Doctor(tmp_path, None, None, None, stop_on="always")


def test_gates() -> None:
    rows = healthy(60)
    passed = {(g["epoch"], g["metric"]): g["passed"] for g in gates(Chart(rows))}
    assert len(passed) == 8
    assert all(passed.values())
    early = [g["passed"] for g in gates(Chart(healthy(12)))]
    assert early == [None] * 8
    low = {(g["epoch"], g["metric"]): g["passed"] for g in gates(Chart(change(healthy(60), validation={"lesion_dice": 0.3})))}
    assert low[(50, "lesion_dice")] is False
    text = prescription(Chart(change(healthy(60), validation={"lesion_dice": 0.3}), RUN))
    assert "60 epochs, 12 validations, 0 findings" in text
    assert "gate of epoch 50: lesion_dice > 0.4: MISSED (0.300)" in text
    assert "gate of epoch 20: loss_total falling: passed" in text


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
    "schedule": {"validate#inferer#sampler": "$__import__('tests.engine.test_start_check', fromlist=['x']).one_step_sampler"},
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
    assert code in {f["code"] for f in stored}
    assert [f.code for f in found if f.severity == "critical"] == [code]


def test_a_healthy_training_is_left_in_peace(data: Path, tmp_path: Path) -> None:
    chart = train(data, tmp_path / "run")
    assert diagnose(chart) == []
    assert chart.start["cases"] > 0
    assert json.loads((tmp_path / "run" / "doctor.json").read_text()) == []


def test_a_critical_finding_can_stop_the_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as e:
        train(data, tmp_path / "run", stop_on="critical", beta=0.0)
    cause = e.value.__cause__
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__ or cause.__context__
    assert "doctor: stopped the training: the bone term has weight 0" in str(cause)
    assert not (tmp_path / "run" / "last.pt").exists()
