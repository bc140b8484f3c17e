# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What runs on a worker of a Dask cluster: one case of an inference or evaluation, with the weights loaded once a worker."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from ..config.paths import set_as_typed
from ..data.cases import name_of
from ..data.results import versions
from ..errors import InputError, input_error_behind
from .weights import load_weights, sha256_of

__all__ = ["Job", "WorkerUnfit", "asker", "run_case"]

#: Handlers that a worker runs; tables, lines and refused cases are for the process that has the work done.
_HANDLERS = ("ResultWriter", "DicomWriter")


class WorkerUnfit(InputError):
    """A worker that cannot do the work, whatever the case."""


@dataclass(frozen=True)
class Job:
    """An inference or evaluation as a worker needs it.

    Attributes:
        config: top-level keys and their values, before they are resolved.
        typed: keys → texts that are no expressions, whatever they look like, such as paths.
        part: id of the part that holds data set, evaluator and handlers: ``validate``, or nothing.
        name: of the run; a worker that knows it has its weights loaded.
        sha256: of the weights.
        versions: that the results depend on.
    """

    config: dict[str, Any]
    typed: dict[str, str]
    part: str
    name: str
    sha256: str | None
    versions: dict[str, str]


class _State:
    """Evaluator and weights of a job on one worker."""

    def __init__(self, job: Job, worker: Any) -> None:
        at = f"worker {worker.address}"
        if versions() != job.versions:
            raise WorkerUnfit(f"cluster: expected the versions {_named(job.versions)} on {at}, got {_named(versions())}")
        parser = ConfigParser(_for_worker(job))
        set_as_typed(parser, job.typed)
        if not Path(job.typed["checkpoint"]).is_file():
            raise WorkerUnfit(f"cluster: expected the weights {job.typed['checkpoint']} on {at}, found no such file")
        if job.sha256 is not None and sha256_of(job.typed["checkpoint"]) != job.sha256:
            raise WorkerUnfit(
                f"cluster: expected weights of SHA-256 {job.sha256[:12]}… on {at}, got others: {job.typed['checkpoint']}"
            )
        device = _device_of(worker)
        if device is not None and torch.device(parser.get_parsed_content("device")).type != "cpu":
            cast(dict[str, Any], parser.config)["device"] = device
            parser.parse()
            set_as_typed(parser, job.typed)
        used_with = {k: parser.get_parsed_content(k) for k in ("scheduler", "hu_points", "scaled_points")}
        load_weights(parser.get_parsed_content("network"), job.typed["checkpoint"], used_with)
        prefix = f"{job.part}#" if job.part else ""
        self.seed = int(parser.get_parsed_content("seed"))
        self.evaluator = parser.get_parsed_content(f"{prefix}evaluator")
        self.dataset = parser.get_parsed_content(f"{prefix}dataset")

    def run(self, case: Mapping[str, Any]) -> dict[str, Any]:
        begun = time.monotonic()
        self.dataset.data = [dict(case)]
        self.dataset.errors.clear()
        set_determinism(self.seed)
        self.evaluator.state.epoch_length = 1
        self.evaluator.state.case_facts = []
        self.evaluator.run()
        state = self.evaluator.state
        return {
            "rows": [dict(row) for row in state.case_rows],
            "facts": [dict(facts) for facts in state.case_facts],
            "error": self.dataset.errors.get(name_of(case)),
            "seconds": round(time.monotonic() - begun, 2),
        }


_LOCK = threading.Lock()  # a worker with several threads has one network
_STATES: dict[tuple[str, str], _State] = {}


def run_case(job: Job, case: Mapping[str, Any]) -> dict[str, Any]:
    """Compute one case and write its results. A task of Dask's.

    Args:
        job: that it belongs to.
        case: entry of the data set, with absolute paths.

    Returns:
        ``rows`` of the table, ``facts`` of ``result.json``, the sentence if the case was refused as ``error``, and ``seconds``.

    Raises:
        WorkerUnfit: when this worker has other versions or weights.
    """
    from distributed import get_worker

    worker = get_worker()
    with _LOCK:
        key = (worker.address, job.name)
        if key not in _STATES:
            for other in [k for k in _STATES if k[0] == worker.address]:  # of an earlier run
                del _STATES[other]
            try:
                _STATES[key] = _State(job, worker)
            except Exception as e:
                found = input_error_behind(e)
                if found is None or isinstance(found, WorkerUnfit):
                    raise
                raise WorkerUnfit(f"cluster: worker {worker.address}: {found}") from None
        return _STATES[key].run(case)


def _named(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _for_worker(job: Job) -> dict[str, Any]:
    """The config with an empty data set, without handlers that write for all cases."""
    config = copy.deepcopy(job.config)
    holder = config[job.part] if job.part else config
    holder["dataset"]["data"] = []
    holder["handlers"] = [h for h in holder["handlers"] if h["_target_"].rsplit(".", 1)[-1] in _HANDLERS]
    config.update(cluster=None, shard=None, num_workers=0, mri=None, ct=None)
    return config


def _device_of(worker: Any) -> torch.device | None:
    """The GPU of a worker of a local cluster, by its number; None where that is for torch to say."""
    count = torch.cuda.device_count()
    return torch.device(f"cuda:{worker.name % count}") if count > 1 and isinstance(worker.name, int) else None


def asker(checkpoint: str, token: str) -> Callable[[], dict[str, Any]]:
    """A function that a worker runs to say what it has. It is sent by value: an older worker lacks this module.

    Args:
        checkpoint: file of the weights.
        token: file that lies in the folder of results.
    """

    def ask():  # type: ignore[no-untyped-def]
        import os

        try:
            from roi_fusion.data.results import versions
            from roi_fusion.engine.weights import sha256_of
        except ImportError as e:
            return {"missing": str(e)}
        sha256 = sha256_of(checkpoint) if os.path.isfile(checkpoint) else None
        return {"versions": versions(), "sha256": sha256, "sees": os.path.isfile(token)}

    return cast(Callable[[], dict[str, Any]], ask)
