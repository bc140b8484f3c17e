# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from monai.engines import SupervisedTrainer

from helpers import engine_of
from roi_fusion.engine.checkpoint import (
    CheckpointWriter,
    prepare_folder,
    prepare_training,
    publish_weights,
    run_training,
)
from roi_fusion.engine.weights import load_weights, record_of, sha256_of
from roi_fusion.errors import InputError


def net(width: int = 3) -> torch.nn.Module:
    return torch.nn.Linear(2, width)


def trainer(epochs: int = 3) -> tuple[SupervisedTrainer, dict]:
    model = net(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=[{"image": torch.rand(2, 2), "label": torch.rand(2, 1)}],
        network=model,
        optimizer=optimizer,
        loss_function=torch.nn.MSELoss(),
        decollate=False,
    )
    engine.logger.disabled = True
    return engine, {"model": model, "optimizer": optimizer, "trainer": engine}


def test_a_training_is_continued(tmp_path: Path) -> None:
    engine, objects = trainer(2)
    prepare_training(engine, tmp_path, None, None, objects, [])
    engine.run()
    again, restored = trainer(5)
    prepare_training(again, tmp_path, str(tmp_path / "last.pt"), None, restored, [])
    assert again.state.epoch == 2
    assert torch.equal(restored["model"].weight, objects["model"].weight)
    again.run()
    assert again.state.epoch == 5


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    engine, objects = trainer(2)
    with pytest.raises(InputError, match=r"last\.pt: expected a checkpoint to resume \(last\.pt\), found no such file"):
        prepare_training(engine, tmp_path, str(tmp_path / "last.pt"), None, objects, [])
    torch.save(net().state_dict(), tmp_path / "model.pt")
    with pytest.raises(InputError, match="got a file without model, optimizer, trainer"):
        prepare_training(engine, tmp_path, str(tmp_path / "model.pt"), None, objects, [])
    prepare_training(engine, tmp_path, None, None, objects, [])
    engine.run()
    other, objects = trainer(9)
    objects["model"] = net(7)
    with pytest.raises(InputError, match="expected a checkpoint of this training, got another"):
        prepare_training(other, tmp_path, str(tmp_path / "last.pt"), None, objects, [])


def test_a_training_that_was_killed_after_its_last_epoch_has_only_its_report_left(tmp_path: Path) -> None:
    engine, objects = trainer(2)
    prepare_training(engine, tmp_path, None, None, objects, [])
    run_training(engine)
    done, same = trainer(2)
    prepare_training(done, tmp_path, str(tmp_path / "last.pt"), None, same, [])
    run_training(done)  # ignite would start it again from the first epoch
    assert done.state.epoch == 2
    assert torch.equal(same["model"].weight, objects["model"].weight)


def cases(folder: Path, text: str = "mri") -> SimpleNamespace:
    folder.mkdir(exist_ok=True)
    (folder / "mri.nii.gz").write_text(text)
    return SimpleNamespace(data=[{"case": "a", "image": str(folder / "mri.nii.gz")}], errors={})


def test_a_data_set_that_changed_is_resumed_only_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine, objects = trainer(1)
    prepare_training(engine, tmp_path, None, None, objects, [cases(tmp_path / "d")])
    engine.run()
    last = str(tmp_path / "last.pt")

    def resume(text: str, **knobs: object) -> None:
        again, restored = trainer(5)
        prepare_training(again, tmp_path, last, None, restored, [cases(tmp_path / "d", text)], **knobs)
        assert again.state.epoch == 1

    resume("mri")
    with pytest.raises(InputError, match="got a data set that changed since; --resume_changed true goes on with it"):
        resume("another mri")
    resume("another mri", resume_changed="true")
    assert "a data set that changed since" in caplog.text


def test_a_training_is_not_resumed_with_another_schedule(tmp_path: Path) -> None:
    def writer(scheduler: str) -> CheckpointWriter:
        return CheckpointWriter(tmp_path, "model.pt", {}, bare=True, record={"scheduler": scheduler})

    engine, objects = trainer(1)
    best = writer("ddim")
    best.objects = {"model": objects["model"]}
    prepare_training(engine, tmp_path, None, best, objects, [])
    engine.run()
    again, restored = trainer(5)
    with pytest.raises(InputError, match=r"scheduler: expected ddim, which .*last\.pt was trained with, got rflow"):
        prepare_training(again, tmp_path, str(tmp_path / "last.pt"), writer("rflow"), restored, [])


def test_published_weights_bring_their_hash_and_record(tmp_path: Path) -> None:
    run, models = tmp_path / "run", tmp_path / "models"
    models.mkdir()
    torch.save(net(1).state_dict(), models / "model.pt")
    (models / "model.pt.sha256").write_text(f"{sha256_of(models / 'model.pt')}  model.pt\n")
    engine, objects = trainer(1)
    CheckpointWriter(run, "model.pt", {"model": objects["model"]}, bare=True, record={"scheduler": "rflow"}).attach(engine)
    engine.run()
    (run / "run.json").write_text('{"knobs": {}}')
    publish_weights(run, models)
    loaded = net(1)
    load_weights(loaded, models / "model.pt")  # its sha256 file is asked
    assert torch.equal(loaded.weight, objects["model"].weight)
    noted = record_of(loaded)
    assert (noted["scheduler"], noted["sha256"], noted["epoch"]) == ("rflow", sha256_of(models / "model.pt"), 1)
    assert json.loads((run / "run.json").read_text())["weights"]["sha256"] == noted["sha256"]
    assert (models / "previous.pt").is_file()


def test_an_earlier_training_is_moved_aside_and_not_lost(tmp_path: Path) -> None:
    run = tmp_path / "run"
    prepare_folder(run)
    assert run.is_dir()
    (run / "last.pt").write_text("old")
    (run / "mine.txt").write_text("mine")
    prepare_folder(run, resume=str(run / "last.pt"))
    assert (run / "last.pt").exists()
    prepare_folder(run)
    assert not (run / "last.pt").exists()
    assert [p.read_text() for p in run.glob("previous-*/last.pt")] == ["old"]
    assert (run / "mine.txt").exists()


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
