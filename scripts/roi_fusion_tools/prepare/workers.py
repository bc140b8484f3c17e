# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Cases through :func:`prepare_case`, in this process or in several; one bad case never stops the others."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any

from roi_fusion.errors import InputError

from ..layouts import CaseSource
from .case import prepare_case
from .options import PrepareOptions, fingerprint
from .storage import CASE_RECORD, finished

__all__ = ["attempts"]

logger = logging.getLogger(__name__)


def attempts(
    cases: Sequence[CaseSource], output_dir: Path, options: PrepareOptions, num_workers: int
) -> Iterator[dict[str, Any]]:
    """The outcome of each case, those kept from before first.

    Yields:
        ``{"case", "status": "prepared" | "kept", "facts"}`` or ``{"case", "status": "refused", "error", "stale"}``, where
        `stale` says whether the case's folder still holds what an earlier run wrote.
    """
    left = []
    for case in cases:
        kept = _kept(case, output_dir, options)
        if kept is not None:
            yield kept
        else:
            left.append(case)
    if min(num_workers, len(left)) < 2:
        for case in left:
            yield _attempt(case, output_dir, options)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process that has run torch or ITK threads may hang
    with ProcessPoolExecutor(min(num_workers, len(left)), context, _start_worker) as pool:
        pending = {pool.submit(_attempt, case, output_dir, options): case for case in left}
        try:
            for future in as_completed(pending):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    name = pending[future].case
                    sentence = f"{name}: expected a worker that lives, got one that was killed (out of memory?); start again"
                    yield _refused(name, sentence, output_dir)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _refused(case: str, sentence: str, output_dir: Path) -> dict[str, Any]:
    stale = (output_dir / case / CASE_RECORD).is_file()
    return {"case": case, "status": "refused", "error": sentence, "stale": stale}


def _attempt(source: CaseSource, output_dir: Path, options: PrepareOptions) -> dict[str, Any]:
    try:
        if source.refused is not None:
            raise InputError(source.refused)
        mark = fingerprint(source, options)
        return {"case": source.case, "status": "prepared", "facts": prepare_case(source, output_dir, options, mark)}
    except InputError as e:
        sentence = str(e)
    except Exception as e:  # one bad case never stops the others
        logger.debug("%s", source.case, exc_info=True)
        first_line = str(e).strip().splitlines()[0][:200] if str(e).strip() else ""
        sentence = f"{source.case}: expected a usable case, got {type(e).__name__}: {first_line}"
    return _refused(source.case, source.hide(sentence), output_dir)


def _kept(source: CaseSource, output_dir: Path, options: PrepareOptions) -> dict[str, Any] | None:
    """The outcome of a case that an earlier run finished from the same inputs; None where it has to be prepared."""
    facts = finished(output_dir / source.case)
    if source.refused is not None or facts is None:
        return None
    try:
        same = facts.get("fingerprint") == fingerprint(source, options)
    except OSError:  # said when the case is attempted
        return None
    return {"case": source.case, "status": "kept", "facts": facts} if same else None


def _start_worker() -> None:
    """One thread a worker, and an end with its parent: a killed run must leave nobody who writes on."""
    import itk
    import torch

    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (connection.wait([sentinel]), os._exit(1)), daemon=True).start()
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
    torch.set_num_threads(1)
