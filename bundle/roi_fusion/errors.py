# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The one error that users meet: a sentence that names the file or key, what was wanted and what came."""

from __future__ import annotations

__all__ = ["InputError", "input_error_behind"]


class InputError(ValueError):
    """Input that cannot be used. ``str(error)`` is one sentence for the user: where, what was wanted, what came."""


def input_error_behind(error: BaseException) -> InputError | None:
    """The InputError that an exception is, or that led to it: MONAI and its config parser wrap what they meet."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__ or cause.__context__
    return cause
