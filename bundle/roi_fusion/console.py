# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What a run shows: short log lines, one kind of progress bar, and other libraries' chatter left out where it is made.

Lines go to the loggers and so to standard output, bars to standard error. A bar is drawn on a terminal only; a file or a pipe
gets plain lines.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .values import is_first_rank

__all__ = ["close_bars", "duration", "progress_bar", "set_up_console", "short_path"]

#: Loggers of other libraries → level from which they are heard: what lies below says nothing that a run does not say itself.
_QUIET = {
    # "Engine run resuming …", "Got new best metric of …", "Epoch[1] Complete"; its errors are raised as well
    "ignite.engine.engine": logging.CRITICAL,
    "monai.bundle.scripts": logging.WARNING,  # repeats the command line
    "monai.bundle.workflows": logging.WARNING,
    "monai.data.nvimgcodec_pydicom_plugin": logging.ERROR,  # a decoder that is not used, once for each reader
    "alembic": logging.WARNING,  # MLflow's tables, one line for each
    "mlflow": logging.WARNING,
}
#: Beginnings of warnings that concern nothing of this bundle, or what it expects: a case without a lesion.
_QUIET_WARNINGS = ("parsing config_file", "NvImgCodecPydicomReader", "Num foregrounds 0")
_OPEN: weakref.WeakSet[tqdm] = weakref.WeakSet()


class _ConsoleHandler(logging.StreamHandler):
    """A stream handler whose lines do not tear a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=self.stream)
            self.flush()
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)


class _ShortFormatter(logging.Formatter):
    """The message alone; from a warning on with its level before it."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def set_up_console(verbose: bool = False) -> None:
    """Make what is logged to the console readable for people.

    The root logger's console handlers write short lines that go well with a progress bar, and other libraries are heard from a
    warning on. Handlers of a file stay as they are. Call it behind ``logging.basicConfig`` or MONAI's ``logging.conf``.

    Args:
        verbose: leave the format as it was set and hear everything.
    """
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(logging.INFO if verbose else level)
    for beginning in () if verbose else _QUIET_WARNINGS:
        warnings.filterwarnings("ignore", message=beginning)
    if not verbose:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # drawn in files too
    root = logging.getLogger()
    for place, handler in enumerate(root.handlers):
        if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr):
            ours = _ConsoleHandler(handler.stream)
            ours.setLevel(handler.level)
            ours.setFormatter(handler.formatter if verbose else _ShortFormatter())
            for log_filter in handler.filters:
                ours.addFilter(log_filter)
            root.handlers[place] = ours


def progress_bar(total: int, description: str, unit: str, **options: Any) -> tqdm:
    """A bar with the time left on a terminal, nothing elsewhere and on other ranks than the first.

    Args:
        total: number of units.
        description: what is going on.
        unit: what is counted, as one of them.
        options: further ones of tqdm.
    """
    form = "{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} {unit}{postfix}, {elapsed}, {remaining} left"
    defaults: dict[str, Any] = {
        "disable": None if is_first_rank() else True,
        "dynamic_ncols": True,
        "bar_format": form,
        "smoothing": 0.1,
    }
    bar = tqdm(total=total, desc=description, unit=unit, **{**defaults, **options})
    _OPEN.add(bar)
    return bar


def close_bars() -> None:
    """Take away every bar that is still drawn, before an error is said."""
    for bar in list(_OPEN):
        bar.leave = False
        bar.close()


def duration(seconds: float) -> str:
    """A time in words, with the digits that matter.

    Example:
        >>> duration(9.84), duration(75), duration(7380)
        ('9.8 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def short_path(path: str | Path) -> str:
    """A path as it is shortest to read: from the working folder where that is shorter, else as it is."""
    text = os.fspath(path)
    try:
        relative = os.path.relpath(text)
    except (ValueError, OSError):  # another drive, or a working folder that is gone
        return text
    return relative if len(relative) < len(text) else text
