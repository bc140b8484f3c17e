# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the server of a federation runs: FLARE's federated averaging, with a record of what sites measured. Needs nvflare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.base_fedavg import BaseFedAvg

from .site import SAID

__all__ = ["SHOWN", "AveragingServer"]

#: Metrics that the console shows of each site and round.
SHOWN = ("brain_ssim", "bone_ssim", "lesion_dice", "score")


class AveragingServer(BaseFedAvg):
    """Federated averaging (McMahan et al. 2017), each site weighted by its steps; then all sites validate the last weights.

    Args:
        num_clients: sites.
        num_rounds: rounds of training.
        record: file that gets a line of JSON for each site and round: what the global weights *before* the round reach there;
            round `num_rounds` is the final model.
    """

    def __init__(self, num_clients: int, num_rounds: int, record: str) -> None:
        super().__init__(num_clients=num_clients, num_rounds=num_rounds)
        self.record = record

    def run(self) -> None:
        """The whole federation. A site that fails ends it."""
        model = self.load_model()
        model.total_rounds = self.num_rounds
        for number in range(self.num_rounds):
            self.current_round = number
            results = self._ask("train", model)
            model = self.update_model(model, self.aggregate(results))
            self.save_model(model)
        self.current_round = self.num_rounds
        self._ask("validate", model)

    def _ask(self, task: str, model: FLModel) -> list[FLModel]:
        model.current_round = self.current_round
        sites = self.sample_clients(self.num_clients)
        results = self.send_model_and_wait(task_name=task, data=model, targets=sites, min_responses=len(sites))
        if len(results) < len(sites):
            self.panic(f"round {self.current_round}: expected {len(sites)} answers, got {len(results)}")
            raise RuntimeError("a site has not answered")
        rows = sorted(({"round": self.current_round, **_row(r)} for r in results), key=lambda row: str(row["site"]))
        with Path(self.record).open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            shown = ", ".join(f"{name} {row['metrics'][name]:.3f}" for name in SHOWN if name in row["metrics"])
            steps = f"; {row['steps']} steps of training" if row["steps"] else ""
            print(f"{SAID}round {self.current_round} of {self.num_rounds}, {row['site']}: {shown}{steps}", flush=True)
        return results


def _row(result: FLModel) -> dict[str, Any]:
    meta = result.meta or {}
    return {
        "site": meta.get("client_name"),
        "steps": int(meta.get("NUM_STEPS_CURRENT_ROUND") or 0) if result.params else 0,
        "metrics": dict(result.metrics or {}),
    }
