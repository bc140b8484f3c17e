# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A federation's job, by FLARE's Job API, run in FLARE's simulator: every site is a process of its own on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism

import roi_fusion
import roi_fusion_tools
from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.data.cases import load_datalist
from roi_fusion.engine.checkpoint import prepare_folder
from roi_fusion.engine.weights import load_weights, read_tensors, write_record
from roi_fusion.errors import InputError, import_needed
from roi_fusion.values import write_json

__all__ = ["make_job", "read_rounds", "run_federation"]

_NEEDED = "federated: expected the package nvflare, found none: pip install 'roi-fusion[federated]' installs it"
#: Classes that a job may name: FLARE's servers and sites build no others than their administrators allow.
_ALLOWED = [
    "roi_fusion_tools.federated.server.AveragingServer",
    "roi_fusion_tools.federated.site.SiteExecutor",
    "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor",
]
_CONFIGS = ("train.json", "federated.json")


def make_job(
    folder: Path,
    dataset_dirs: Sequence[Path],
    initial: Path,
    *,
    rounds: int,
    local_epochs: int,
    knobs: Mapping[str, Any],
    tracking: bool,
) -> Path:
    """Write the job that FLARE runs.

    Args:
        folder: of the federation; ``site-1/``, ``site-2/`` … in it belong to the sites.
        dataset_dirs: cases of each site.
        initial: weights to begin with, a bare state_dict.
        rounds, local_epochs, knobs, tracking: see :func:`run_federation`.

    Returns:
        The folder of the job.

    Raises:
        InputError: when nvflare is not installed.
    """
    import_needed("nvflare", _NEEDED)
    from nvflare.app_opt.pt.file_model_persistor import PTFileModelPersistor
    from nvflare.job_config.api import FedJob

    from .server import AveragingServer
    from .site import SiteExecutor

    job = FedJob(name="roi_fusion", min_clients=len(dataset_dirs), fail_fast=True)
    job.set_app_packages(["roi_fusion", "roi_fusion_tools"])  # are installed at each site, not sent
    job.to_server(AveragingServer(len(dataset_dirs), rounds, str(folder / "rounds.jsonl")))
    job.to_server(PTFileModelPersistor(source_ckpt_file_full_name=str(initial), load_device="cpu"), id="persistor")
    for number, dataset_dir in enumerate(dataset_dirs, 1):
        site = f"site-{number}"
        executor = SiteExecutor(str(dataset_dir), str(folder / site), rounds, local_epochs, dict(knobs), tracking)
        job.to(executor, site, tasks=["train", "validate"])
    job.export_job(str(folder / "flare" / "job"))
    return folder / "flare" / "job" / job.name


def run_federation(
    dataset_dirs: Sequence[str | Path],
    output_dir: str | Path,
    *,
    rounds: int = 5,
    local_epochs: int = 1,
    initial_weights: str | Path | None = None,
    tracking: bool = False,
    knobs: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Train one model at several sites, of which none sees another's cases.

    Args:
        dataset_dirs: folder of cases of each site, at least two.
        output_dir: gets ``model.pt``, the final global weights; ``rounds.jsonl``; ``flare.log``; and a folder for each site.
        rounds: how often the weights are averaged.
        local_epochs: epochs between two averages.
        initial_weights: weights to begin with, or None: a new network by the seed.
        tracking: each site logs to its own MLflow.
        knobs: of the training.

    Returns:
        The lines of ``rounds.jsonl``.

    Raises:
        InputError: when nvflare is not installed, a site's data cannot be used, or the federation came to no end.
    """
    import_needed("nvflare", _NEEDED)
    folder, datasets, knobs = Path(output_dir).resolve(), [Path(d).resolve() for d in dataset_dirs], dict(knobs or {})
    _check(datasets, rounds, local_epochs, knobs)
    if (folder / "rounds.jsonl").exists():
        raise InputError(f"{folder}: expected a folder without a federation, found rounds.jsonl of an earlier one in it")
    (folder / "flare").mkdir(parents=True, exist_ok=True)
    prepare_folder(folder)  # moves an earlier training aside
    parser = ConfigParser()
    parser.read_config([str(BUNDLE_ROOT / "configs" / name) for name in _CONFIGS])
    parser.update({name: value for name, value in knobs.items()})
    set_determinism(int(parser.get("seed")))
    network = parser.get_parsed_content("network_def")
    if initial_weights:
        load_weights(network, initial_weights)
    initial = folder / "flare" / "initial.pt"
    torch.save(network.state_dict(), initial)
    job = make_job(folder, datasets, initial, rounds=rounds, local_epochs=local_epochs, knobs=knobs, tracking=bool(tracking))
    said = _simulate(job, folder, len(datasets))
    found = sorted((folder / "flare" / "workspace").rglob("FL_global_model.pt"))
    rows = read_rounds(folder)
    if len(found) != 1 or len(rows) != len(datasets) * (rounds + 1):
        failed = [line for line in said if line.startswith("site-")]
        reason = failed[-1] if failed else "see flare.log"
        raise InputError(f"{folder}: expected {rounds} rounds of {len(datasets)} sites, the federation ended before: {reason}")
    weights = read_tensors(found[0], "global weights")["model"]
    names = network.state_dict()
    torch.save({name: torch.as_tensor(weights[name]).to(names[name].dtype) for name in names}, folder / "model.pt")
    write_record(
        folder / "model.pt", {name: parser.get_parsed_content(name) for name in ("scheduler", "hu_points", "scaled_points")}
    )
    load_weights(network, folder / "model.pt")
    return rows


def read_rounds(folder: str | Path) -> list[dict[str, Any]]:
    """Lines of ``rounds.jsonl``, ``{"round": 0, "site": "site-1", "steps": 4, "metrics": {...}}``; none without it."""
    path = Path(folder, "rounds.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _check(datasets: Sequence[Path], rounds: int, local_epochs: int, knobs: Mapping[str, Any]) -> None:
    """Before any process is started: what every site can be asked without being one."""
    if len(datasets) < 2 or len(set(datasets)) < len(datasets):
        raise InputError(f"dataset_dirs: expected two or more different folders, got {', '.join(map(str, datasets)) or 'none'}")
    for name, number in (("rounds", rounds), ("local_epochs", local_epochs)):
        if number < 1:
            raise InputError(f"{name}: expected a whole number of 1 or more, got {number}")
    for name, value in knobs.items():
        if isinstance(value, str) and value.startswith(("$", "@", "%")):
            raise InputError(f"{name}: expected a text that does not begin with $, @ or %, got {value}")
    for folder in datasets:
        for split in ("train", "val"):
            load_datalist(str(folder), split, int(knobs.get("seed") or 0), bool(knobs.get("allow_missing")))


def _simulate(job: Path, folder: Path, sites: int) -> list[str]:
    """Run a job; returns what server and sites said, which is shown as it comes. All else goes to ``flare.log``."""
    from .site import SAID

    local = folder / "flare" / "workspace" / "local"
    local.mkdir(parents=True, exist_ok=True)
    write_json(local / "resources.json", {"class_allow_list": _ALLOWED})

    roots = [str(Path(str(package.__file__)).parents[1]) for package in (roi_fusion, roi_fusion_tools)]
    paths = [*roots, *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(job)]
    command += ["-w", str(folder / "flare" / "workspace"), "-n", str(sites), "-t", str(sites)]  # a process for each site
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    said = []
    with (folder / "flare.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            _, mark, words = line.rstrip().partition(SAID)
            if mark:
                said.append(words)
                print(words, flush=True)
        process.wait()
    return said
