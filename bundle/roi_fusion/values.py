# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Small things that every layer uses: booleans and shards from the command line, JSON files, the first rank, channel names."""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = [
    "PREDICTION_CHANNELS",
    "as_bool",
    "listed_files",
    "parse_shard",
    "printable",
    "read_json",
    "whole_file",
    "write_json",
]

#: Channels of what the inferer returns: F in normalised units; mean lesion probability over draws; its predictive entropy
#: in bits; the gate (share of the MRI) and the residual of the written draw; deviation of the probability between draws.
PREDICTION_CHANNELS = ("fused", "lesion_prob", "uncertainty", "provenance", "residual", "lesion_std")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A file that is written whole or not at all: the block writes to a scratch file, which then takes the place of `path`.

    The scratch file lies beside it as ``.<name>.<machine>.<process>``. A killed process leaves its own behind, which the next
    one on the same machine clears.

    Args:
        path: file to write; its folder is made.

    Yields:
        The scratch file, which does not exist yet.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with whole_file(f"{folder}/a.txt") as scratch:
        ...         _ = scratch.write_text("all of it")
        ...     [p.name for p in Path(folder).iterdir()]
        ['a.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = f".{path.name}.{platform.node()}."
    for name in os.listdir(path.parent):
        if name.startswith(mine) and _has_ended(name.removeprefix(mine)):
            (path.parent / name).unlink(missing_ok=True)
    scratch = path.with_name(f"{mine}{os.getpid()}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _has_ended(process: str) -> bool:
    """Whether there is no such process; one of another user lives."""
    if not process.isdecimal() or os.name != "posix":  # elsewhere signal 0 is none that only asks
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON (4 spaces) so that a reader never sees half a file; numbers that are not finite become null."""
    text = json.dumps(_finite(content), indent=4, allow_nan=False) + "\n"
    with whole_file(path) as scratch:
        scratch.write_text(text)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: when it cannot be read.
        ValueError: when it is not JSON in UTF-8, or nested deeper than Python follows.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("brackets nested too deep") from None


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _finite(v) for k, v in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(v) for v in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def printable(text: str) -> str:
    """A name as UTF-8 can hold it: bytes of a file name that are none come as ``\\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def listed_files(path: str | Path) -> list[Path] | None:
    """The files of a list with commas between, such as ``a.dcm,b.dcm``; None for a path that is there, whatever its name."""
    text = str(path)
    return None if "," not in text or Path(text).exists() else [Path(p.strip()) for p in text.split(",") if p.strip()]


def as_bool(name: str, value: Any) -> bool:
    """A yes/no knob as the command line gives it: true, false, 1, 0 in any case.

    Raises:
        InputError: for anything else.
    """
    text = str(value).strip().lower()
    if text in ("true", "1", "yes"):
        return True
    if text in ("false", "0", "no"):
        return False
    raise InputError(f"{name}: expected true or false, got {value!r}")


def parse_shard(shard: str | None) -> tuple[int, int] | None:
    """``"3/8"`` as (3, 8), the third of eight; None for None.

    Raises:
        InputError: for anything else, and for a number out of range.

    Example:
        >>> parse_shard("3/8"), parse_shard(None)
        ((3, 8), None)
    """
    if shard is None:
        return None
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(shard).strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"shard: expected K/N with K from 1 to N, such as 3/8, got {shard!r}")
    return int(found[1]), int(found[2])


def is_first_rank() -> bool:
    """Whether this process is the only one or the first of a distributed run."""
    import ignite.distributed as idist  # here, because it imports torch

    return idist.get_rank() == 0
