# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The cases of an inference or evaluation as tasks of a Dask cluster: local, by a scheduler's address, or on Slurm.

Dask deals out the cases, runs one again that a worker was lost with, and has the dashboard. What comes back goes through the
same handlers as in a run of one process, so that tables, lines and refused cases are the same.
"""

from __future__ import annotations

import copy
import errno
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ignite.engine import Engine

from ..config.bundle_run import calling_parser
from ..config.paths import taken_as_typed
from ..data.cases import name_of
from ..data.results import versions
from ..errors import InputError, import_needed
from .cluster_worker import Job, WorkerUnfit, asker, run_case
from .progress import CaseProgress
from .weights import record_of
from .writers import ErrorsWriter, TableWriter

if TYPE_CHECKING:
    from .resume import Resume

__all__ = ["Cluster"]

logger = logging.getLogger(__name__)

_NEEDED = "cluster: expected the packages of Dask, found none: pip install 'roi-fusion[cluster]' installs them"
#: Seconds to wait for a scheduler, and for the first worker of one that is there.
_SCHEDULER_SECONDS, _WORKER_SECONDS = 15, 60
#: How often a case may take a worker with it before it is given up.
_RETRIES = 1
#: Of the operating system: no room, or no right to write; no case can be written then.
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class Cluster:
    """Runs the cases that are left on a cluster. A part of a config.

    Args:
        address: ``local``, ``slurm``, or the address of a Dask scheduler; None: no cluster.
        workers: processes of a local cluster, jobs of Slurm; None: one for two processor cores or for each GPU, 4 jobs.
        memory: limit of each worker, such as ``4GiB``; None: an equal share of this machine, Slurm's configuration.
        part: id of the config's part with data set, evaluator and handlers: ``validate``, or nothing.
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, memory: str | None = None, part: str = ""
    ) -> None:
        self.address, self.workers, self.memory, self.part = address, workers, memory, part
        self._config: dict[str, Any] = {}
        self._typed: dict[str, str] = {}
        if address is not None:
            parser = calling_parser()
            config = cast(dict[str, Any], parser.config)
            self._config = copy.deepcopy(config)
            self._typed = {n: config[n] for n in taken_as_typed(parser) if config[n][:1] in ("$", "@", "%")}

    def run(self, resume: Resume, evaluator: Any, handlers: Sequence[Any]) -> None:
        """Compute the cases of the resumed data set; leaves the rows in ``evaluator.state.case_rows``.

        Args:
            resume: with the cases that are left.
            evaluator: that a single process would run.
            handlers: of the evaluator, of which those that write for all cases are used.

        Raises:
            InputError: when the cluster is away, or a worker lacks the weights or has other versions.
        """
        distributed = import_needed("distributed", _NEEDED)
        cases = resume.dataset.data
        if not all("case" in case and "folder" in case for case in cases):
            raise InputError("cluster: expected dataset_dir beside it, got a single pair")
        job = self._job(resume, evaluator)
        with self._client(evaluator) as client:
            logger.info("cluster: %s  dashboard: %s", client.scheduler.address, client.dashboard_link)
            self._ask_workers(client, job, resume.output_dir)
            workers = client.scheduler_info(n_workers=-1)["workers"].values()
            gpu = any(worker.get("resources", {}).get("GPU") for worker in workers)
            shared = client.submit(_same, job, pure=False)  # sent once, and made again where its worker is lost
            futures = {
                client.submit(
                    run_case,
                    shared,
                    {k: v if k == "case" else os.path.abspath(v) for k, v in case.items()},
                    key=f"{case['case']}-{job.name}",
                    retries=_RETRIES,
                    pure=False,
                    resources={"GPU": 1} if gpu else None,
                ): name_of(case)
                for case in cases
            }
            done = ((futures[future], future) for future in distributed.as_completed(list(futures)))
            self._collect(done, resume, evaluator, handlers)

    def _collect(self, done: Iterable[tuple[str, Any]], resume: Resume, evaluator: Any, handlers: Sequence[Any]) -> None:
        """An engine over finished cases, with the handlers that a run of one process has."""

        def step(engine: Engine, finished: tuple[str, Any]) -> None:
            case, future = finished
            state: Any = engine.state
            found = self._result_of(case, future)
            if found["error"]:
                resume.dataset.errors[case] = found["error"]
                logger.warning("refused case %s: %s", case, found["error"])
            state.case_rows += found["rows"]
            state.case_facts, state.case_seconds, state.batch = found["facts"], found["seconds"], [case]

        engine: Any = Engine(step)
        engine.network, engine.data_loader = evaluator.network, evaluator.data_loader
        engine.state.case_rows = []
        for handler in handlers:
            if isinstance(handler, (TableWriter, CaseProgress, ErrorsWriter)):
                handler.attach(engine)
        engine.run(done, max_epochs=1, epoch_length=len(resume.dataset.data))
        evaluator.state.case_rows = engine.state.case_rows

    def _result_of(self, case: str, future: Any) -> dict[str, Any]:
        from distributed import KilledWorker

        if future.status == "finished":
            return cast(dict[str, Any], future.result())
        if future.status != "error":
            raise InputError(
                f"cluster: expected the scheduler {self.address} to stay, lost it; finished cases stay, and the same command "
                "goes on"
            )
        error = future.exception()  # of a case that was tried again; the others go on
        if isinstance(error, WorkerUnfit) or (isinstance(error, OSError) and error.errno in _CANNOT_WRITE):
            raise error
        if isinstance(error, KilledWorker):
            limit = f", with a memory limit of {self.memory}" if self.memory else ""
            why = f"expected a worker to finish it, lost one and the next{limit}"
        else:
            first = (str(error).strip().splitlines() or [""])[0][:200]
            why = f"expected a usable case, got {type(error).__name__}: {first}"
        return {"rows": [], "facts": [], "seconds": None, "error": f"{case}: {why}"}

    def _job(self, resume: Resume, evaluator: Any) -> Job:
        record = record_of(evaluator.network)
        folder = "evaluation_dir" if self.part else "output_dir"
        paths = {"checkpoint": str(record["checkpoint"]), folder: str(resume.output_dir)}
        typed = {**self._typed, **{name: os.path.abspath(path) for name, path in paths.items()}}
        return Job(self._config, typed, self.part, uuid.uuid4().hex, record.get("sha256"), versions())

    def _ask_workers(self, client: Any, job: Job, output_dir: Path) -> None:
        """Refuse workers that lack the package, the weights or the folder of results, or have other versions."""
        output_dir.mkdir(parents=True, exist_ok=True)
        token = output_dir.absolute() / f".roi_fusion.{job.name}"
        token.touch()
        try:
            answers: Mapping[str, Any] = client.run(asker(job.typed["checkpoint"], str(token)), on_error="return")
        finally:
            token.unlink(missing_ok=True)
        for worker, answer in answers.items():
            if isinstance(answer, BaseException) or "missing" in answer:
                why = answer["missing"] if isinstance(answer, dict) else f"{type(answer).__name__}: {answer}"
                raise InputError(f"cluster: expected roi_fusion {job.versions['roi_fusion']} on worker {worker}, got {why}")
            other = {n: v for n, v in answer["versions"].items() if v != job.versions.get(n)}
            if other:
                name, version = next(iter(other.items()))
                raise InputError(f"cluster: expected {name} {job.versions.get(name)} on worker {worker}, got {version}")
            if answer["sha256"] is None:
                raise InputError(
                    f"cluster: expected the weights {job.typed['checkpoint']} on worker {worker}, found no such file"
                )
            if job.sha256 is not None and answer["sha256"] != job.sha256:
                raise InputError(f"cluster: expected weights of SHA-256 {job.sha256[:12]}… on worker {worker}, got others")
            if not answer["sees"]:
                raise InputError(f"cluster: expected a folder of results that worker {worker} shares, got {output_dir}")

    @contextmanager
    def _client(self, evaluator: Any) -> Iterator[Any]:
        import dask
        from distributed import Client, LocalCluster

        with ExitStack() as stack:
            stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": _RETRIES}))
            if self.address == "local":
                cluster = stack.enter_context(LocalCluster(**self._local_options(evaluator)))
                yield stack.enter_context(Client(cluster))
                return
            if self.address == "slurm":
                yield stack.enter_context(Client(stack.enter_context(self._slurm())))  # a queue may take its time
                return
            try:
                client = stack.enter_context(Client(self.address, timeout=_SCHEDULER_SECONDS))
            except (OSError, ValueError, TypeError) as e:
                why = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
                expected = "local, slurm or the address of a Dask scheduler that answers"
                raise InputError(f"cluster: expected {expected}, got {self.address!r} ({why})") from None
            try:
                client.wait_for_workers(1, timeout=_WORKER_SECONDS)
            except TimeoutError:
                raise InputError(f"cluster: expected a worker at {self.address} within {_WORKER_SECONDS} s, got none") from None
            yield client

    def _local_options(self, evaluator: Any) -> dict[str, Any]:
        """Of a LocalCluster: a worker for two processor cores, or one for each GPU."""
        import torch
        from dask.system import CPU_COUNT

        gpus = torch.cuda.device_count() if evaluator.state.device.type == "cuda" else 0
        count = self.workers or gpus or max(1, CPU_COUNT // 2)
        threads = str(max(1, CPU_COUNT // count))
        return {
            "n_workers": count,
            "threads_per_worker": 1,
            "memory_limit": self.memory or "auto",
            "dashboard_address": "127.0.0.1:0",
            "resources": {"GPU": 1} if gpus else None,
            "env": {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
        }

    def _slurm(self) -> Any:
        """Jobs of Slurm by dask-jobqueue, whose configuration file says the rest: queue, account, walltime, GPUs."""
        jobqueue = import_needed("dask_jobqueue", _NEEDED)
        import dask

        if shutil.which("sbatch") is None:
            raise InputError("cluster: expected Slurm's sbatch on this machine, found none")
        cpus = dask.config.get("jobqueue.slurm.job-cpu", None) or 2
        options = {"job_cpu": cpus, "memory": self.memory or dask.config.get("jobqueue.slurm.memory", None) or "4GiB"}
        cluster = jobqueue.SLURMCluster(cores=1, processes=1, job_script_prologue=[f"export OMP_NUM_THREADS={cpus}"], **options)
        cluster.scale(jobs=self.workers or 4)
        return cluster


def _same(value: Any) -> Any:
    return value
