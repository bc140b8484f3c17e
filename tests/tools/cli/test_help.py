# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What ``--help`` says is complete and true: every option is explained, every example would be taken."""

from __future__ import annotations

import shlex

import pytest

from roi_fusion.config.knobs import KNOBS
from roi_fusion_tools.cli.arguments import parameters_of, tidy_words
from roi_fusion_tools.cli.help import command_help, example_of, overview
from roi_fusion_tools.cli.table import COMMANDS, DEVELOPER, command_of

ALL = [(n, False) for group in COMMANDS.values() for n in group] + [(n, True) for n in DEVELOPER]


@pytest.mark.parametrize(("name", "developer"), ALL, ids=[n for n, _ in ALL])
def test_every_option_is_explained_and_the_example_is_taken(name: str, developer: bool) -> None:
    command = command_of(name, developer)
    assert command is not None
    title = f"roi-fusion {'dev ' if developer else ''}{name}"
    text = command_help(command, title)
    assert text.splitlines()[2] or text.splitlines()[0]
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ") and line.strip()}
    for parameter in parameters_of(command).values():
        shown = f"--{parameter.name}" if f"--{parameter.name}" in rows else parameter.name.upper()
        assert shown in rows, f"{name}: {parameter.name} is not explained"
    lines = example_of(command)
    assert lines, f"{name} has no example"
    for line in lines:
        words = shlex.split(line)
        assert line.startswith(title)
        tidy_words(command, words[len(title.split()) :], title)


def test_the_overview_names_every_command() -> None:
    text = overview() + overview(developer=True)
    for name, _ in ALL:
        assert f"\n  {name} " in text
    assert "For research, not for diagnosis" in text


def test_a_knob_is_told_with_effect_range_and_default() -> None:
    command = command_of("train")
    assert command is not None
    told = " ".join(command_help(command, "roi-fusion train").split())
    assert f"--max_epochs {KNOBS['max_epochs'].effect}; a whole number of 1 or more [200]" in told
    assert "--patch_size crop size in voxels, slice axis last; three whole numbers of 1 or more [96,96,16]" in told
    assert "--resume last.pt of a training to continue" in told
