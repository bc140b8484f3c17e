# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.handlers import TensorBoardStatsHandler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers import engine_of, loss_target, perfect_prediction
from roi_fusion.core.losses import COMPONENTS, RoiFusionLoss
from roi_fusion.engine.handlers import (
    EpochSeeder,
    GradientClipper,
    LossComponents,
    NonFiniteGuard,
    TrainingStatistics,
    count_at_bounds,
)
from roi_fusion.errors import InputError


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
    target = loss_target()
    loss = RoiFusionLoss(beta=0.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.25)

    def step(engine: Engine, batch: object) -> None:
        pred = (perfect_prediction(target) + 0.1).requires_grad_()
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
    target = loss_target()
    loss = RoiFusionLoss()
    expected: list[dict[str, float]] = []

    def step(engine: Engine, batch: float) -> dict:
        total = loss(perfect_prediction(target) + batch, target)
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
