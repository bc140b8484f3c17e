# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Shares of a data set for several processes that write to one folder, and their refused cases put together."""

from __future__ import annotations

import heapq
import logging
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError
from ..values import parse_shard, read_json, write_json
from .nifti import voxels_of
from .results import read_result

__all__ = ["errors_file", "merge_errors", "share_of"]

logger = logging.getLogger(__name__)

Case = TypeVar("Case", bound=Mapping[str, Any])


def _voxels(case: Mapping[str, Any]) -> int:
    """Voxels of the MRI, else of the CT, by the header alone; 0 where it cannot be read: such a case is refused soon."""
    path = case.get("image") or case.get("ct")
    try:
        return voxels_of(Path(path)) if isinstance(path, str) else 0
    except (InputError, OSError, EOFError, zlib.error):
        return 0


def share_of(cases: Sequence[Case], shard: str | None) -> list[Case]:
    """The cases of one shard, in their order; all without one.

    The largest case goes first, each to the shard that has the fewest voxels so far. It depends on the headers and names alone,
    so that processes that know nothing of each other agree.

    Args:
        cases: with ``case``, and ``image`` or ``ct`` as files.
        shard: K/N, of :func:`~roi_fusion.values.parse_shard`.

    Raises:
        InputError: for a shard that is none.
    """
    parsed = parse_shard(shard)
    if parsed is None:
        return list(cases)
    number, count = parsed
    voxels = [_voxels(case) for case in cases]
    shards = [(0, 0, n) for n in range(1, count + 1)]  # voxels, cases, number
    own: list[int] = []
    for index in sorted(range(len(cases)), key=lambda i: (-voxels[i], str(cases[i].get("case")))):
        load, held, lightest = heapq.heappop(shards)
        heapq.heappush(shards, (load + voxels[index], held + 1, lightest))
        own += [index] if lightest == number else []
    part = sum(voxels[i] for i in own) / max(sum(voxels), 1)
    logger.info("shard %d/%d: %d of %d cases, %.1f %% of the voxels", number, count, len(own), len(cases), 100 * part)
    return [cases[i] for i in sorted(own)]


def errors_file(output_dir: str | Path, shard: str | None = None) -> Path:
    """Where the refused cases of a run are noted: ``errors.json``, of a shard ``errors.3-of-8.json``."""
    parsed = parse_shard(shard)
    return Path(output_dir) / ("errors.json" if parsed is None else f"errors.{parsed[0]}-of-{parsed[1]}.json")


def merge_errors(output_dir: str | Path) -> None:
    """Put what shards have noted into ``errors.json`` and remove their files; the later sentence on a case counts.

    A case that has a result which is not stale is no longer refused. Without files of shards nothing changes.
    """
    folder = Path(output_dir)
    files = [f for f in folder.glob("errors.*.json") if re.fullmatch(r"errors\.\d+-of-\d+\.json", f.name)]
    if not files:
        return
    found: dict[str, str] = {}
    whole = [f for f in (folder / "errors.json",) if f.is_file()]
    for file in sorted([*whole, *files], key=lambda f: (f.stat().st_mtime_ns, f.name)):
        try:
            found.update({str(k): str(v) for k, v in read_json(file).items()})
        except (OSError, ValueError, AttributeError):
            logger.warning("%s: expected refused cases, got a file that cannot be read: left as it is", file)
            files = [f for f in files if f != file]
    results = {case: read_result(folder / case) for case in found}
    done = {case for case, facts in results.items() if facts is not None and not facts.get("stale")}
    refused = {case: why for case, why in sorted(found.items()) if case not in done}
    write_json(folder / "errors.json", refused)
    for file in files:
        file.unlink(missing_ok=True)
