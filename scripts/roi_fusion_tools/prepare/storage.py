# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Case folders on disk: written beside their place and moved there whole, and never at the cost of a file that a user made.

All scratch lies in ``<output_dir>/.roi_fusion_prepare``: ``new/<process>/<case>`` while a case is written, ``old/<case>`` for
the moment between the two renames that replace one. A run that is killed at any moment leaves whole cases under their names;
what it left in the scratch folder is put back or cleared by the next one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roi_fusion.errors import InputError
from roi_fusion.values import read_json

__all__ = ["CASE_RECORD", "WholeFolder", "finished", "hand_made", "locked", "read_record"]

CASE_RECORD = "case.json"

_SCRATCH = ".roi_fusion_prepare"

#: Written by prepare itself, and by the programs that show folders.
_NOT_A_USERS = {CASE_RECORD, ".DS_Store", "Thumbs.db", "desktop.ini"}

_VOLUMES = ("mri.nii.gz", "ct.nii.gz", "brain_mask.nii.gz", "bone_mask.nii.gz")


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold an output folder for one run, after what a killed one left there was put in order.

    Raises:
        InputError: while another run writes into the folder.
    """
    scratch = root / _SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / "lock").open("a") as lock:
        busy = InputError(f"output_dir: expected a folder that no other run writes into, got {root}")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it when the process ends, killed or not
        except OSError as e:
            if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise busy from None
        if not os.path.exists(lock.name) or not os.path.samestat(os.stat(lock.name), os.fstat(lock.fileno())):
            raise busy  # a run ended in this moment and took the file along
        _recover(root)
        yield
        shutil.rmtree(scratch, ignore_errors=True)


def _recover(root: Path) -> None:
    """Put back what was moved away and never replaced; clear the rest."""
    for old in (root / _SCRATCH / "old").glob("*"):
        if not (root / old.name).exists():
            os.replace(old, root / old.name)
    for part in ("old", "new"):
        shutil.rmtree(root / _SCRATCH / part, ignore_errors=True)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The content of a case's ``case.json``; None where there is none that can be read."""
    try:
        facts = read_json(folder / CASE_RECORD)
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def finished(folder: Path) -> dict[str, Any] | None:
    """The ``case.json`` of a case whose volumes are all there, else None."""
    facts = read_record(folder)
    volumes = (f"{facts['alone']}.nii.gz",) if facts and facts.get("alone") in ("mri", "ct") else _VOLUMES
    return facts if all((folder / name).is_file() for name in volumes) else None


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def hand_made(folder: Path) -> list[str]:
    """What in a case's folder may be a user's, sorted: files and folders not written by prepare, and files changed since.

    ``case.json`` lists what was written; where it lists nothing, as in cases of older versions, any file may be.
    """
    written = (read_record(folder) or {}).get("files")
    written = written if isinstance(written, dict) else {}
    found = []
    for path in sorted(folder.iterdir()):
        own = path.is_file() and not path.is_symlink()
        if path.name in _NOT_A_USERS or (own and path.name in written and written[path.name] == _sha256(path)):
            continue
        found.append(f"{path.name}/" if path.is_dir() else path.name)
    return found


class WholeFolder:
    """Write a case's folder in the scratch and move it to its place when it is whole.

    Entered, it gives the folder to write into; left without an error, it lists the files in ``case.json`` and moves.

    Raises:
        InputError: when the place is taken by what prepare did not write, or holds files that a user may have made.
    """

    def __init__(self, root: Path, case: str) -> None:
        self.place = root / case
        self.new, self.old = root / _SCRATCH / "new" / str(os.getpid()) / case, root / _SCRATCH / "old" / case

    def check(self) -> None:
        """Refuse a place that must not be replaced."""
        if not os.path.lexists(self.place):
            return
        if self.place.is_symlink() or not (self.place / CASE_RECORD).is_file():
            raise InputError(f"{self.place}: expected a new folder or one that was prepared before, got another one")
        own = hand_made(self.place)
        if own:
            raise InputError(
                f"{self.place}: expected only files that prepare wrote, as its input files or options have changed, got files "
                f"made or changed by hand: {', '.join(own[:5])}; left alone (move the folder away to prepare the case anew)"
            )

    def __enter__(self) -> Path:
        self.check()
        shutil.rmtree(self.new, ignore_errors=True)
        self.new.mkdir(parents=True)
        return self.new

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            if kind is None:
                self._move()
        finally:
            shutil.rmtree(self.new, ignore_errors=True)

    def _move(self) -> None:
        record = json.loads((self.new / CASE_RECORD).read_text(encoding="utf-8"))
        names = sorted(p.name for p in self.new.iterdir() if p.name != CASE_RECORD)
        record["files"] = {name: _sha256(self.new / name) for name in names}
        (self.new / CASE_RECORD).write_text(json.dumps(record, indent=4) + "\n", encoding="utf-8")
        self.check()  # a preparation takes minutes, in which a user may have drawn a mask
        if self.place.exists():
            self.old.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.place, self.old)
        os.replace(self.new, self.place)
        shutil.rmtree(self.old, ignore_errors=True)
