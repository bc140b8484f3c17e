# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from monai.bundle import ConfigParser

from helpers import byte_cases
from roi_fusion import __version__
from roi_fusion.core.losses import RoiFusionLoss
from roi_fusion.data.fingerprint import data_hash
from roi_fusion.engine.run_record import git_commit, record_run

_ = record_run  # called from the config below


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("a")
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "file"], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull})
    return tmp_path


def test_the_commit_is_named_and_changes_are_marked(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    commit = git_commit(checkout)
    assert commit is not None
    assert len(commit) == 40
    (checkout / "untracked").write_text("b")
    assert git_commit(checkout) == commit
    (checkout / "file").write_text("c")
    assert git_commit(checkout) == commit + "+"
    assert git_commit(tmp_path_factory.mktemp("none")) is None
    assert git_commit(checkout / "no_such_folder") is None


def test_the_record_holds_what_a_training_was_started_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parser = ConfigParser(
        {
            "imports": ["$import roi_fusion", "$import torch"],
            "output_dir": str(tmp_path),
            "seed": 7,
            "beta": 0.5,
            "max_epochs": "$2 * 3",
            "device": "$torch.device('cpu')",
            "resume": None,
            "network_def": {"_target_": "roi_fusion.core.network.RoiFusionNet", "channels": [8, 8, 12, 12]},
            "loss": RoiFusionLoss("stroke", beta=0.5),
            "plan": SimpleNamespace(roi_fusion_plan={"peak": 1e-4}),
            "data": {"train": SimpleNamespace(data=byte_cases(tmp_path / "data"))},
            "run": "$roi_fusion.engine.run_record.record_run(@output_dir, @output_dir, @loss, @plan, @data)",
        }
    )
    parser.get_parsed_content("run")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["knobs"]["seed"] == 7
    assert record["knobs"]["max_epochs"] == 6
    assert record["knobs"]["device"] == "cpu"
    assert record["knobs"]["resume"] is None
    assert record["loss_weights"]["bone"] == 0.5
    assert record["loss_weights"]["lesion"] == 3.0
    assert record["network_def"]["channels"] == [8, 8, 12, 12]
    assert record["learning_rate_plan"] == {"peak": 1e-4}
    assert record["data"] == {"train": {"cases": 2, "lesion_masks": 0, "hash": data_hash(byte_cases(tmp_path / "data"))}}
    assert record["versions"]["roi_fusion"] == __version__
    assert record["git_commit"] is None
    assert "train: not one of 2 cases has a lesion_mask" in caplog.text
