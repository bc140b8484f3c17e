# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Reads ``history.jsonl``, the line-per-epoch record of a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InputError

__all__ = ["read_history"]


def read_history(output_dir: str | Path) -> list[dict[str, Any]]:
    """The rows of ``history.jsonl``; a last line cut off by a kill is dropped.

    Raises:
        InputError: when there is no history, or a line inside it is broken.
    """
    path = Path(output_dir) / "history.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: expected the history of a training, found no such file")
    lines = path.read_text().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["epoch"] = int(row["epoch"])
            rows.append(row)
        except (ValueError, KeyError, TypeError, RecursionError):
            if number == len(lines):
                break
            raise InputError(f"{path}: expected one JSON object with an epoch in line {number}, got {line[:60]!r}") from None
    return rows
