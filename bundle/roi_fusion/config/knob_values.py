# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Values of single knobs: from the text of a command line, and checked. Imports torch only where a device is named."""

from __future__ import annotations

import difflib
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..values import as_bool, parse_shard
from .knobs import Knob, expected

__all__ = ["check_value", "check_writable", "value_of_text"]


def value_of_text(name: str, knob: Knob, text: str) -> Any:
    """A knob's value as the text of a command line has it, checked; lists are written with commas, with or without brackets.

    Raises:
        InputError: when the knob does not take it.

    Example:
        >>> from roi_fusion.config.knobs import KNOBS
        >>> value_of_text("patch_size", KNOBS["patch_size"], "80,80,12")
        [80, 80, 12]
    """
    if knob.optional and text in ("None", "null", "none"):
        return None
    value: Any = text
    if knob.kind == "bool":
        value = as_bool(name, text)
    elif knob.kind in ("int", "float"):
        value = _number(text)
    elif knob.kind in ("ints", "points", "words"):
        items = [item.strip(" '\"") for item in text.strip("[]()").split(",") if item.strip()]
        value = items if knob.kind == "words" else [_number(item) for item in items]
    check_value(name, knob, value, typed=True)
    return value


def _number(text: str) -> Any:
    """A number if it is one, else the text for the message."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def check_value(name: str, knob: Knob, value: Any, typed: bool = False) -> None:
    """Check one value of a knob; an expression or a reference passes, because the knobs that it reads are checked themselves.

    Args:
        name: of the knob, for the sentence.
        knob: what it takes.
        value: as the config has it.
        typed: a path as it was typed, which is no expression whatever it looks like.

    Raises:
        InputError: when the knob does not take the value.
    """
    if value is None:
        if not knob.optional:
            raise InputError(f"{name}: expected {expected(knob)}, got nothing")
        return
    if not typed and isinstance(value, str) and value[:1] in ("$", "@", "%"):
        return  # computed from other knobs, which are checked themselves
    if knob.kind == "bool":
        as_bool(name, value)
    elif knob.kind in ("int", "float"):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = number and (knob.kind == "float" or float(value).is_integer())
        if not whole or not knob.low <= value <= knob.high:
            raise InputError(f"{name}: expected {expected(knob)}, got {value!r}")
    elif knob.kind == "ints":
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        if len(items) != 3 or not all(isinstance(i, int) and not isinstance(i, bool) and i >= knob.low for i in items):
            raise InputError(f"{name}: expected {expected(knob)}, got {value!r}")
    elif knob.kind == "points":
        items = list(value) if isinstance(value, (list, tuple)) else []
        numbers = len(items) > 1 and all(isinstance(i, (int, float)) and not isinstance(i, bool) for i in items)
        if not numbers or any(b <= a for a, b in pairwise(items)):
            raise InputError(f"{name}: expected {expected(knob)}, got {value!r}")
    elif knob.kind == "words":
        words = value if isinstance(value, (list, tuple)) else [value]
        unknown = [w for w in words if w not in knob.choices]
        if unknown:
            raise InputError(f"{name}: expected {expected(knob)}, got {unknown[0]!r}")
    elif knob.choices and value not in knob.choices:
        near = difflib.get_close_matches(str(value), knob.choices, 1)
        raise InputError(f"{name}: expected {expected(knob)}, got {value!r}{f', near {near[0]}' if near else ''}")
    elif knob.kind == "path" and not isinstance(value, str):
        raise InputError(f"{name}: expected {expected(knob)}, got {value!r}")
    elif knob.kind == "device":
        _check_device(name, value)
    elif knob.kind == "shard":
        parse_shard(value)
    elif name in ("output_dir", "evaluation_dir"):
        check_writable(name, value)


def _check_device(name: str, value: Any) -> None:
    import torch

    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        raise InputError(f"{name}: expected cpu, cuda or cuda:N, got {value!r}") from None
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise InputError(f"{name}: expected a device of this machine, which has {torch.cuda.device_count()} GPUs, got {value}")


def check_writable(name: str, folder: str | Path) -> None:
    """Refuse a folder that cannot be made or written to, before anything is computed for it.

    Raises:
        InputError: when a file stands in its place or in its path, or its place is not writable.
    """
    path = Path(folder).absolute()
    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir():
        raise InputError(f"{name}: expected a folder, got the file {there}")
    try:
        with tempfile.TemporaryDirectory(prefix=".roi_fusion.", dir=there):  # rights alone say little, to root least
            pass
    except OSError as e:
        raise InputError(f"{name}: expected a folder that can be written to, got {there} ({e.strerror})") from None
