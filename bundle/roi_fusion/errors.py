# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The one error that users meet: a sentence that names the file or key, what was expected and what it got."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["InputError", "causes_of", "input_error_behind"]


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
