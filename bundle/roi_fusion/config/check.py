# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Checks of a config's knobs, and the parser of ``inference.json`` for what runs outside of ``monai.bundle run``."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, cast

from monai.bundle import ConfigParser

from ..console import set_up_console
from ..errors import InputError
from ..values import as_bool
from .bundle_run import calling_parser, print_errors_as_sentences
from .knob_values import check_value
from .knobs import KNOBS
from .paths import path_knobs, set_as_typed, taken_as_typed, typed_paths
from .root import BUNDLE_ROOT

logger = logging.getLogger(__name__)

__all__ = ["STRUCTURE", "check_config", "check_knobs", "inference_parser"]


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
    "resume_cases",
    "naming",
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
    set_as_typed(parser, paths)
    check_config(cast(dict[str, Any], parser.config), STRUCTURE, taken_as_typed(parser))
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
    set_as_typed(parser, {name: path for name, path in typed_paths().items() if name in config})
    check_config(config, STRUCTURE, taken_as_typed(parser))
    verbose = as_bool("verbose", config.get("verbose", False))
    set_up_console(verbose)
    if verbose:
        for name in sorted(set(config) & set(KNOBS)):
            logger.info("%s: %s", name, config[name])
