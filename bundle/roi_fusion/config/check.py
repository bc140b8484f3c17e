# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Checks of a config's knobs, and the parser of ``inference.json`` for what runs outside of ``monai.bundle run``."""

from __future__ import annotations

import difflib
import logging
import re
import tempfile
from collections.abc import Container, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from monai.bundle import ConfigParser

from ..console import set_up_console
from ..errors import InputError
from ..values import as_bool
from .bundle_run import calling_parser, print_errors_as_sentences
from .knobs import BUNDLE_ROOT, KNOBS, Knob, expected
from .paths import path_knobs, set_paths, typed_paths

logger = logging.getLogger(__name__)

__all__ = ["STRUCTURE", "check_config", "check_knobs", "check_value", "check_writable", "inference_parser"]


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
    elif name in ("output_dir", "evaluation_dir"):
        check_writable(name, value)


def _check_device(name: str, value: Any) -> None:
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


def check_config(config: Mapping[str, Any], structure: set[str], typed: Container[str] = ()) -> None:
    """Check all top-level keys of a parsed config.

    Args:
        config: top-level keys and their unresolved values.
        structure: keys that are parts of the configs and no knobs.
        typed: keys whose values are paths as they were typed, and no expressions.

    Raises:
        InputError: for a value that its knob does not take, for a knob that these configs do not have, and for a key that is no
            knob, no part and referenced nowhere.
    """
    places = _places(config)
    for name, value in config.items():
        if name in KNOBS:
            where = KNOBS[name].where
            if places and not places & set(where.split(", ")):
                raise InputError(f"{name}: expected a knob of {' or '.join(sorted(places))}, got one of {where}")
            check_value(name, KNOBS[name], value, name in typed)
    for name in config:
        if name in KNOBS or name in structure or name.startswith("_"):
            continue
        if not re.search(rf"@{re.escape(name)}\b", str({k: v for k, v in config.items() if k != name})):
            near = difflib.get_close_matches(name, [*KNOBS, *structure], 1, cutoff=0.5)
            raise InputError(
                f"{name}: expected a knob of docs/README.md, got an unknown one{f'; did you mean {near[0]}?' if near else ''}"
            )


def _places(config: Mapping[str, Any]) -> set[str]:
    """Which of the configs were merged, as `Knob.where` names them; none for a part of one."""
    if "train" in config:
        found = {"train", *(["evaluate"] if "evaluating" in config else [])}
    elif "evaluator" in config:
        found = {"inference"}
    else:
        return set()
    found |= {"synthesis"} if "label_maps" in config else set()
    return found | ({"tracking"} if "tracking_uri" in config else set())


#: Top-level keys of the configs that are no knobs.
STRUCTURE = {
    "imports",
    "network_def",
    "network",
    "denoiser",
    "ema",
    "ema_network",
    "noise_schedule",
    "volumes",
    "all_volumes",
    "preprocessing",
    "augmentation",
    "concatenation",
    "loss",
    "optimizer",
    "learning_rate_plan",
    "train",
    "validate",
    "training",
    "training_run",
    "evaluating",
    "run",
    "initialize",
    "finalize",
    "dataset",
    "dataloader",
    "inferer",
    "postprocessing",
    "guidance_settings",
    "handlers",
    "evaluator",
    "key_metric",
    "additional_metrics",
    "report",
    "best_writer",
    "replica",
    "save_execute_config",
    "synthesis",
    "head_drawer",
    "head_painter",
}


def inference_parser(knobs: Mapping[str, Any], bundle_root: str | Path = BUNDLE_ROOT) -> ConfigParser:
    """``inference.json`` with knobs turned and checked, for what runs its parts outside of ``monai.bundle run``.

    Args:
        knobs: name → value.
        bundle_root: folder that holds ``configs/``.

    Raises:
        InputError: when the config is missing, and see :func:`check_config`.
    """
    file = Path(bundle_root) / "configs" / "inference.json"
    if not file.is_file():
        raise InputError(f"{file}: expected the bundle's inference config, found no such file")
    parser = ConfigParser()
    parser.read_config(str(file))
    given = {"bundle_root": str(bundle_root), **knobs}
    paths = {k: str(v) for k, v in given.items() if k in path_knobs() and isinstance(v, (str, Path))}
    parser.update({k: v for k, v in given.items() if k not in paths})
    set_paths(parser, paths)
    check_config(cast(dict[str, Any], parser.config), STRUCTURE, paths)
    return parser


def check_knobs() -> None:
    """Check the config that this expression is part of and set up the console. The first expression of every run list.

    Before that, paths of the command line are put into the config as they were typed, see :mod:`~roi_fusion.config.paths`. From
    here on an error that is no fault of the program ends ``python -m monai.bundle run`` with a sentence, see
    :mod:`~roi_fusion.config.ending`.

    Raises:
        InputError: see :func:`check_config`.
        RuntimeError: when no config expression calls.
    """
    parser = calling_parser()
    config = cast(dict[str, Any], parser.config)
    print_errors_as_sentences(lambda: str(parser.get_parsed_content("output_dir")) if "train" in config else None)
    paths = {name: path for name, path in typed_paths().items() if name in config}
    set_paths(parser, paths)
    check_config(config, STRUCTURE, paths)
    verbose = as_bool("verbose", config.get("verbose", False))
    set_up_console(verbose)
    if verbose:
        for name in sorted(set(config) & set(KNOBS)):
            logger.info("%s: %s", name, config[name])
