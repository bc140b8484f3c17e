# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The one error that users meet: a sentence that names the file or key, what was expected and what it got."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

__all__ = ["InputError", "causes_of", "import_needed", "input_error_behind"]


class InputError(ValueError):
    """Input that cannot be used. ``str(error)`` is one sentence for the user: where, what was expected, what it got."""


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that led to it, the first one last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def input_error_behind(error: BaseException) -> InputError | None:
    """The InputError that an exception is, or that led to it: MONAI and its config parser wrap what they meet."""
    return next((cause for cause in causes_of(error) if isinstance(cause, InputError)), None)


def import_needed(package: str, otherwise: str) -> Any:
    """A package that only some installations have.

    Args:
        package: name of the module.
        otherwise: the sentence for who lacks it.

    Raises:
        InputError: with that sentence, when it cannot be imported.
    """
    try:
        return import_module(package)
    except ImportError:
        raise InputError(otherwise) from None
