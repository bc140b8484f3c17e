# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Paths from the command line are data: taken as typed, never evaluated.

``monai.bundle run`` reads its arguments as Python (``run#1`` becomes ``run``, ``12`` a number, ``a,b`` a tuple), and its parser
takes a text that begins with ``$`` for code, one with ``@`` for a reference, and ``#`` for a separator. So paths are taken from
the command line itself and put into the parser as results, which it does not look into.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from monai.bundle import ConfigParser

from .knobs import KNOBS

__all__ = ["path_knobs", "set_as_typed", "taken_as_typed", "typed_paths"]


def path_knobs() -> set[str]:
    """Knobs whose value is a path when it comes from a user; the configs' own defaults may be expressions."""
    return {name for name, knob in KNOBS.items() if knob.kind == "path" or name == "bundle_root"}


def typed_paths(arguments: Sequence[str] | None = None) -> dict[str, str]:
    """The path knobs of a command line as typed, ``--name value`` or ``--name=value``; empty where it runs no config.

    Args:
        arguments: behind the program; those of this process when it is None.

    Example:
        >>> typed_paths(["run", "--config_file", "i.json", "--output_dir", "run#1", "--ct=a,b"])
        {'output_dir': 'run#1', 'ct': 'a,b'}
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    names, found, runs_config = path_knobs(), {}, False
    for word, following in zip(words, [*words[1:], None]):
        if not word.startswith("--"):
            continue
        name, sign, value = word[2:].partition("=")
        name = name.replace("-", "_")
        runs_config |= name == "config_file"
        if name not in names or (not sign and (following is None or following.startswith("--"))):
            continue
        typed = value if sign else str(following)
        if typed not in ("None", "null"):  # how a knob is taken back
            found[name] = typed
    return found if runs_config else {}


def set_as_typed(parser: ConfigParser, texts: Mapping[str, str | Path]) -> None:
    """Make texts the results of their keys in a parser, whatever they look like."""
    config = cast(dict[str, Any], parser.config)
    for name in texts:
        config[name] = ""  # what the parser reads
    if not parser.ref_resolver.items:
        parser.parse()
    for name, text in texts.items():
        config[name] = str(text)  # what the knobs' check reads
        parser.ref_resolver.resolved_content[name] = str(text)


def taken_as_typed(parser: ConfigParser) -> set[str]:
    """Keys whose result is the text that stands in the config, as :func:`set_as_typed` leaves them."""
    config = cast(dict[str, Any], parser.config)
    results = parser.ref_resolver.resolved_content
    return {name for name, value in config.items() if isinstance(value, str) and results.get(name) == value}
