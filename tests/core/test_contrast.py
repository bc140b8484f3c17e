# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the MRI tells the network by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from roi_fusion.core.contrast import mri_facts
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.precision import autocast_for, has_bfloat16


def test_a_histogram_over_what_is_shown_and_three_flags() -> None:
    mri = torch.tensor([[0.0, 0.0, 1.0, 1.0, 9.0, -9.0]])
    ct = torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0, 1.0]])
    facts = mri_facts(mri, ct)[0]
    assert facts.shape == (19,)
    assert float(facts[:16].mean()) == pytest.approx(4 / 5)
    assert facts[[0, 15]].tolist() == pytest.approx([16 / 5, 16 / 5], rel=1e-5)  # beyond the ends
    assert facts[16:].tolist() == pytest.approx([1, 1, 4 / 6])
    assert mri_facts(torch.zeros(1, 6), ct)[0].tolist() == [0.0] * 17 + [1.0, 0.0]


def test_new_weights_start_at_nothing(net: RoiFusionNet) -> None:
    fresh = RoiFusionNet(channels=(8, 8, 12, 12), denoiser_channels=(4, 4, 6), detail_channels=4)
    assert not fresh.descriptor.by_mri.weight.any()
    facts = torch.rand(2, 37)
    first = fresh.descriptor(facts)
    facts[:, 18:] += 1
    assert torch.equal(first, fresh.descriptor(facts))
    assert not torch.equal(net.descriptor(facts), net.descriptor(facts - torch.cat([torch.zeros(18), torch.ones(19)])))


@pytest.mark.parametrize(("flags", "expected"), [("fma avx512_bf16 sha", True), ("amx_bf16", True), ("avx512f bf16", False)])
def test_auto_takes_bfloat16_where_the_processor_has_it(
    flags: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    assert has_bfloat16(str(tmp_path / "cpuinfo")) is expected
    monkeypatch.setattr("roi_fusion.core.precision.has_bfloat16", lambda: expected)
    assert autocast_for("auto", torch.device("cpu")).fast_dtype is torch.bfloat16
    assert autocast_for("auto", torch.device("cpu"))._enabled is expected
    assert autocast_for("fp32", torch.device("cpu"))._enabled is False


def test_a_machine_without_such_a_file_has_none(tmp_path: Path) -> None:
    assert has_bfloat16(str(tmp_path / "nothing")) is False
