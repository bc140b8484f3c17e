# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import BUNDLE
from roi_fusion.config.root import BUNDLE_ROOT, find_bundle


def test_the_bundle_lies_around_the_package_or_beside_it(tmp_path: Path) -> None:
    """As in a checkout, the zip and a copy; and as a wheel installs it."""
    assert BUNDLE_ROOT == BUNDLE
    package = tmp_path / "roi_fusion"
    assert find_bundle(package) == tmp_path / "roi_fusion_bundle"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.json").touch()
    assert find_bundle(package) == tmp_path


@pytest.mark.parametrize("name", ["train", "inference"])
def test_the_configs_ask_the_same_place(name: str) -> None:
    config = json.loads((BUNDLE / "configs" / f"{name}.json").read_text())
    assert config["bundle_root"] == "$str(roi_fusion.config.root.BUNDLE_ROOT)"
