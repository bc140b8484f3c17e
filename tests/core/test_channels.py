# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest
import torch

from roi_fusion.core.channels import OUTPUT_CHANNELS, RAW_CHANNELS, split_output, split_raw


@pytest.mark.parametrize(("split", "names"), [(split_raw, RAW_CHANNELS), (split_output, OUTPUT_CHANNELS)])
def test_names_follow_the_order_of_the_channels_also_in_a_script(split: object, names: tuple[str, ...]) -> None:
    volume = torch.arange(2 * 5 * 3.0).view(2, 5, 3, 1, 1)
    for function in (split, torch.jit.script(split)):
        parts = function(volume)
        assert parts._fields == names
        for position, name in enumerate(names):
            assert torch.equal(getattr(parts, name), volume[:, position : position + 1])
        assert torch.equal(torch.cat(tuple(parts), dim=1), volume)


def test_channels_are_views() -> None:
    volume = torch.zeros(1, 5, 2, 2, 2)
    split_raw(volume).gate.fill_(1.0)
    assert volume[:, RAW_CHANNELS.index("gate")].eq(1).all()
    assert volume.sum() == 8
    with pytest.raises(ValueError, match="expected 5"):
        split_raw(torch.zeros(1, 4, 2, 2, 2))
