# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The commands a user types, run inside the test process: a process of its own takes seconds to import torch and MONAI.

What a command changes for its whole process is put back behind it: working folder, ``sys.argv``, ``sys.path``, the environment,
the hook for uncaught errors, logging, random states and the determinism switches.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import fire
import monai.bundle
import monai.bundle.__main__ as monai_main
import numpy as np
import torch
from monai.utils import set_determinism

from conftest import BUNDLE, ROOT
from roi_fusion_tools.cli import main


def run_bundle(*arguments: str, cwd: Path = BUNDLE, ok: bool = True) -> str:
    """``python -m monai.bundle run ARGUMENTS``; returns everything it printed.

    Args:
        arguments: behind ``run``.
        cwd: folder that the command is started in.
        ok: whether it must end well; otherwise it must end with an error.
    """
    main = ModuleType("__main__")
    main.__spec__ = ModuleSpec("monai.bundle.__main__", None)
    with _process([str(monai_main.__file__), "run", *arguments], cwd, main) as printed:
        code = _code_of(lambda: fire.Fire({"run": monai.bundle.run}, command=["run", *arguments]))
    text = printed.getvalue()
    assert (code == 0) is ok, text[-6000:]
    return text


def run_cli(*words: str, cwd: Path = ROOT, ok: bool = True) -> str:
    """``roi-fusion WORDS``; returns everything it printed, in which no traceback may be.

    Args:
        words: behind ``roi-fusion``.
        cwd: folder that the command is started in.
        ok: whether it must end well; otherwise it must end with an error.
    """
    with _process(["roi-fusion", *words], cwd) as printed:
        code = _code_of(lambda: main(words))
    text = printed.getvalue()
    assert (code == 0) is ok, text[-6000:]
    assert "Traceback" not in text
    return text


def _code_of(command) -> int:
    """The exit code that the process would have; an uncaught error goes to the hook, as Python hands it on."""
    try:
        command()
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
            return 1
        return int(e.code or 0)
    except Exception as e:
        sys.excepthook(type(e), e, e.__traceback__)
        return 1
    return 0


@contextlib.contextmanager
def _process(argv: list[str], cwd: Path, main: ModuleType | None = None) -> Iterator[io.StringIO]:
    """The state of a fresh process, put back at the end; yields what is printed meanwhile."""
    root = logging.getLogger()
    loggers = [v for v in logging.root.manager.loggerDict.values() if isinstance(v, logging.Logger)]
    levels = {v: (v.level, v.disabled, v.propagate, v.handlers[:]) for v in [root, *loggers]}
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    switches = (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    before = (sys.argv, sys.path[:], sys.excepthook, Path.cwd(), dict(os.environ), sys.modules["__main__"])
    printed = io.StringIO()
    try:
        sys.argv, sys.excepthook = argv, sys.__excepthook__
        if main is not None:
            sys.modules["__main__"] = main
        os.chdir(cwd)
        root.handlers[:] = []
        root.setLevel(logging.WARNING)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield printed
    finally:
        sys.argv, sys.path[:], sys.excepthook, folder, environment, sys.modules["__main__"] = before
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        set_determinism(None)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = switches
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        new = [v for v in logging.root.manager.loggerDict.values() if isinstance(v, logging.Logger) and v not in levels]
        for logger in new:
            logger.handlers[:] = [h for h in logger.handlers if getattr(h, "stream", None) is not printed]
        for logger, (level, disabled, propagate, handlers) in levels.items():
            logger.setLevel(level)
            logger.disabled, logger.propagate, logger.handlers[:] = disabled, propagate, handlers
