# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Two sites in FLARE's simulator, against the same two sites asked one after the other in this process."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pickle
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from conftest import BUNDLE
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.engine.weights import load_weights, record_of
from roi_fusion.errors import InputError
from roi_fusion_tools.cli.training import federated
from roi_fusion_tools.federated.job import read_rounds, run_federation

NEEDS_FLARE = pytest.mark.skipif(
    importlib.util.find_spec("nvflare") is None, reason="needs nvflare (pip install 'roi-fusion[federated]')"
)
KNOBS: dict[str, Any] = {
    "patch_size": [32, 32, 4],
    "num_inference_steps": 1,
    "precision": "fp32",
    "learning_rate": 0.001,
    "warmup_steps": 0,
}


@pytest.fixture(scope="module")
def sites(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five and three of the phantoms, with validation cases of their own."""
    root, cases = tmp_path_factory.mktemp("sites"), sorted(p for p in tiny_dataset.iterdir() if p.is_dir())
    folders = []
    for name, own in (("a", cases[:5]), ("b", cases[5:])):
        folders.append(root / name)
        folders[-1].mkdir()
        for case in own:
            (folders[-1] / case.name).symlink_to(case)
        names = [c.name for c in own]
        splits = {"train": names[:-1], "val": names[-1:], "test": []}
        (folders[-1] / "splits.json").write_text(json.dumps(splits))
    return folders


def weights_sent(folder: Path, number: int, dataset: Path) -> tuple[dict[str, np.ndarray], int, dict[str, float]]:
    """What a site of the first round answers, and that this is all that it says."""
    from nvflare.apis.dxo import from_shareable
    from nvflare.apis.fl_constant import ReservedKey
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.signal import Signal
    from nvflare.app_common.abstract.fl_model import FLModel
    from nvflare.app_common.utils.fl_model_utils import FLModelUtils

    from roi_fusion_tools.federated.site import SiteExecutor

    start = torch.load(folder / "flare" / "initial.pt", weights_only=True)
    context = FLContext()
    context.set_prop(ReservedKey.IDENTITY_NAME, f"site-{number}")
    site = SiteExecutor(str(dataset), str(folder / f"again-{number}"), 1, 1, KNOBS)
    asked = FLModelUtils.to_shareable(FLModel(params={k: v.numpy() for k, v in start.items()}, current_round=0, total_rounds=1))
    answer = site.execute("train", asked, context, Signal())
    dxo = from_shareable(answer)
    assert dxo.data_kind == "WEIGHT_DIFF"
    assert {k: v.shape for k, v in dxo.data.items()} == {k: tuple(v.shape) for k, v in start.items()}
    payload = pickle.dumps(answer)  # all that the answer holds; FLARE's own serialiser asks for a connection
    assert len(payload) < sum(v.nbytes for v in dxo.data.values()) + 50_000
    assert not any(word in payload for word in (b"phantom", str(dataset).encode(), str(folder).encode()))
    found = FLModelUtils.from_shareable(answer)
    assert all(isinstance(v, float) for v in found.metrics.values())
    return found.params, found.meta["NUM_STEPS_CURRENT_ROUND"], found.metrics


@pytest.mark.slow
@NEEDS_FLARE
def test_two_sites_in_the_simulator_average_what_each_has_learned(
    sites: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "federation"
    federated(dataset_dirs=tuple(map(str, sites)), output=str(folder), rounds=1, tracking=True, **KNOBS)
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("round ")]
    assert [line.split(":")[0] for line in said] == [f"round {r} of 1, site-{s}" for r in (0, 1) for s in (1, 2)]

    network = load_weights(RoiFusionNet(), folder / "model.pt", {"scheduler": "ddim"})
    assert record_of(network)["hu_points"] == [-1000, -100, 0, 80, 300, 1500]
    start = torch.load(folder / "flare" / "initial.pt", weights_only=True)
    answers = [weights_sent(folder, number, dataset) for number, dataset in enumerate(sites, 1)]
    steps = [answer[1] for answer in answers]
    assert steps == [2, 1]
    moved = 0.0
    for name, value in network.state_dict().items():
        mean = sum(n * answer[0][name].astype(np.float64) for n, answer in zip(steps, answers)) / sum(steps)
        np.testing.assert_allclose(value.numpy(), start[name].numpy() + mean, atol=2e-5)
        moved = max(moved, float(np.abs(mean).max()))
    assert moved > 2e-4

    rows = read_rounds(folder)
    assert [(r["round"], r["site"], r["steps"]) for r in rows[:2]] == [(0, "site-1", 2), (0, "site-2", 1)]
    for row, (_, _, metrics) in zip(rows, answers):
        assert row["metrics"] == pytest.approx(metrics, abs=1e-4)
    for before, row in zip(rows, rows[2:]):
        database = folder / row["site"] / "train" / "mlruns.db"
        assert logged(database, "select name, status from runs") == [(row["site"], "FINISHED")]
        values = logged(database, "select step, value from metrics where key = 'global/fusion/brain_ssim'")
        reached = [before["metrics"]["brain_ssim"], row["metrics"]["brain_ssim"]]
        assert dict(values) == pytest.approx(dict(enumerate(reached)))


def logged(database: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(database) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.slow
@NEEDS_FLARE
def test_a_site_that_fails_ends_the_federation_with_its_sentence(sites: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "one").mkdir(parents=True)
    (broken / "two").mkdir()
    for case in ("one", "two"):
        for name in ("mri.nii.gz", "ct.nii.gz"):
            (broken / case / name).write_bytes(b"no volume")
    (broken / "splits.json").write_text(json.dumps({"train": ["one"], "val": ["two"], "test": []}))
    with pytest.raises(InputError, match=r"expected 1 rounds of 2 sites, the federation ended before: site-2: .*(one|two)"):
        run_federation([sites[0], broken], tmp_path / "federation", rounds=1, knobs=KNOBS)
    assert not (tmp_path / "federation" / "model.pt").exists()


@NEEDS_FLARE
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rounds": 0}, "rounds: expected a whole number of 1 or more, got 0"),
        ({"local_epochs": -1}, "local_epochs: expected a whole number of 1 or more, got -1"),
        ({"knobs": {"preset": "$print(1)"}}, r"preset: expected a text that does not begin with \$, @ or %"),
    ],
)
def test_bad_input_is_one_sentence(sites: list[Path], tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run_federation(sites, tmp_path / "F", **change)
    with pytest.raises(InputError, match="dataset_dirs: expected two or more different folders"):
        run_federation([sites[0], sites[0]], tmp_path / "F")
    assert not (tmp_path / "F").exists()


@NEEDS_FLARE
def test_an_earlier_federation_is_not_overwritten(sites: list[Path], tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"found rounds\.jsonl of an earlier one"):
        run_federation(sites, tmp_path)


def test_without_nvflare_the_sentence_names_the_extra(
    sites: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def absent(name: str, *args: Any) -> Any:
        if name == "nvflare":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr("roi_fusion.errors.import_module", absent)
    with pytest.raises(InputError, match=r"pip install 'roi-fusion\[federated\]'"):
        federated(dataset_dirs=tuple(map(str, sites)), output=str(tmp_path / "F"))
    assert not (tmp_path / "F").exists()


def test_the_learning_rate_is_planned_over_all_rounds() -> None:
    """MONAI's client sets the trainer's epochs to those of one round; the plan must not end with it."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / f"{name}.json") for name in ("train", "federated")])
    parser.update({"max_epochs": 10, "train#trainer#max_epochs": 1, "warmup_steps": 0})
    parser["optimizer"] = "$torch.optim.SGD([torch.zeros(1)], lr=@learning_rate)"
    parser["train#dataloader"] = [0, 0]
    plan = parser.get_parsed_content("learning_rate_plan")
    rates = []
    for _ in range(20):
        rates.append(plan.get_last_lr()[0])
        plan.optimizer.step()
        plan.step()
    assert rates[0] == pytest.approx(1e-4)
    assert rates[10] == pytest.approx(7.5e-5)  # half of the cosine from 1e-4 to 5e-5
    ema = parser.get_parsed_content("ema")
    for _ in range(2):
        for parameter in parser.get_parsed_content("network").parameters():
            parameter.data += 1
        ema.update_parameters(parser.get_parsed_content("network"))
    own = parser.get_parsed_content("network").state_dict()
    assert all(torch.allclose(v, own[k]) for k, v in ema.module.state_dict().items())
