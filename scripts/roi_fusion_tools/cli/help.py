# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What ``--help`` prints: of all commands, and of one, from its docstring and the table of knobs."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Callable
from inspect import Parameter
from typing import Any

from roi_fusion import __version__
from roi_fusion.config.knobs import Knob, expected

from .arguments import parameters_of
from .table import COMMANDS, DEVELOPER, command_of

__all__ = ["command_help", "example_of", "overview"]

_INDENT = 28


def overview(developer: bool = False) -> str:
    """All commands, a line each."""
    groups = {"Developers of the repository": dict(DEVELOPER)} if developer else COMMANDS
    start = "roi-fusion dev" if developer else "roi-fusion"
    lines = [
        f"ROI Fusion {__version__}: fuses MRI and head CT and segments the stroke lesion. For research, not for diagnosis.",
        "",
        f"usage: {start} COMMAND [--option value ...]      {start} COMMAND --help explains one command",
    ]
    for heading, names in groups.items():
        lines += ["", heading]
        for name in names:
            summary = (inspect.getdoc(command_of(name, developer)) or "").splitlines()[0].rstrip(".")
            lines += _row(name, summary)
    if not developer:
        lines += ["", "More"]
        lines += _row("dev", "what only developers of the repository need: roi-fusion dev --help")
        lines += _row("--version", "print the version")
        lines += ["", "example:", "  roi-fusion predict --mri mri.nii.gz --ct ct.nii.gz --output results"]
    return "\n".join(lines)


def command_help(command: Callable[..., None], title: str) -> str:
    """Usage, options with units, ranges and defaults, and an example of one command.

    Args:
        command: the function.
        title: as it is typed, such as ``roi-fusion predict``.
    """
    description, arguments, example = _sections(inspect.getdoc(command) or "")
    parameters = parameters_of(command)
    own = {n: p for n, p in parameters.items() if not isinstance(p.annotation, Knob)}
    knobs = {n: p.annotation for n, p in parameters.items() if isinstance(p.annotation, Knob)}
    usage = [_usage_of(p) for p in own.values() if p.default is Parameter.empty]
    lines = [*_filled(description), "", f"usage: {' '.join([title, *usage, '[--option value ...]'])}", ""]
    for name, p in own.items():
        lines += _row(_usage_of(p), f"{arguments.get(name, '')}{_default_of(p)}")
    for heading, by_user in (("options that users turn", True), ("further options of the method", False)):
        rows = [r for n, k in knobs.items() if _for_users(n) is by_user for r in _row(f"--{n}", _knob_text(k))]
        lines += ["", f"{heading}:", *rows] if rows else []
    return "\n".join([*lines, "", "example:", *(f"  {line}" for line in example)])


def example_of(command: Callable[..., None]) -> list[str]:
    """The command lines of a docstring's example."""
    return _sections(inspect.getdoc(command) or "")[2]


def _sections(text: str) -> tuple[str, dict[str, str], list[str]]:
    """Description, argument → text, lines of the example."""
    parts = re.split(r"^(Args|Example):\n", text, flags=re.M)
    found = dict(zip(parts[1::2], parts[2::2]))
    arguments: dict[str, str] = {}
    for names, told in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8,}.*)*)", found.get("Args", ""), flags=re.M):
        for name in names.split(", "):
            arguments[name] = " ".join(told.split())
    return parts[0].strip(), arguments, [line.strip() for line in found.get("Example", "").strip().splitlines()]


def _usage_of(p: Parameter) -> str:
    name = p.name.upper()
    if p.kind is Parameter.VAR_POSITIONAL:
        return f"{name} ..."
    if p.kind is Parameter.POSITIONAL_OR_KEYWORD and p.default is Parameter.empty:
        return name
    return f"--{p.name} {p.name.upper()}" if p.default is Parameter.empty else f"--{p.name}"


def _default_of(p: Parameter) -> str:
    if p.kind is Parameter.VAR_POSITIONAL or p.default in (Parameter.empty, None, ""):
        return ""
    value: Any = ",".join(map(str, p.default)) if isinstance(p.default, tuple) else p.default
    return f" [{str(value).lower() if isinstance(value, bool) else value}]"


def _for_users(name: str) -> bool:
    """Options of data, files, machine and output; the rest are settings of the method."""
    return not name.startswith("guidance_") and name not in (
        *("alpha", "beta", "gamma", "roi_weight", "gradient_clip", "ema_decay", "scheduler", "hu_points", "scaled_points"),
        *("weight_decay", "roi_size", "warmup_steps", "final_learning_rate", "jitter_mm", "jitter_degrees", "missing_modality"),
    )


def _knob_text(knob: Knob) -> str:
    takes = expected(knob)
    range_ = f"; {takes}" if takes not in ("a value", "a path") and not takes.startswith("one of") else ""
    words = f"; {takes}" if takes.startswith("one of") and not all(c in knob.effect for c in knob.choices) else ""
    if knob.default is None or knob.default == []:
        return f"{knob.effect}{range_}{words}"
    value = ",".join(f"{v:g}" for v in knob.default) if isinstance(knob.default, list) else knob.default
    return f"{knob.effect}{range_}{words} [{str(value).lower() if isinstance(value, bool) else value}]"


def _width() -> int:
    return max(70, min(shutil.get_terminal_size((110, 24)).columns, 130))


def _filled(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines += ["", *textwrap.wrap(" ".join(paragraph.split()), _width(), break_on_hyphens=False)]
    return lines[1:]


def _row(name: str, text: str) -> list[str]:
    indent = " " * _INDENT
    wrapped = textwrap.wrap(
        " ".join(text.split()), _width(), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    ) or [""]
    head = f"  {name}"
    return [head.ljust(_INDENT) + wrapped[0].strip(), *wrapped[1:]] if len(head) < _INDENT - 1 else [head, *wrapped]
