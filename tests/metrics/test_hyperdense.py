# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import math

import numpy as np

from roi_fusion.metrics.hyperdense import hyperdense_dice, readers_region, shown_region

SPACING_MM = (1.0, 1.0, 5.0)


def bled(noise: float = 0.0) -> tuple[np.ndarray, ...]:
    """CT, brain, bone and the true blood of a round head."""
    x, y = np.mgrid[:90, :90] - 45.0
    radius = np.hypot(x, y)[..., None].repeat(4, -1)
    blood = (((x + 12) / 8) ** 2 + ((y - 6) / 11) ** 2 < 1)[..., None].repeat(4, -1)
    ct = np.where(radius < 36, 33.0, np.where(radius < 42, 1000.0, -1000.0))
    ct[blood] = 72
    ct[radius.astype(int) == 35] = 70  # partly skull
    return ct + np.random.default_rng(0).normal(0, noise, ct.shape), radius < 36, (radius >= 36) & (radius < 42), blood


def test_the_readers_rule_outlines_a_known_haematoma_and_not_the_skulls_edge() -> None:
    for noise in (0.0, 5.0):
        ct, brain, bone, blood = bled(noise)
        found = readers_region(ct, brain & ~blood, bone, SPACING_MM)  # a brain mask that leaves blood out
        assert hyperdense_dice(found, blood) > 0.95
        assert not (found & (np.hypot(*np.mgrid[-45:45, -45:45])[..., None] > 33)).any()


def test_nothing_below_the_rule_is_outlined() -> None:
    ct, brain, bone, blood = bled()
    ct[blood] = 58
    assert not readers_region(ct, brain, bone, SPACING_MM).any()
    ct[blood] = 33
    ct[40:43, 40:43, 1] = 90  # 0.045 mL
    assert not readers_region(ct, brain, bone, SPACING_MM).any()


def test_a_method_that_shows_half_gets_two_thirds_and_one_that_shows_all_as_blood_little() -> None:
    _, brain, _, blood = bled()
    mri, ct = np.zeros(blood.shape), np.where(blood, 3.0, -0.3)
    hu = np.where(blood, 72.0, 33.0)
    half = blood & (np.arange(90) < 51)[None, :, None]
    for taken, expected in ((blood, 1.0), (half, 2 * half.sum() / (half.sum() + blood.sum())), (~brain, 0.0)):
        fused = np.where(taken, ct, mri)
        shown = shown_region(fused, mri, ct, np.where(taken, hu, 35.0), brain)
        assert hyperdense_dice(shown, blood) == expected
    everything = shown_region(np.full(ct.shape, 3.0), mri, np.full(ct.shape, 3.0), np.full(ct.shape, 72.0), brain)
    assert hyperdense_dice(everything, blood) < 0.3
    assert math.isnan(hyperdense_dice(everything, np.zeros_like(blood)))
