# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""``run.json``: what a training was started with, so that its numbers can be traced to code, data and knobs."""

from __future__ import annotations

import logging
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from ..config.bundle_run import calling_parser
from ..config.knobs import KNOBS
from ..core.losses import RoiFusionLoss
from ..data.fingerprint import data_hash
from ..data.results import versions
from ..values import is_first_rank, write_json
from .weights import public_record

__all__ = ["git_commit", "record_run"]

logger = logging.getLogger(__name__)

_WITHOUT_LESIONS = "nothing is learnt or measured of lesions"


def git_commit(folder: str | Path) -> str | None:
    """The commit that `folder` is at, with ``+`` where files differ from it; None outside of a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+" if git("status", "--porcelain", "--untracked-files=no", ".") else "")


def record_run(
    output_dir: str | Path,
    bundle_root: str | Path,
    loss: RoiFusionLoss,
    plan: Any,
    datasets: Mapping[str, Any],
    network: torch.nn.Module | None = None,
) -> None:
    """Write ``run.json``. An expression of the run list: the knobs are read from the config that it is part of.

    Args:
        output_dir: folder of the training.
        bundle_root: the bundle's folder, whose commit is noted.
        loss: its weights are noted.
        plan: learning-rate plan, from :func:`~roi_fusion.engine.training.plan_learning_rate`.
        datasets: name → data set; their cases and hash are noted.
        network: the weights that it started from are noted, see :func:`~roi_fusion.engine.weights.record_of`.
    """
    parser = calling_parser()
    knobs = {name: parser.get_parsed_content(name) for name in KNOBS if name in cast(dict[str, Any], parser.config)}
    if not is_first_rank():
        return
    for name, dataset in datasets.items():
        painted = all(set(case) == {"case"} for case in dataset.data)  # the cases of synthesis are drawn later
        if not painted and not any("label" in case for case in dataset.data):
            logger.warning("%s: not one of %d cases has a lesion_mask: %s", name, len(dataset.data), _WITHOUT_LESIONS)
    plain = {k: v if isinstance(v, (int, float, str, list, bool, type(None))) else str(v) for k, v in knobs.items()}
    write_json(
        Path(output_dir) / "run.json",
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "knobs": plain,
            "network_def": cast(dict[str, Any], parser.config).get("network_def"),
            "loss_weights": loss.weights,
            "learning_rate_plan": plan.roi_fusion_plan,
            "initial_weights": (public_record(network) if network is not None else {}) or None,
            "git_commit": git_commit(bundle_root),
            "data": {
                name: {"cases": len(d.data), "lesion_masks": sum("label" in c for c in d.data), "hash": data_hash(d.data)}
                for name, d in datasets.items()
            },
            "versions": versions(),
            "platform": platform.platform(),
        },
    )
