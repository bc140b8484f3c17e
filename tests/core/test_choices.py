# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import ast

import pytest

from conftest import BUNDLE
from roi_fusion.core.choices import PRESETS, SCALED_POINTS
from roi_fusion.core.guidance import RoiGuidance
from roi_fusion.core.losses import RoiFusionLoss
from roi_fusion.errors import InputError


def test_it_imports_nothing() -> None:
    tree = ast.parse((BUNDLE / "roi_fusion" / "core" / "choices.py").read_text())
    imports = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    assert [n.module for n in imports] == ["__future__"]


def test_the_method_takes_these_words_and_no_others() -> None:
    for preset in PRESETS:
        RoiFusionLoss(preset)
    with pytest.raises(InputError, match="mode: expected one of off, logits, full"):
        RoiGuidance("on")
    assert SCALED_POINTS[-1] == 1
