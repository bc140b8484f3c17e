# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest

from roi_fusion.errors import InputError
from roi_fusion.values import as_bool


def test_yes_and_no() -> None:
    assert [as_bool("x", v) for v in (True, "true", "True", 1, "yes")] == [True] * 5
    assert [as_bool("x", v) for v in (False, "false", "FALSE", 0, "no")] == [False] * 5
    with pytest.raises(InputError, match="register: expected true or false, got 'maybe'"):
        as_bool("register", "maybe")
