# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""``prepare.json`` and ``errors.json``: what a run did with each case, renewed after every one."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from roi_fusion.data.naming import original_of
from roi_fusion.data.results import versions
from roi_fusion.values import write_json

from ..layouts import Found
from .options import PrepareOptions
from .storage import CASE_RECORD, hand_made, read_record

__all__ = ["Record"]

logger = logging.getLogger(__name__)


class Record:
    """The outcomes of a run into one folder.

    Args:
        root: the output folder.
        found: what the search gave.
        options: of every case.
    """

    def __init__(self, root: Path, found: Found, options: PrepareOptions) -> None:
        self.root, self.found, self.options = root, found, options
        self._done: dict[str, dict[str, Any]] = {}
        names = {c.case for c in found.cases}
        self._gone = {
            folder.name: "no longer among the raw data, left as it was"
            for folder in sorted(p.parent for p in root.glob(f"*/{CASE_RECORD}"))
            if folder.name not in names and _inputs_gone(folder)
        }

    def add(self, outcome: dict[str, Any]) -> None:
        """Take an outcome of :func:`~.workers.attempts`, say it where it was refused, and write the record."""
        self._done[outcome["case"]] = outcome
        if outcome["status"] == "refused":
            logger.warning("refused case %s: %s", outcome["case"], outcome["error"])
        self.write()

    def write(self) -> dict[str, Any]:
        """Write both files; returns the content of ``prepare.json``."""
        rows = [self._done[name] for name in sorted(self._done)]
        errors = {r["case"]: r["error"] for r in rows if r["status"] == "refused"}
        stale = {r["case"]: "prepared from other input files or options, left as it was" for r in rows if r.get("stale")}
        record = {
            "layout": self.found.layout,
            "options": asdict(self.options),
            "counts": {s: sum(r["status"] == s for r in rows) for s in ("prepared", "kept", "refused")},
            "cases": [self._row(r) for r in rows if "facts" in r],
            "errors": errors,
            "stale": dict(sorted({**self._gone, **stale}.items())),
            "versions": versions(),
        }
        write_json(self.root / "errors.json", errors)
        write_json(self.root / "prepare.json", record)
        return record

    def _row(self, outcome: dict[str, Any]) -> dict[str, Any]:
        facts = outcome["facts"]
        notes = list(facts["notes"])
        by_hand = outcome.get("by_hand")
        if by_hand is None and outcome["status"] == "kept" and "files" in facts:
            by_hand = outcome["by_hand"] = hand_made(self.root / outcome["case"])
        if by_hand:
            notes.append(f"made or changed by hand and left as it is: {', '.join(by_hand)}")
        kept = {k: facts[k] for k in ("quality", "flags", "seconds")}
        return {"case": outcome["case"], "status": outcome["status"], **kept, "notes": notes}


def _inputs_gone(folder: Path) -> bool:
    """Whether a case's raw files are missing; another run may have written it from a folder that is still there."""
    inputs = (read_record(folder) or {}).get("input_files")
    return isinstance(inputs, dict) and not all(Path(original_of(str(path))).is_file() for path in inputs.values())
