# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import os
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from roi_fusion.report.rendering import address_of, write_page

EMPTY = {"cases": 0, "flags": {}, "lesions": {"known": 0, "unknown": 0, "without": 0, "median_ml": None}}
PAGE = {"s": {**EMPTY, "shapes": [], "spacings_mm": [], "orientations": []}, "cases": [], "meaning": {}, "curves": []}


def test_everything_is_escaped_and_nothing_may_be_fetched(tmp_path: Path) -> None:
    written = write_page(tmp_path / "a" / "x.html", "explore.html.j2", package="roi_fusion_tools", title="<b>&\udcff", **PAGE)
    page = written.read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert [p.name for p in written.parent.iterdir()] == ["x.html"]


def test_a_page_lacks_nothing_that_its_template_names(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError):
        write_page(tmp_path / "x.html", "explore.html.j2", package="roi_fusion_tools", title="a")
    assert not (tmp_path / "x.html").exists()


def test_addresses_hold_any_file_name() -> None:
    assert address_of('a"b/c#d') == "a%22b%2Fc%23d"
    assert address_of(os.fsdecode(b"\xff")) == "%FF"
