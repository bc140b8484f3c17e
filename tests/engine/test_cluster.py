# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from in_process import run_bundle
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.engine import cluster
from roi_fusion.engine.cluster import Cluster
from roi_fusion.engine.cluster_worker import Job, WorkerUnfit
from roi_fusion.errors import InputError

distributed = pytest.importorskip("distributed", reason="the cluster needs Dask (pip install .[cluster])")

SMALL: dict[str, Any] = {"channels": [8, 8, 12, 12], "denoiser_channels": [4, 4, 6]}
NETWORK = [a for name, value in SMALL.items() for a in (f"--network_def#{name}", json.dumps(value))]
TABLES = ("metrics.csv", "summary.json", "errors.json")


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Three cases, one of which cannot be read."""
    for folder in sorted(p for p in tiny_dataset.iterdir() if p.is_dir())[:3]:
        shutil.copytree(folder, tmp_path / "data" / folder.name)
    (tmp_path / "data" / folder.name / "ct.nii.gz").write_bytes(b"no gzip")
    torch.manual_seed(0)
    torch.save(RoiFusionNet(**SMALL).state_dict(), tmp_path / "weights.pt")
    return tmp_path / "data"


def infer(data: Path, out: Path, *more: str, ok: bool = True) -> str:
    knobs = {"dataset_dir": data, "output_dir": out, "checkpoint": data.parent / "weights.pt"}
    few = {"num_inference_steps": 1, "num_samples": 1}
    given = [a for name, value in {**knobs, **few}.items() for a in (f"--{name}", str(value))]
    return run_bundle("--config_file", "configs/inference.json", *given, *NETWORK, *more, ok=ok)


def same(one: Path, other: Path, names: tuple[str, ...] = TABLES) -> None:
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture
def scheduler() -> Iterator[str]:
    """A scheduler in this process, with a worker of two threads."""
    with distributed.LocalCluster(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as found:
        yield found.scheduler_address


def test_a_cluster_leaves_what_one_process_leaves(data: Path, tmp_path: Path, scheduler: str) -> None:
    one, other = tmp_path / "one" / "out", tmp_path / "other" / "out"
    infer(data, one)
    said = infer(data, other, "--cluster", scheduler)
    same(one, other)
    cases = {p.parent.name for p in one.glob("*/result.json")}
    assert len(cases) == 2
    for case in cases:
        same(one / case, other / case, ("lesion_prob.nii.gz", "fused.nii.gz", "result.json"))
        notes = [json.loads((o / case / "metrics.json").read_text()) for o in (one, other)]
        assert notes[0]["made_of"] == notes[1]["made_of"]
        assert notes[1]["seconds"] > 0
        assert f"{case}  " in said
    assert "dashboard" in said
    assert "2 cases are done" in infer(data, other)  # of the same settings, wherever they were computed


def test_a_scheduler_that_is_away_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_SCHEDULER_SECONDS", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        said = infer(data, tmp_path / "out", "--cluster", address, ok=False)
        assert "error: cluster: expected local, slurm or the address of a Dask scheduler that answers" in said
        assert "Traceback" not in said
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "expected Slurm's sbatch on this machine, found none" in infer(
        data, tmp_path / "out", "--cluster", "slurm", ok=False
    )
    mri = next(data.glob("*/mri.nii.gz"))
    single = infer(data, tmp_path / "out", "--mri", str(mri), "--cluster", "local", ok=False)
    assert "cluster: expected dataset_dir beside it, got a single pair" in single


VERSIONS = {"roi_fusion": "1.0", "torch": "2.0"}
FIT = {"versions": VERSIONS, "sha256": "abc", "sees": True}


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"missing": "No module named 'roi_fusion'"}, "expected roi_fusion 1.0 on worker tcp://w, got No module"),
        ({**FIT, "versions": {"roi_fusion": "0.9", "torch": "2.0"}}, "expected roi_fusion 1.0 on worker tcp://w, got 0.9"),
        ({**FIT, "sha256": None}, "expected the weights model.pt on worker tcp://w, found no such file"),
        ({**FIT, "sha256": "abd"}, "expected weights of SHA-256 abc… on worker tcp://w, got others"),
        ({**FIT, "sees": False}, "expected a folder of results that worker tcp://w shares"),
        (OSError("lost"), "expected roi_fusion 1.0 on worker tcp://w, got OSError: lost"),
    ],
)
def test_a_worker_that_is_unfit_is_named(tmp_path: Path, answer: Any, sentence: str) -> None:
    job = Job({}, {"checkpoint": "model.pt"}, "", "run", "abc", VERSIONS)
    client = SimpleNamespace(run=lambda ask, on_error: {"tcp://v": FIT, "tcp://w": answer})
    with pytest.raises(InputError, match="cluster: ") as error:
        Cluster()._ask_workers(client, job, tmp_path)
    assert sentence in str(error.value)
    assert list(tmp_path.iterdir()) == []
    Cluster()._ask_workers(SimpleNamespace(run=lambda ask, on_error: {"tcp://v": FIT}), job, tmp_path)


def failed(error: BaseException, status: str = "error") -> Any:
    return SimpleNamespace(status=status, exception=lambda: error)


def test_what_becomes_of_a_case_that_failed() -> None:
    own = Cluster()
    lost = distributed.KilledWorker("task", SimpleNamespace(address="tcp://w"), 1)
    assert own._result_of("a", failed(lost))["error"] == "a: expected a worker to finish it, lost one and the next"
    refused = own._result_of("a", failed(RuntimeError("CUDA out of memory\nmore")))
    assert refused["error"] == "a: expected a usable case, got RuntimeError: CUDA out of memory"
    with pytest.raises(OSError, match="full"):
        own._result_of("a", failed(OSError(errno.ENOSPC, "full")))
    with pytest.raises(WorkerUnfit):
        own._result_of("a", failed(WorkerUnfit("cluster: no")))
    with pytest.raises(InputError, match="to stay, lost it; finished cases stay"):
        own._result_of("a", failed(RuntimeError(), "cancelled"))


def test_slurm_gets_jobs_of_one_worker_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for sbatch and scancel; the jobs are those that dask-jobqueue writes."""
    pytest.importorskip("dask_jobqueue")
    submit = f'#!/bin/sh\ncp "$1" {tmp_path}/job$$.txt; echo "Submitted batch job $$"\n'
    for name, text in (("sbatch", submit), ("scancel", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Cluster(workers=2, memory="3GiB")._slurm():
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("job*.txt"))) < 2 and time.monotonic() < until:
            time.sleep(0.1)
    jobs = [p.read_text() for p in sorted(tmp_path.glob("job*.txt"))]
    assert len(jobs) == 2
    for job in jobs:
        assert "#SBATCH --cpus-per-task=2" in job
        assert "#SBATCH --mem=4G" in job or "#SBATCH --mem=3G" in job
        assert "--nthreads 1" in job
        assert "export OMP_NUM_THREADS=2" in job


def kill_a_worker(out: Path, killed: list[int]) -> None:
    """Once a case is being written, ``kill -9`` of a worker process of this one."""
    import psutil

    until = time.monotonic() + 500
    while time.monotonic() < until:
        if any(out.glob(".*.partial")):
            workers = [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
            if workers:
                os.kill(workers[0].pid, signal.SIGKILL)
                killed.append(workers[0].pid)
                return
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_worker_loses_nothing(data: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one" / "out", tmp_path / "other" / "out"
    infer(data, one)
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(other, killed))
    killer.start()
    infer(data, other, "--cluster", "local", "--cluster_workers", "2")
    killer.join()
    assert killed
    same(one, other)


@pytest.mark.slow
def test_an_evaluation_on_a_cluster_leaves_what_one_process_leaves(data: Path, tmp_path: Path, scheduler: str) -> None:
    names = sorted(p.name for p in data.iterdir())
    (data / "splits.json").write_text(json.dumps({"train": [], "val": [], "test": names}))
    for name, more in (("one", []), ("other", ["--cluster", scheduler])):
        knobs = {"dataset_dir": data, "output_dir": tmp_path / name, "checkpoint": tmp_path / "weights.pt"}
        few = {"num_inference_steps": 1, "num_samples": 1}
        given = [a for n, value in {**knobs, **few}.items() for a in (f"--{n}", str(value))]
        run_bundle("--config_file", "['configs/train.json','configs/evaluate.json']", *given, *NETWORK, *more)
    same(tmp_path / "one" / "evaluation", tmp_path / "other" / "evaluation")
