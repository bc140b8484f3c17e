# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.handlers import TensorBoardStatsHandler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.core.test_losses import make_target, perfect

from roi_fusion.core.losses import COMPONENTS, RoiFusionLoss
from roi_fusion.data.history import read_history
from roi_fusion.engine.checkpoint import CheckpointWriter
from roi_fusion.engine.handlers import (
    EpochSeeder,
    GradientClipper,
    LossComponents,
    NonFiniteGuard,
    TrainingStatistics,
    count_at_bounds,
)
from roi_fusion.engine.writers import ErrorsWriter, HistoryWriter
from roi_fusion.errors import InputError


def engine_of(step=lambda engine, batch: None) -> Engine:
    engine = Engine(step)
    engine.register_events(*IterationEvents)
    engine.logger.disabled = True
    return engine


def test_an_epoch_draws_the_same_however_it_is_reached() -> None:
    def draws(start: int) -> list[tuple]:
        seen: list[tuple] = []
        engine = engine_of(lambda e, b: seen.append((e.state.epoch, float(torch.rand(())), np.random.random_sample())))  # noqa: NPY002  # the global state is what is tested
        EpochSeeder(7).attach(engine)
        if start:
            engine.load_state_dict({"epoch": start, "max_epochs": 3, "epoch_length": 2})
        engine.run([0, 1], max_epochs=3)
        return seen

    whole = draws(0)
    assert draws(2) == [d for d in whole if d[0] == 3]
    assert len({d[1] for d in whole}) == len(whole)


def test_a_loss_that_is_not_finite_stops_and_names_component_and_files() -> None:
    loss = RoiFusionLoss()
    loss.components = {"diffusion": torch.tensor(1.0), "bone": torch.tensor(float("nan")), "total": torch.tensor(float("nan"))}
    engine = engine_of()
    engine.state.output = {"loss": torch.tensor(float("nan"))}
    engine.state.batch = {
        "image": MetaTensor(torch.rand(2, 1), meta={"filename_or_obj": ["d/c1/mri.nii.gz", "d/c2/mri.nii.gz"]})
    }
    with pytest.raises(InputError, match=r"got bone not finite for the batch of d/c1/mri\.nii\.gz, d/c2/mri\.nii\.gz"):
        NonFiniteGuard(loss)(engine)
    engine.state.output = {"loss": torch.tensor(1.0)}
    NonFiniteGuard(loss)(engine)


def test_gradients_are_clipped_and_their_norm_is_kept() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    engine = engine_of()
    GradientClipper([weight], 1.0)(engine)
    assert engine.state.gradient_norm == pytest.approx(5.0)
    assert weight.grad.norm() == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(InputError, match="gradient_clip"):
        GradientClipper([weight], 0.0)


def test_a_clamp_is_counted_and_free_or_saturated_extremes_are_not() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 2, 10, 10, 4)
    fused = 0.4 * image[:, :1] + 0.6 * image[:, 1:]
    assert count_at_bounds(fused, image) == 0
    clamped = fused.clamp(-1.0, 1.2)
    assert count_at_bounds(clamped, image) == int((fused <= -1).sum() + (fused >= 1.2).sum()) > 10
    metal = image.clone()
    metal[:, 1, :2, :2, 0] = 9.0  # beyond the companding's end: the same CT value in several voxels
    assert count_at_bounds(metal[:, 1:], metal) == 0
    assert count_at_bounds(clamped, torch.zeros_like(image)) == 0


def test_statistics_hold_every_component_and_its_share_of_the_gradient() -> None:
    target = make_target()
    loss = RoiFusionLoss(beta=0.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.25)

    def step(engine: Engine, batch: object) -> None:
        pred = (perfect(target) + 0.1).requires_grad_()
        total = loss(pred, target)
        engine.state.output = {"image": target["image"], "pred": pred, "loss": total}
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        total.backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)

    engine = engine_of(step)
    TrainingStatistics(loss, optimizer, gradient_every=1).attach(engine)
    engine.run([0, 1], max_epochs=1)
    metrics = engine.state.metrics
    for name in ("diffusion", "brain", "bone", "lesion", "masks", "total"):
        assert metrics[f"loss_{name}"] == pytest.approx(float(loss.components[name]), rel=1e-5)
    shares = [metrics[f"gradient_share_{n}"] for n in ("diffusion", "brain", "bone", "lesion", "masks")]
    assert sum(shares) == pytest.approx(1.0)
    assert metrics["gradient_share_bone"] == 0
    head = (target["image"] != 0).any(1, keepdim=True)
    assert metrics["mri_mean"] == pytest.approx(float(target["image"][:, :1][head].mean()), abs=1e-5)
    assert metrics["ct_std"] == pytest.approx(float(target["image"][:, 1:][head].std()), abs=1e-5)
    assert metrics["fused_min"] < metrics["fused_max"]
    assert metrics["fused_at_bounds"] == 0
    assert metrics["learning_rate"] == 0.25


def test_tensorboard_gets_every_component_of_every_iteration(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    target = make_target()
    loss = RoiFusionLoss()
    expected: list[dict[str, float]] = []

    def step(engine: Engine, batch: float) -> dict:
        total = loss(perfect(target) + batch, target)
        expected.append({k: float(v) for k, v in loss.components.items()})
        engine.state.metrics["loss_total"] = float(total)
        return {"loss": total}

    engine = engine_of(step)
    TensorBoardStatsHandler(log_dir=str(tmp_path), output_transform=LossComponents(loss)).attach(engine)
    engine.run([0.1, 0.2, 0.3], max_epochs=1)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {*(f"iteration_loss_{n}" for n in (*COMPONENTS, "total")), "loss_total"}
    for name in expected[0]:
        logged = [(e.step, e.value) for e in events.Scalars(f"iteration_loss_{name}")]
        assert logged == [(n, pytest.approx(row[name], rel=1e-5)) for n, row in enumerate(expected, start=1)], name
    assert not [w for w in recwarn if "non-scalar" in str(w.message)]


def test_history_is_one_line_an_epoch_and_a_resume_drops_what_it_repeats(tmp_path: Path) -> None:
    evaluator = SimpleNamespace(
        state=SimpleNamespace(
            metrics={"brain_ssim": 0.5, "lesion_dice": math.nan}, epoch=2, baselines={"paste": {"brain_ssim": 1.0}}
        )
    )
    engine = engine_of()
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(loss_total=1.0 / e.state.epoch))
    HistoryWriter(tmp_path, evaluator).attach(engine)
    engine.run([0], max_epochs=4)
    rows = read_history(tmp_path)
    assert [r["epoch"] for r in rows] == [1, 2, 3, 4]
    assert rows[1]["validation"] == {"brain_ssim": 0.5}  # missing is left out, not 0
    assert rows[1]["baselines"] == {"paste": {"brain_ssim": 1.0}}
    assert "validation" not in rows[2]
    with (tmp_path / "history.jsonl").open("a") as f:
        f.write('{"epoch": 5, "loss_')  # killed while writing
    assert len(read_history(tmp_path)) == 4
    again = engine_of()
    HistoryWriter(tmp_path).attach(again)
    again.load_state_dict({"epoch": 2, "max_epochs": 3, "epoch_length": 1})
    again.run([0], max_epochs=3)
    assert [r["epoch"] for r in read_history(tmp_path)] == [1, 2, 3]


def test_a_broken_or_missing_history_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the history of a training, found no such file"):
        read_history(tmp_path)
    (tmp_path / "history.jsonl").write_text('{"epoch": 1}\nnonsense\n{"epoch": 3}\n')
    with pytest.raises(InputError, match="expected one JSON object with an epoch in line 2, got 'nonsense'"):
        read_history(tmp_path)


def test_checkpoints_are_bare_or_whole_and_only_better_ones_replace(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    evaluator = SimpleNamespace(state=SimpleNamespace(metrics={}, key_metric_name="score", epoch=0))
    engine = engine_of()
    engine.state.epoch = 0
    best = CheckpointWriter(tmp_path, "model.pt", {"model": model}, bare=True, best_of=evaluator)
    last = CheckpointWriter(tmp_path, "last.pt", {"model": model, "best": best})

    def epoch(number: int, value: float, score: float | None) -> None:
        engine.state.epoch = number
        model.weight.data.fill_(value)
        if score is not None:
            evaluator.state.metrics, evaluator.state.epoch = {"score": score}, number
        best(engine)
        last(engine)

    def stored() -> float:
        return float(torch.load(tmp_path / "model.pt", weights_only=True)["weight"])

    epoch(1, 1.0, 0.3)
    assert stored() == 1.0
    epoch(2, 2.0, None)  # not validated
    assert stored() == 1.0
    epoch(3, 3.0, 0.2)
    assert stored() == 1.0
    epoch(4, 4.0, math.nan)
    assert stored() == 1.0
    epoch(5, 5.0, 0.4)
    assert stored() == 5.0
    whole = torch.load(tmp_path / "last.pt", weights_only=True)
    assert set(whole) == {"model", "best", "record"}
    assert whole["best"] == {"best": 0.4}
    fresh = CheckpointWriter(tmp_path, "model.pt", {"model": model}, bare=True, best_of=evaluator)
    fresh.load_state_dict(whole["best"])
    assert fresh.best == 0.4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "model.pt", "model.pt.json"]  # no scratch file stays


def test_refused_cases_are_written(tmp_path: Path) -> None:
    engine = engine_of()
    ErrorsWriter(tmp_path, [SimpleNamespace(errors={"a": "why a"}), SimpleNamespace(errors={}), object()]).attach(engine)
    engine.run([0], max_epochs=1)
    assert json.loads((tmp_path / "errors.json").read_text()) == {"a": "why a"}
