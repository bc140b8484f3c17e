# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""One way to start a script: `roi_fusion` importable from a checkout, arguments as annotated, errors as one sentence."""

from __future__ import annotations

import inspect
import logging
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import fire
from fire.decorators import SetParseFns

from roi_fusion.errors import InputError, input_error_behind
from roi_fusion.values import as_bool

_NOUNS = {int: "a whole number", float: "a number", str: "a text"}


def main(command: Callable[..., Any], argv: list[str] | None = None) -> None:
    """Run `command` with the command line's arguments; exit 2 with one sentence on bad input.

    Every argument becomes what the command's annotation says, whatever it looks like: a folder may be called 12, and ``false``
    is no text that counts as true.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    arguments = sys.argv[1:] if argv is None else argv
    known = {f"--{p}" for p in inspect.signature(command).parameters}
    for argument in arguments:
        name = argument.split("=")[0].replace("-", "_").replace("__", "--", 1) if argument.startswith("--") else ""
        if name and name not in known and name != "--help" and argument != "--":
            _end(f"{argument.split('=')[0]}: expected one of {', '.join(sorted(known))}")
    hints = {name: hint for name, hint in get_type_hints(command).items() if name != "return"}
    SetParseFns(**{name: partial(as_annotated, name, hint) for name, hint in hints.items()})(command)
    try:
        fire.Fire(command, arguments, name=Path(sys.argv[0]).name)
    except Exception as e:
        found = input_error_behind(e)
        if found is not None:
            _end(str(found))
        if isinstance(e, OSError) and e.filename is not None:
            _end(f"{e.filename}: {e.strerror}")
        raise


def _end(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def as_annotated(name: str, hint: Any, text: str) -> Any:
    """The text of an argument as the type that its parameter is annotated with.

    Args:
        name: of the parameter, for the message.
        hint: bool, int, float, str or a tuple of them (``1,2,3``), or one of these or None.
        text: from the command line.

    Raises:
        InputError: when the text is no such thing.
    """
    options = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in options and text == "None":
        return None
    (kind,) = (o for o in options if o is not type(None))
    return _tuple(name, get_args(kind), text) if get_origin(kind) is tuple else _scalar(name, kind, text)


def _tuple(name: str, kinds: tuple[Any, ...], text: str) -> tuple[Any, ...]:
    """``a,b``, also as Python writes it: ``['a', 'b']``."""
    items = [item.strip(" '\"") for item in text.strip("[]()").split(",") if item.strip()]
    if kinds[-1] is not Ellipsis and len(items) != len(kinds):
        raise InputError(f"{name}: expected {len(kinds)} values as 1,2,3, got {text!r}")
    each = [kinds[0]] * len(items) if kinds[-1] is Ellipsis else kinds
    return tuple(_scalar(name, kind, item) for kind, item in zip(each, items))


def _scalar(name: str, kind: type, text: str) -> Any:
    if kind is bool:
        return as_bool(name, text)
    if kind is str and text == "True":  # fire's word for an option that nothing follows
        raise InputError(f"{name}: expected {_NOUNS[kind]} behind it, got nothing")
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{name}: expected {_NOUNS[kind]}, got {text!r}") from None
