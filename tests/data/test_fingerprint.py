# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

from helpers import byte_cases
from roi_fusion.data.fingerprint import data_hash


def test_the_hash_of_the_data_changes_with_it(tmp_path: Path) -> None:
    data = byte_cases(tmp_path)
    first = data_hash(data)
    assert data_hash(data[::-1]) == first
    assert data_hash(byte_cases(tmp_path / "copy")) == first  # of the content, not of the place
    assert data_hash(data[:1]) != first
    path = tmp_path / "b" / "ct.nii.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert data_hash(data) != first
