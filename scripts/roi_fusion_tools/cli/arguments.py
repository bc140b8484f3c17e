# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The words of a command line: which options there are, and their texts as the types that they are annotated with."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from roi_fusion.config.knob_values import value_of_text
from roi_fusion.config.knobs import KNOBS, Knob
from roi_fusion.errors import InputError
from roi_fusion.values import as_bool, listed_files

__all__ = ["as_annotated", "expect_there", "knobs_elsewhere", "near", "parameters_of", "tidy_words", "with_knobs"]

Command = TypeVar("Command", bound=Callable[..., None])

_NOUNS = {int: "a whole number", float: "a number", str: "a text"}
#: Where the program decides, or where an option of another name takes its place.
_NEVER_OPTIONS = {"bundle_root", "output_dir"}


def with_knobs(*places: str, without: Iterable[str] = ()) -> Callable[[Command], Command]:
    """Let a command that ends on ``**knobs`` take the knobs of some configs as options.

    Args:
        places: configs, as `Knob.where` names them.
        without: knobs that are no options of the command.
    """
    hidden = _NEVER_OPTIONS | set(without)

    def decorate(command: Command) -> Command:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        hidden_now = hidden | {p.name for p in own}
        names = [n for n, k in KNOBS.items() if set(k.where.split(", ")) & set(places) and n not in hidden_now]
        knobs = [Parameter(n, Parameter.KEYWORD_ONLY, default=KNOBS[n].default, annotation=KNOBS[n]) for n in names]
        command.__signature__ = inspect.Signature([*own, *knobs])  # type: ignore[attr-defined]
        return command

    return decorate


def parameters_of(command: Callable[..., None]) -> dict[str, Parameter]:
    """The parameters of a command by name. An annotation is a type, or a :class:`~roi_fusion.config.knobs.Knob`."""
    return dict(inspect.signature(command, eval_str=True).parameters)


def near(word: str, words: Iterable[str]) -> str:
    """``"; did you mean WORD?"`` with the word that is most like a mistyped one; nothing where none is."""
    found = difflib.get_close_matches(word, list(words), 1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def tidy_words(command: Callable[..., None], words: Sequence[str], title: str) -> list[str]:
    """The words behind a command as ``value`` and ``--name=value``, every name known and nothing missing.

    Args:
        command: that they are for.
        words: as typed; ``--some-name`` is ``--some_name``, and a yes/no option needs no value.
        title: of the command, for the messages.

    Raises:
        InputError: for an unknown option, too many values, or an option that is missing.
    """
    parameters = parameters_of(command)
    places = [p for p in parameters.values() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    any_number = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters.values())
    options = [p.name for p in parameters.values() if p.kind is not Parameter.VAR_POSITIONAL]
    values: list[str] = []
    named: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            values.append(word)
            continue
        name, sign, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if name not in options or not word.startswith("--"):
            hint = near(f"--{name}", [f"--{o}" for o in options])
            raise InputError(f"{word.split('=')[0]}: expected an option of {title}, got an unknown one{hint}")
        if not sign:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "True"  # fire's word for nothing
        named[name] = value
    if len(values) > len(places) and not any_number:
        raise InputError(f"{values[len(places)]}: expected an option as --name value behind {title}, got a bare word")
    given = {*named, *(p.name for p in places[: len(values)])}
    for p in parameters.values():
        if p.default is Parameter.empty and p.kind is not Parameter.VAR_POSITIONAL and p.name not in given:
            raise InputError(f"--{p.name}: expected by {title}, got none; {title} --help says what it is")
    return [*values, *(f"--{name}={value}" for name, value in named.items())]


def as_annotated(name: str, hint: Any, text: str) -> Any:
    """The text of an argument as the type that its parameter is annotated with.

    Args:
        name: of the parameter, for the message.
        hint: a knob; bool, int, float, str or a tuple of them (``1,2,3``); or one of these or None.
        text: from the command line.

    Raises:
        InputError: when the text is no such thing.
    """
    if isinstance(hint, Knob):
        if text == "True" and hint.kind != "bool":
            raise InputError(f"{name}: expected a value behind it, got nothing")
        return value_of_text(name, hint, text)
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
    if kind is str and text == "True":
        raise InputError(f"{name}: expected {_NOUNS[kind]} behind it, got nothing")
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{name}: expected {_NOUNS[kind]}, got {text!r}") from None


def expect_there(**paths: str | Path | None) -> None:
    """Refuse files and folders that are not there, before anything slow is imported.

    Args:
        paths: option → path, or several with commas between; None is not looked at.

    Raises:
        InputError: for the first that is missing.
    """
    for name, path in paths.items():
        for one in (listed_files(path) or [Path(path)]) if path is not None else []:
            if not Path(one).exists():
                raise InputError(f"{name}: expected a file or folder that is there, found no {one}")


def knobs_elsewhere(knobs: Mapping[str, Any], **switched: bool) -> None:
    """Refuse knobs of a config that is switched off.

    Args:
        knobs: as given.
        switched: config, which is an option of the same name too → whether it is on.

    Raises:
        InputError: for the first knob that no config takes.
    """
    for name in knobs:
        where = KNOBS[name].where
        if switched.get(where) is False:
            raise InputError(f"{name}: expected --{where} beside it, which has this option")
