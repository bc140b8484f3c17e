# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from importlib import import_module

import pytest

from roi_fusion_tools import cli
from roi_fusion_tools.cli.table import COMMANDS, DEVELOPER, command_of


def test_every_command_of_the_modules_is_in_the_table() -> None:
    listed = {(m, n) for group in COMMANDS.values() for n, m in group.items()} | {(m, n) for n, m in DEVELOPER.items()}
    modules = {m for m, _ in listed}
    assert listed == {(m, n) for m in modules for n in import_module(f"{cli.__name__}.{m}").__all__}


@pytest.mark.parametrize("name", ["", "weights", "main", "predict.x"])
def test_nothing_else_is_a_command(name: str) -> None:
    assert command_of(name) is None
