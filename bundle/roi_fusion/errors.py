# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The one error that users meet: a sentence that names the file or key, what was wanted and what came."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(ValueError):
    """Input that cannot be used. ``str(error)`` is one sentence for the user: where, what was wanted, what came."""
