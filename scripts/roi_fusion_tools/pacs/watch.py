# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Takes each study of an archive once its CT and MR are complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from .archive import Archive, ArchiveAwayError

__all__ = ["watch_studies"]

logger = logging.getLogger(__name__)

#: UIDs and numbers of images of a study's CT and MR series.
State = frozenset[tuple[str, int]]


def watch_studies(
    archive: Archive,
    take: Callable[[str], bool],
    every_s: float,
    settled_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Look at an archive for ever, and take each study with CT and MR as soon as none of its images came for a while.

    A study is taken again when images of it come later, or where `take` asks for it.

    Args:
        archive: to ask; while it is away the watch goes on.
        take: does the work on a study, by its UID; false where it is to be taken again.
        every_s: pause between two looks, in seconds.
        settled_s: how long a study must have stayed as it is, in seconds.
        clock, sleep: for tests.
    """
    seen: dict[str, tuple[State, float]] = {}
    done: dict[str, State] = {}
    while True:
        try:
            for study in archive.studies():
                now = _state(archive, study)
                before, since = seen.get(study, (frozenset(), 0.0))
                if now != before:
                    seen[study] = (now, clock())
                elif clock() - since >= settled_s and done.get(study) != now and take(study):
                    done[study] = _state(archive, study)  # results are MR series of the study, too
                    seen[study] = (done[study], clock())
        except ArchiveAwayError as e:
            logger.warning("%s", e)
        sleep(every_s)


def _state(archive: Archive, study: str) -> State:
    return frozenset((o.uid, o.images) for o in archive.series(study) if o.modality in ("CT", "MR"))
