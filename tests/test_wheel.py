# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What goes into the wheel is all that the packages consist of. `make test-wheel` builds, installs and uses it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from conftest import BUNDLE, ROOT
from roi_fusion_tools.package import bundle_files

TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {name: ROOT / folder for name, folder in TOOL["package-dir"].items()}
DATA = TOOL["package-data"]


def shipped(package: str, folder: Path) -> set[Path]:
    """Files that the patterns for a package find in one of its folders."""
    patterns = [*DATA["*"], *DATA.get(package, [])] if folder == FOLDERS[package] else DATA["*"]
    return {p for pattern in patterns for p in folder.glob(pattern)}


@pytest.mark.parametrize("package", ["roi_fusion", "roi_fusion_tools"])
def test_every_file_of_a_package_is_code_or_matches_a_pattern(package: str) -> None:
    root = FOLDERS[package]
    packages = [root, *(p.parent for p in root.rglob("__init__.py"))]
    found = {p for folder in packages for p in (*shipped(package, folder), *folder.glob("*.py"))}
    there = {
        p
        for p in root.rglob("*")
        if p.is_file() and not any(n == "__pycache__" or n.startswith(".") for n in p.relative_to(root).parts)
    }
    assert there - found == set()


def test_the_bundles_files_ride_along() -> None:
    found = {p.relative_to(BUNDLE) for p in shipped("roi_fusion_bundle", BUNDLE)}
    wanted = {p for p in bundle_files() if p.parts[0] in ("configs", "models") or p.name in ("LICENSE", "README.md")}
    assert wanted <= found


def test_the_zip_has_every_file_of_the_package() -> None:
    there = {p.relative_to(BUNDLE) for p in (BUNDLE / "roi_fusion").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert there - set(bundle_files()) == set()
