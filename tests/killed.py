# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Bundle commands that can be killed at any moment: forked from a process that has imported all they need, which takes seconds.

Started as a program, this module is that process: it reads a request a line from standard input and answers each with a line.
It runs nothing itself, so it has no threads and can be forked safely.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

TESTS = Path(__file__).resolve().parent


class Ended(NamedTuple):
    """How a command ended: killed or with an exit code, after how many seconds, and what it printed."""

    killed: bool
    code: int
    seconds: float
    text: str


class Parent:
    """The process that commands are forked from.

    Args:
        process: running this module.
        log: file that the commands print to.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self.log = process, log

    def run(self, *arguments: str, kill_after: float | None = None, behind: Path | None = None) -> Ended:
        """``python -m monai.bundle run ARGUMENTS``, to its end or until it is killed with all that it started.

        Args:
            arguments: behind ``run``.
            kill_after: seconds after which it gets SIGKILL.
            behind: file from whose making on they count; None counts from the start.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"arguments": arguments, "log": str(self.log), "kill_after": kill_after, "behind": str(behind or self.log)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return Ended(**answer, text=self.log.read_text(errors="replace"))


@contextlib.contextmanager
def parent(log: Path) -> Iterator[Parent]:
    """Start the process that commands are forked from; it ends with the block."""
    root = TESTS.parent
    paths = [str(TESTS), str(root / "bundle"), str(root / "scripts"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield Parent(process, log)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()


def _fork(request: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            output = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = _command(request["arguments"])
        finally:
            sys.stdout.flush()
            os._exit(code)
    with contextlib.suppress(PermissionError):  # the child has done it
        os.setpgid(child, child)
    status = _wait(child, request["kill_after"], Path(request["behind"]))
    seconds = time.monotonic() - began
    killed = os.WIFSIGNALED(status)
    return {"killed": killed, "code": -1 if killed else os.WEXITSTATUS(status), "seconds": seconds}


def _wait(child: int, kill_after: float | None, behind: Path) -> int:
    """The status of a child that ended, or that was killed, with its children, because it had not."""
    if kill_after is None:
        return os.waitpid(child, 0)[1]
    began = None
    while began is None or time.monotonic() - began < kill_after:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if began is None and behind.exists():
            began = time.monotonic()
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _command(arguments: list[str]) -> int:
    from in_process import run_bundle

    print(run_bundle(*arguments))
    return 0


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer requests, a line each, until there are no more."""
    import torch

    import in_process  # noqa: F401  # imports MONAI, and what it needs
    import roi_fusion.engine.training_run
    import roi_fusion.report.page  # noqa: F401

    torch.set_num_threads(1)
    for line in requests:
        answers.write(json.dumps(_fork(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
