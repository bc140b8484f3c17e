# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The server's averaging against a plain sum, with sites that are stand-ins."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs nvflare (pip install 'roi-fusion[federated]')")

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from roi_fusion_tools.federated.server import AveragingServer

STEPS = {"site-1": 1, "site-2": 3}


def a_server(record: Path, answers: int = 2) -> tuple[AveragingServer, list[tuple[str, int, float]]]:
    """A server whose sites add 1 and 5 to the weights; what it asked for and sent is listed."""
    asked: list[tuple[str, int, float]] = []
    server = AveragingServer(2, 2, str(record))

    def send(task_name: str, data: FLModel, **kwargs: object) -> list[FLModel]:
        assert kwargs == {"targets": list(STEPS), "min_responses": 2}
        asked.append((task_name, data.current_round, float(data.params["w"][0])))
        results = []
        for site, change in (("site-2", 5.0), ("site-1", 1.0)):
            results.append(FLModel(metrics={"brain_ssim": 0.5, "n_cases": 1}, current_round=data.current_round))
            results[-1].meta = {"client_name": site}
            if task_name == "train":
                results[-1].params, results[-1].params_type = {"w": np.full(2, change)}, ParamsType.DIFF
                results[-1].meta["NUM_STEPS_CURRENT_ROUND"] = STEPS[site]
        return results[:answers]

    server.load_model = lambda: FLModel(params={"w": np.zeros(2)})  # type: ignore[method-assign]
    server.send_model_and_wait = send  # type: ignore[method-assign, assignment]
    server.sample_clients = lambda number=None: list(STEPS)  # type: ignore[method-assign]
    server.save_model = lambda model: asked.append(("save", server.current_round, float(model.params["w"][0])))  # type: ignore
    server.event = lambda *args: None  # type: ignore[method-assign]
    server.fire_event_with_data = lambda *args: None  # type: ignore[method-assign]
    server.fl_ctx = FLContext()
    server.panic = lambda reason: asked.append((reason, 0, 0.0))  # type: ignore[method-assign]
    return server, asked


def test_sites_count_by_their_steps_and_the_last_weights_are_validated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, asked = a_server(tmp_path / "rounds.jsonl")
    server.run()
    mean = (1 * 1.0 + 3 * 5.0) / 4
    assert asked == [
        ("train", 0, 0.0),
        ("save", 0, mean),
        ("train", 1, mean),
        ("save", 1, 2 * mean),
        ("validate", 2, 2 * mean),
    ]
    rows = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [(r["round"], r["site"], r["steps"]) for r in rows] == [
        (0, "site-1", 1),
        (0, "site-2", 3),
        (1, "site-1", 1),
        (1, "site-2", 3),
        (2, "site-1", 0),
        (2, "site-2", 0),
    ]
    assert all(r["metrics"] == {"brain_ssim": 0.5, "n_cases": 1} for r in rows)
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "federated: round 0 of 2, site-2: brain_ssim 0.500; 3 steps of training"
    assert said[-1] == "federated: round 2 of 2, site-2: brain_ssim 0.500"


def test_a_site_that_does_not_answer_ends_the_federation(tmp_path: Path) -> None:
    server, asked = a_server(tmp_path / "rounds.jsonl", answers=1)
    with pytest.raises(RuntimeError):
        server.run()
    assert asked[-1][0] == "round 0: expected 2 answers, got 1"
    assert not (tmp_path / "rounds.jsonl").exists()
