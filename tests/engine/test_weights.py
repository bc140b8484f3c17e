# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from roi_fusion.engine.weights import load_weights, record_of, sha256_of, write_record
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


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = net().state_dict()
    state["weight"][1, 1] = float("nan")
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"expected finite weights, got NaN or infinity in 1 tensors, first weight"):
        load_weights(net(), tmp_path / "model.pt")


def test_every_flipped_bit_is_found_where_there_is_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(net().state_dict(), path)
    (tmp_path / "model.pt.sha256").write_text(f"{sha256_of(path)}  model.pt\n")
    load_weights(net(), path)
    whole = path.read_bytes()
    for at in range(0, len(whole), len(whole) // 25):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(InputError):
            load_weights(net(), path)
    (tmp_path / "model.pt.sha256").write_text("\n")  # an empty hash is none
    path.write_bytes(whole)
    with pytest.raises(InputError, match="expected the weights of sha256"):
        load_weights(net(), path)


def test_weights_run_with_the_settings_that_they_were_trained_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "model.pt"
    torch.save(net().state_dict(), path)
    loaded = net()
    load_weights(loaded, path, {"scheduler": "ddim"})  # nothing is noted, nothing is known
    assert record_of(loaded) == {"scheduler": None, "roi_fusion": None, "checkpoint": str(path), "sha256": sha256_of(path)}
    write_record(path, {"scheduler": "rflow", "hu_points": [-1000, 0, 80]})
    load_weights(loaded, path, {"scheduler": "rflow", "hu_points": [-1000.0, 0.0, 80.0]})
    assert record_of(loaded)["scheduler"] == "rflow"
    with pytest.raises(InputError, match=r"scheduler: expected rflow, which .*model\.pt were trained with, got ddim"):
        load_weights(net(), path, {"scheduler": "ddim"})
    with pytest.raises(InputError, match="hu_points: expected"):
        load_weights(net(), path, {"hu_points": [-1000, 0, 100]})
    torch.save(net().state_dict(), path)  # other weights: the record is not theirs
    load_weights(net(), path, {"scheduler": "ddim"})
    assert "describes other weights" in caplog.text


def test_the_shipped_weights_have_a_record() -> None:
    from conftest import BUNDLE

    path = BUNDLE / "models" / "model.pt"
    record = json.loads(path.with_name("model.pt.json").read_text())
    assert record["sha256"] == sha256_of(path)
    config = json.loads((BUNDLE / "configs" / "inference.json").read_text())
    assert {k: record[k] for k in ("scheduler", "hu_points", "scaled_points")} == {
        k: config[k] for k in ("scheduler", "hu_points", "scaled_points")
    }
