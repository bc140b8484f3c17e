# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Which commands there are, and where."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["COMMANDS", "DEVELOPER", "command_of"]

#: Heading → name → module of this package. A command is the function of its name in that module.
COMMANDS: dict[str, dict[str, str]] = {
    "Run": {"predict": "use", "pacs": "pacs", "export_bids": "use", "report": "use", "demo": "use"},
    "Prepare data": {
        "prepare": "data",
        "explore": "data",
        "phantoms": "data",
        "paint": "data",
        "stack_slices": "data",
        "export_slices": "data",
    },
    "Train": {
        "train": "training",
        "federated": "training",
        "evaluate": "training",
        "calibrate": "training",
        "doctor": "training",
        "check": "training",
        "export": "training",
    },
    "Annotate": {"label": "use"},
    "Measure": {
        "evaluate_public": "measure",
        "benchmark": "measure",
        "unseen": "measure",
        "study": "measure",
        "nnunet": "measure",
        "export_nnunet": "measure",
        "slices": "measure",
    },
}

#: What only developers of the repository need: ``roi-fusion dev NAME``.
DEVELOPER: dict[str, str] = {
    "weights": "developer",
    "documents": "developer",
    "configs": "developer",
    "package": "developer",
    "failures": "developer",
    "profile": "developer",
    "lesion_metrics": "developer",
    "label_walk": "developer",
}


def command_of(name: str, developer: bool = False) -> Callable[..., None] | None:
    """The function behind a command's name, with dashes or underscores; None where there is none."""
    name = name.replace("-", "_")
    table = DEVELOPER if developer else {n: module for group in COMMANDS.values() for n, module in group.items()}
    if name not in table:
        return None
    function: Any = getattr(import_module(f".{table[name]}", __package__), name)
    return function
