# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from monai.engines import SupervisedTrainer

from roi_fusion.engine.checkpoint import load_weights, prepare_folder, prepare_training
from roi_fusion.errors import InputError


def net(width: int = 3) -> torch.nn.Module:
    return torch.nn.Linear(2, width)


def test_weights_load_bare_or_from_the_averages_of_a_training(tmp_path: Path) -> None:
    source, target = net(), net()
    torch.save(source.state_dict(), tmp_path / "model.pt")
    load_weights(target, tmp_path / "model.pt")
    assert torch.equal(target.weight, source.weight)
    averaged = torch.optim.swa_utils.AveragedModel(net())
    torch.save({"ema": averaged.state_dict(), "trainer": {}}, tmp_path / "last.pt")
    load_weights(target, tmp_path / "last.pt")
    assert torch.equal(target.weight, averaged.module.weight)


def test_weights_that_do_not_fit_are_refused_in_one_sentence(tmp_path: Path) -> None:
    def sentence(path: Path) -> str:
        with pytest.raises(InputError) as e:
            load_weights(net(), path)
        assert "\n" not in str(e.value)
        assert str(e.value).startswith(str(path))
        return str(e.value)

    assert "found no such file" in sentence(tmp_path / "none.pt")
    torch.save(net(4).state_dict(), tmp_path / "other.pt")
    assert "got another's (0 missing, 0 unknown, 2 of other shape, first bias)" in sentence(tmp_path / "other.pt")
    torch.save(torch.nn.Conv2d(1, 1, 1, bias=False).state_dict() | {"x": torch.zeros(1)}, tmp_path / "extra.pt")
    assert "1 missing, 1 unknown" in sentence(tmp_path / "extra.pt")
    data = (tmp_path / "other.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    assert "cannot be read" in sentence(tmp_path / "cut.pt")
    (tmp_path / "text.pt").write_text("hello")
    assert "expected weights of this network" in sentence(tmp_path / "text.pt")
    torch.save({"weight": Path("x")}, tmp_path / "pickled.pt")
    assert "pickled objects" in sentence(tmp_path / "pickled.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"weight": print}))
    assert "pickled objects" in sentence(tmp_path / "evil.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "expected a state_dict of tensors, got list" in sentence(tmp_path / "list.pt")


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
    done, same = trainer(2)
    with pytest.raises(InputError, match="expected an unfinished training, got one of 2 epochs with max_epochs 2"):
        prepare_training(done, tmp_path, str(tmp_path / "last.pt"), None, same, [])
    other, objects = trainer(9)
    objects["model"] = net(7)
    with pytest.raises(InputError, match="expected a checkpoint of this training, got another"):
        prepare_training(other, tmp_path, str(tmp_path / "last.pt"), None, objects, [])


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
