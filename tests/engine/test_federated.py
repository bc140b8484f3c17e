# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""MONAI's own federated client on the bundle, in process: a round of training and of evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from conftest import BUNDLE
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.engine.training import DenoisingModel

WIDTHS = {"channels": [8, 8, 8, 8], "denoiser_channels": [4, 4, 4]}


def test_the_trainers_network_has_the_keys_of_the_network(net: RoiFusionNet) -> None:
    wrapped = DenoisingModel(net)
    assert list(wrapped.state_dict()) == list(net.state_dict())
    changed = {k: v + 1 for k, v in net.state_dict().items()}
    other = DenoisingModel(RoiFusionNet(channels=(8, 8, 12, 12), denoiser_channels=(4, 4, 6), detail_channels=4))
    assert str(other.load_state_dict(changed)) == "<All keys matched successfully>"
    assert all(torch.equal(v, changed[k]) for k, v in other.network.state_dict().items())
    inside = torch.nn.Sequential(other)  # as DDP holds it
    assert list(inside.state_dict()) == [f"0.{k}" for k in net.state_dict()]
    inside.load_state_dict({f"0.{k}": v for k, v in net.state_dict().items()})
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in other.network.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        wrapped.load_state_dict({})


def test_a_federated_round(tiny_dataset: Path, tmp_path: Path) -> None:
    """initialize, train, get_weights, evaluate, as a federation calls them; the server adds the difference to its weights."""
    knobs = {
        "dataset_dir": str(tiny_dataset),
        "output_dir": str(tmp_path / "run"),
        "evaluation_dir": str(tmp_path / "evaluation"),
        "patch_size": [32, 32, 4],
        "num_inference_steps": 1,
        "num_samples": 1,
        "precision": "fp32",
        "device": "$torch.device('cpu')",
        **{f"network_def#{k}": v for k, v in WIDTHS.items()},
    }
    client = MonaiAlgo(str(BUNDLE), local_epochs=1, train_kwargs=dict(knobs), eval_kwargs=dict(knobs))
    with pytest.warns(UserWarning, match="provisioned by the FL system"):
        client.initialize({ExtraItems.CLIENT_NAME: "site-1"})
    torch.manual_seed(1)
    server = RoiFusionNet(**WIDTHS).state_dict()
    start = {k: v.clone() for k, v in server.items()}
    for epoch in (1, 2):
        client.train(ExchangeObject(weights=server))
        sent = client.get_weights()
        assert sent.weight_type == WeightType.WEIGHT_DIFF
        assert set(sent.weights) == set(server)
        assert sent.statistics["total_epochs"] == epoch
        server = {k: v + sent.weights[k] for k, v in server.items()}
    assert any(not torch.equal(server[k], start[k]) for k in server)
    metrics = client.evaluate(ExchangeObject(weights=server)).metrics
    assert 0 < metrics["brain_ssim"] <= 1
    used = client.evaluator.network.state_dict()
    assert all(torch.equal(used[k], v) for k, v in server.items())
    test = json.loads((tiny_dataset / "splits.json").read_text())["test"]
    assert sorted(p.name for p in (tmp_path / "evaluation").iterdir() if p.is_dir()) == sorted(test)
    client.finalize()
