# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import pytest

from roi_fusion.data.history import read_history
from roi_fusion.errors import InputError


def test_a_broken_or_missing_history_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the history of a training, found no such file"):
        read_history(tmp_path)
    (tmp_path / "history.jsonl").write_text('{"epoch": 1}\nnonsense\n{"epoch": 3}\n')
    with pytest.raises(InputError, match="expected one JSON object with an epoch in line 2, got 'nonsense'"):
        read_history(tmp_path)
