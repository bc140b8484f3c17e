# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

from roi_fusion.data.cases import find_cases
from roi_fusion.data.modes import MODES, link_mode, mode_of


def test_each_mode_links_to_its_images_and_to_all_masks(tmp_path: Path) -> None:
    case = tmp_path / "data" / "a"
    case.mkdir(parents=True)
    for stem in ("mri", "ct", "lesion_mask", "bone_mask"):
        (case / f"{stem}.nii.gz").write_bytes(b"x")
    for mode, seen in MODES.items():
        (entry,) = find_cases(link_mode(tmp_path / "data", mode, tmp_path / mode), allow_missing=True)
        assert ("image" in entry) == ("mri" in seen)
        assert ("ct" in entry) == ("ct" in seen)
        assert "label" in entry
        assert Path(entry["label"]).resolve() == case / "lesion_mask.nii.gz"


def test_a_case_without_any_image_of_the_mode_is_left_out(tmp_path: Path) -> None:
    case = tmp_path / "data" / "a"
    case.mkdir(parents=True)
    (case / "ct.nii.gz").write_bytes(b"x")
    link_mode(tmp_path / "data", "mri", tmp_path / "mri")
    assert not (tmp_path / "mri").exists()


def test_the_mode_is_what_is_left() -> None:
    assert [mode_of(m) for m in ("", None, "ct", "mri")] == ["pair", "pair", "mri", "ct"]
