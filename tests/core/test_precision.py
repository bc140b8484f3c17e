# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from roi_fusion.core.choices import PRECISIONS
from roi_fusion.core.precision import autocast_for, has_bfloat16
from roi_fusion.errors import InputError


@pytest.mark.parametrize(("precision", "half"), [("auto", None), ("bf16", True), ("fp32", False)])
def test_bfloat16_is_used_where_asked_and_by_default_where_it_pays(precision: str, half: bool | None) -> None:
    half = has_bfloat16() if half is None else half
    with autocast_for(precision, torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if half else torch.float32)


def test_another_word_is_refused() -> None:
    with pytest.raises(InputError, match=f"precision: expected one of {', '.join(PRECISIONS)}, got 'fp16'"):
        autocast_for("fp16", torch.device("cpu"))


@pytest.mark.parametrize(
    ("flags", "half"), [("fma avx512f avx512_bf16 ssse3", True), ("amx_bf16", True), ("avx2 avx512f", False)]
)
def test_the_processor_is_asked(tmp_path: Path, flags: str, half: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    assert has_bfloat16(str(tmp_path / "cpuinfo")) is half
    assert has_bfloat16(str(tmp_path / "none")) is False
