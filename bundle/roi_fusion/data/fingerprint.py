# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A short hash of a data set's files, to tell whether it is the one that a training saw."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .cases import CASE_FILES

__all__ = ["data_hash"]


def data_hash(cases: Sequence[Mapping[str, Any]]) -> str:
    """A hash over the names, sizes and first and last 64 KiB of all files of some cases.

    It changes when a case comes, goes or is written again; it does not read volumes whole.
    """
    digest = hashlib.sha256()
    for case in sorted(cases, key=lambda c: str(c.get("case"))):
        digest.update(str(case.get("case")).encode())
        for key in CASE_FILES:
            path = Path(str(case.get(key, "")))
            if key not in case or not path.is_file():
                continue
            size = path.stat().st_size
            digest.update(f"{key}:{size}".encode())
            with path.open("rb") as f:
                digest.update(f.read(65536))
                f.seek(max(size - 65536, 0))
                digest.update(f.read())
    return digest.hexdigest()[:16]
