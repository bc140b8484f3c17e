# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""How a run ends that cannot go on: one sentence, and the command that continues."""

from __future__ import annotations

import errno
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import causes_of, input_error_behind

__all__ = ["command_again", "sentence_of"]

#: Of the operating system: no room, or no right to write.
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


def command_again(last: Path | None = None, arguments: Sequence[str] | None = None) -> str:
    """The command of this process, to be given again; with `last`, a checkpoint of a training, as one that resumes it."""
    words = list(sys.argv if arguments is None else arguments)
    module = re.search(r"(monai[/\\]bundle|roi_fusion\w*(?:[/\\]\w+)*)[/\\]__main__\.py$", words[0]) if words else None
    start = ["python", "-m", re.sub(r"[/\\]", ".", module.group(1))] if module else words[:1]
    rest = words[1:]
    if last is not None:
        kept, skip = [], False
        for word in rest:
            if skip:
                skip = False
            elif word == "--resume":
                skip = True
            elif not word.startswith("--resume="):
                kept.append(word)
        rest = [*kept, "--resume", str(last)]
    return shlex.join([*start, *rest])


def sentence_of(error: BaseException, again: Callable[[], str] = command_again) -> str | None:
    """What a user is told of an error that ends the process; None for a fault of the program, which keeps its traceback."""
    found = input_error_behind(error)
    if found is not None:
        return str(found)
    for cause in causes_of(error):
        if isinstance(cause, KeyboardInterrupt):
            return f"stopped; what was written stays, and this goes on: {again()}"
        full = isinstance(cause, RuntimeError) and re.search(r"PytorchStreamWriter|file write failed", str(cause))
        if full or (isinstance(cause, OSError) and cause.errno in _CANNOT_WRITE):
            where = getattr(cause, "filename", None) or "output"
            why = getattr(cause, "strerror", None) or "No space left on device?"
            return f"{where}: expected to be able to write, got {why!r}; once there is room this goes on: {again()}"
    return None
