# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest
import torch

from roi_fusion.core.precision import PRECISIONS, autocast_for
from roi_fusion.errors import InputError


@pytest.mark.parametrize(("precision", "half"), [("auto", False), ("bf16", True), ("fp32", False)])
def test_bfloat16_is_used_where_asked(precision: str, half: bool) -> None:
    with autocast_for(precision, torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if half else torch.float32)


def test_another_word_is_refused() -> None:
    with pytest.raises(InputError, match=f"precision: expected one of {', '.join(PRECISIONS)}, got 'fp16'"):
        autocast_for("fp16", torch.device("cpu"))
