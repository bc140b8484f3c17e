# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""One way to start a script: `roi_fusion` importable from a checkout, arguments by fire, errors as one sentence."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import fire

from roi_fusion.errors import InputError


def main(command: Callable[..., Any], argv: list[str] | None = None) -> None:
    """Run `command` with the command line's arguments; exit 2 with one sentence on bad input."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    arguments = sys.argv[1:] if argv is None else argv
    known = {f"--{p}" for p in inspect.signature(command).parameters}
    for argument in arguments:
        name = argument.split("=")[0].replace("-", "_").replace("__", "--", 1) if argument.startswith("--") else ""
        if name and name not in known and name != "--help" and argument != "--":
            sys.exit(f"error: {argument.split('=')[0]}: wanted one of {', '.join(sorted(known))}")
    try:
        fire.Fire(command, arguments, name=Path(sys.argv[0]).name)
    except InputError as e:
        sys.exit(f"error: {e}")
