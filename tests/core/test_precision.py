# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest
import torch

from roi_fusion.core.precision import PRECISIONS, autocast_for
from roi_fusion.errors import InputError


@pytest.mark.parametrize(
    ("precision", "device", "half"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        ("bf16", "cpu", True),
        ("fp32", "cuda", False),
    ],
)
@pytest.mark.filterwarnings("ignore:User provided device_type")
def test_bfloat16_is_used_where_asked_and_on_cuda(precision: str, device: str, half: bool) -> None:
    context = autocast_for(precision, torch.device(device))
    assert context.device == device
    if device == "cpu" or torch.cuda.is_available():  # torch switches autocast off for a device that is not there
        assert context._enabled is half


def test_another_word_is_refused() -> None:
    with pytest.raises(InputError, match=f"precision: expected one of {', '.join(PRECISIONS)}, got 'fp16'"):
        autocast_for("fp16", torch.device("cpu"))
