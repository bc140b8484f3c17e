# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""From the words of a command line to the command's function; what goes wrong ends in one sentence."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from roi_fusion.config.ending import command_again, sentence_of
from roi_fusion.console import close_bars, set_up_console
from roi_fusion.errors import causes_of
from roi_fusion.values import printable

from .arguments import as_annotated, near, parameters_of, tidy_words
from .table import COMMANDS, DEVELOPER, command_of

__all__ = ["main", "run_command"]

#: How knobs and functions call what is an option of another name here.
_OPTIONS = {"output_dir": "output", "evaluation_dir": "output", "input_dir": "input"}
#: Package → the extra that installs it.
_EXTRAS = {
    "mlflow": "tracking",
    "itk": "registration",
    "pydicom": "dicom",
    "dicomweb_client": "dicom",
    "einops": "benchmark",
    "sklearn": "benchmark",
    "monailabel": "label",
    "dask": "cluster",
    "distributed": "cluster",
    "dask_jobqueue": "cluster",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``roi-fusion`` with the command line's words; those of this process when `argv` is None.

    Exits with 2 and one sentence on bad input, with 130 on Ctrl-C, and with 1 quietly where nobody reads its output any more.
    """
    try:
        _start(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes it
        sys.exit(1)


def _start(argv: Sequence[str] | None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    developer = words[:1] == ["dev"]
    name, *rest = words[1:] if developer else words or ["--help"]
    start = "roi-fusion dev" if developer else "roi-fusion"
    if name in ("--help", "-h", "help"):
        from .help import overview

        print(overview(developer))
        return
    if name == "--version":
        from roi_fusion import __version__

        print(__version__)
        return
    command = command_of(name, developer)
    if command is None:
        names = DEVELOPER if developer else [*(n for group in COMMANDS.values() for n in group), "dev"]
        _end(f"{name}: expected a command, got an unknown one{near(name, names)} ({start} --help lists them)")
    run_command(command, rest, f"{start} {name}")


def run_command(command: Callable[..., None], words: Sequence[str], title: str) -> None:
    """Run one command with the words behind it.

    Every argument becomes what its annotation says, whatever it looks like: a folder may be called 12, and ``false`` is no text
    that counts as true.

    Args:
        command: the function.
        words: options as ``--name value`` or ``--name=value``, and values for the function's leading parameters.
        title: as it is typed, for messages.
    """
    if any(word in ("--help", "-h") for word in words):
        from .help import command_help

        print(command_help(command, title))
        return
    import fire
    from fire.decorators import SetParseFns

    logging.basicConfig(level=logging.INFO)
    set_up_console()
    tidy: list[str] = []

    def again() -> str:
        return command_again(_last_checkpoint(command, tidy))

    try:
        tidy = tidy_words(command, words, title)
        SetParseFns(**_parsers(command))(command)
        fire.Fire(command, tidy, name=title)
    except Exception as e:
        _end(_in_options(command, _sentence(e, again) or _raise(e)))
    except KeyboardInterrupt as e:
        _end(str(sentence_of(e, again)), 130)


def _parsers(command: Callable[..., None]) -> dict[str, Callable[[str], Any]]:
    return {
        name: partial(as_annotated, name, str if p.annotation is p.empty else p.annotation)
        for name, p in parameters_of(command).items()
        if p.kind is not p.VAR_POSITIONAL
    }


def _last_checkpoint(command: Callable[..., None], words: Sequence[str]) -> Path | None:
    """What a stopped training goes on from."""
    if "resume" not in parameters_of(command):
        return None
    folder = next((word.partition("=")[2] for word in words if word.startswith("--output=")), "")
    return Path(folder, "last.pt") if Path(folder, "last.pt").is_file() else None


def _in_options(command: Callable[..., None], sentence: str) -> str:
    """A sentence about ``output_dir`` as one about ``--output``, for a command that has it."""
    name, colon, rest = sentence.partition(":")
    option, options = _OPTIONS.get(name, ""), parameters_of(command)
    return f"{option}{colon}{rest}" if option in options and name not in options else sentence


def _raise(error: Exception) -> NoReturn:
    raise error


def _sentence(error: Exception, again: Callable[[], str]) -> str | None:
    found = sentence_of(error, again)
    if found is not None:
        return found
    for cause in causes_of(error):
        if isinstance(cause, ModuleNotFoundError) and (cause.name or "").split(".")[0] in _EXTRAS:
            package = str(cause.name).split(".")[0]
            return f"expected the package {package}, found none: pip install 'roi-fusion[{_EXTRAS[package]}]' installs it"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def _end(sentence: str, code: int = 2) -> NoReturn:
    close_bars()
    print(f"error: {printable(sentence)}", file=sys.stderr)
    sys.exit(code)
