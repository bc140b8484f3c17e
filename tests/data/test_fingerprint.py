# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

from roi_fusion.data.fingerprint import data_hash


def cases(folder: Path) -> list[dict]:
    out = []
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for stem in ("mri", "ct"):
            path = folder / name / f"{stem}.nii.gz"
            if not path.exists():
                path.write_bytes(f"{name}{stem}".encode() * 40000)
        out.append({"case": name, "image": str(folder / name / "mri.nii.gz"), "ct": str(folder / name / "ct.nii.gz")})
    return out


def test_the_hash_of_the_data_changes_with_it(tmp_path: Path) -> None:
    data = cases(tmp_path)
    first = data_hash(data)
    assert data_hash(data[::-1]) == first
    assert data_hash(cases(tmp_path / "copy")) == first  # of the content, not of the place
    assert data_hash(data[:1]) != first
    path = tmp_path / "b" / "ct.nii.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert data_hash(data) != first
