# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The two things that ``python -m monai.bundle run`` offers no hook for; nothing else in the bundle looks behind MONAI.

* **The config that an expression is part of.** MONAI evaluates an expression with the items that it references by id and
  nothing more: no id stands for the whole config, the parser is not among the names, and a knob that the user mistyped
  (``--stepz 9``) is referenced by nobody. So :func:`calling_parser` looks for the parser among the callers.
* **The end of the process.** MONAI wraps what an expression raises in ``RuntimeError`` and prints the whole traceback. So
  :func:`print_errors_as_sentences` sets ``sys.excepthook``, Python's own place for this, in that process alone.

A subclass of ``ConfigWorkflow`` could do both, but ``monai.bundle run`` makes a plain one: it would serve only who names it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from monai.bundle import ConfigParser

from ..console import close_bars
from ..values import printable
from .ending import command_again, sentence_of

__all__ = ["calling_parser", "print_errors_as_sentences"]


def calling_parser() -> ConfigParser:
    """The parser of the config whose expression calls.

    Raises:
        RuntimeError: when no config expression calls.
    """
    frame = sys._getframe(1)
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return parser
        frame = frame.f_back  # type: ignore[assignment]
    raise RuntimeError("expected to be called from a config expression, got another caller")


def print_errors_as_sentences(training_dir: Callable[[], str | None] = lambda: None) -> None:
    """Let an error that ends ``python -m monai.bundle`` print its sentence, where it has one, and no traceback.

    :func:`~roi_fusion.config.ending.sentence_of` has one for an :class:`~roi_fusion.errors.InputError`, Ctrl-C and a full or
    closed disk. Other errors, and other processes such as a server, a notebook or a test run, keep the hook that they have.

    Args:
        training_dir: folder of the training that this is, asked when it is needed; None for what no checkpoint continues.
    """
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if getattr(main, "name", "") != "monai.bundle.__main__" or getattr(sys.excepthook, "prints_sentences", False):
        return
    previous = sys.excepthook

    def again() -> str:
        folder = training_dir()
        last = Path(folder) / "last.pt" if folder else None
        return command_again(last if last is not None and last.is_file() else None)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sentence = sentence_of(error, again)
        if sentence is None:
            previous(kind, error, trace)
        else:
            close_bars()
            print(f"error: {printable(sentence)}", file=sys.stderr)

    hook.prints_sentences = True  # type: ignore[attr-defined]
    sys.excepthook = hook
