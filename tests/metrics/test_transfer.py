# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Against the script beside the project, which we did not write, on the same 8-bit slices."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from conftest import shared
from helpers import INTENSITY
from roi_fusion.core.intensity import IntensityMap
from roi_fusion.metrics.transfer import edge_transfer, eight_bit_slices, visual_fidelity, volume_transfer


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("fusion_metrics", shared("fusion_metrics.py"))
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def pictures(seed: int, shape: tuple[int, int] = (70, 90)) -> list[np.ndarray]:
    """MRI-like, CT-like and fused pictures with flat parts, black parts and reversed contrast."""
    rng = np.random.default_rng(seed)
    a, b = (ndimage.gaussian_filter(rng.standard_normal(shape), s) * 60 * s + 120 for s in (1.5, 3))
    a[:12], b[:, :9], b[30:50, 30:50] = 0, 0, 255
    mix = np.where(rng.random(shape) < 0.02, 255 - a, np.maximum(a, b) if seed % 2 else (a + b) / 2)
    return [np.clip(p, 0, 255).astype(np.uint8) for p in (a, b, mix)]


@pytest.mark.parametrize("seed", range(4))
def test_vif_and_qabf_equal_the_script_that_we_did_not_write(script: Any, seed: int) -> None:
    mri, ct, fused = pictures(seed)
    a, b, f = (p.astype(np.float64) for p in (mri, ct, fused))
    assert visual_fidelity(mri, fused) == pytest.approx(script.vifp(a, f), rel=1e-9)
    assert visual_fidelity(ct, fused) == pytest.approx(script.vifp(b, f), rel=1e-9)
    assert edge_transfer(mri, ct, fused) == pytest.approx(script.qabf(a, b, f), rel=1e-9)


def test_a_volume_is_the_mean_of_its_slices(script: Any) -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 2, 48, 44, 3)
    image[..., 2] = 0  # shows nothing
    fused = image[:, :1] * 0.5 + 0.2
    constants = IntensityMap.from_case(INTENSITY)
    found = volume_transfer(fused, image, constants)
    slices = eight_bit_slices(fused, image, constants).astype(np.float64)
    expected = [[script.vifp(s[0], s[2]) + script.vifp(s[1], s[2]), script.qabf(*s)] for s in slices.swapaxes(0, 1)[:2]]
    assert list(found.values()) == pytest.approx(np.mean(expected, axis=0))


def test_a_copy_a_blank_and_what_cannot_be_measured() -> None:
    mri, ct, _ = pictures(1)
    assert visual_fidelity(mri, mri) == pytest.approx(1.0)
    assert visual_fidelity(mri, np.zeros_like(mri)) == pytest.approx(0.0, abs=1e-6)
    assert edge_transfer(mri, ct, np.zeros_like(mri)) < 0.01
    for image in (torch.zeros(1, 2, 48, 48, 2), torch.randn(1, 2, 20, 20, 2)):
        found = volume_transfer(image[:, :1], image, IntensityMap.from_case(INTENSITY))
        assert all(math.isnan(v) for v in found.values())
