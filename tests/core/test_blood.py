# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The rule was made with round haematomas in mind and is judged here on shapes of another kind: thresholded noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from roi_fusion.core.blood import blood_and_calcium, closed_brain, hyperdense_mask

SPACING_MM = (0.9, 0.9, 5.0)
FINE = 3  # thin slices and pixels that a voxel averages


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@lru_cache(maxsize=8)
def bled(seed: int, hu: float = 72.0, noise: float = 4.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CT of a round brain in a skull with blood of a random shape, the blood (shares above a half), and the brain."""
    rng = np.random.default_rng(seed)
    shape = (110 * FINE, 110 * FINE, 7)
    x, y = np.mgrid[: shape[0], : shape[1]] - shape[0] / 2
    radius = np.hypot(x, y)[..., None] / FINE
    field = ndimage.gaussian_filter(rng.standard_normal(shape), (9 * FINE * rng.uniform(0.5, 1), 6 * FINE, 1.2))
    inside = (radius < 36) & (np.arange(7) > 1) & (np.arange(7) < 6)
    largest, count = ndimage.label((field > np.quantile(field[inside], 0.93)) & inside)
    blood = largest == 1 + np.argmax(np.bincount(largest.ravel())[1:]) if count else inside
    # Texture of the brain: sulci and white matter from 27 to 40 HU.
    tissue = 33 + 3.5 * ndimage.gaussian_filter(rng.standard_normal(shape), (4 * FINE, 4 * FINE, 1)) / 0.004
    fine = np.where(blood, hu, np.clip(tissue, 27, 40))
    fine = np.where(radius > 44, 1000.0, fine)
    fine = np.where(radius > 49, 20.0, fine)

    def block(v: np.ndarray) -> np.ndarray:
        return v.reshape(110, FINE, 110, FINE, 7).mean((1, 3))

    ct = block(fine) + ndimage.gaussian_filter(rng.normal(0, noise * 1.9, (110, 110, 7)), (0.5, 0.5, 0))
    return ct, block(blood.astype(float)) > 0.5, block((radius < 44).repeat(7, -1).astype(float)) > 0.5


@pytest.mark.parametrize("seed", range(6))
def test_whole_haematomas_of_shapes_that_the_rule_was_not_made_on(seed: int) -> None:
    ct, truth, brain = bled(seed, hu=64.0 + 3 * seed)
    blood, calcium = blood_and_calcium(ct, brain, SPACING_MM)
    assert dice(blood, truth) >= 0.85
    assert not calcium.any()


def test_on_average_they_agree_to_nine_tenths_and_a_threshold_does_not() -> None:
    found, by_threshold = [], []
    for seed in range(6):
        ct, truth, brain = bled(seed, hu=64.0 + 3 * seed)
        found.append(dice(hyperdense_mask(ct, brain, SPACING_MM), truth))
        smooth = ndimage.gaussian_filter(ct, (1.1, 1.1, 0))
        inner = ndimage.binary_erosion(brain, np.ones((3, 3, 1), bool), iterations=3)
        by_threshold.append(dice(inner & (smooth > 60), truth))
    print(np.round(found, 3), np.round(by_threshold, 3))
    assert np.mean(found) >= 0.90
    assert np.mean(found) > np.mean(by_threshold) + 0.05


def test_a_brain_without_blood_has_none() -> None:
    ct, truth, brain = bled(0)
    healthy = np.where(ndimage.binary_dilation(truth, iterations=3), 34.0, ct)
    assert not hyperdense_mask(healthy, brain, SPACING_MM).any()


def test_the_border_is_smooth() -> None:
    """A round haematoma's outline is hardly longer than a circle's, in spite of noise."""
    x, y = np.mgrid[:80, :80] - 40.0
    truth = (np.hypot(x, y) < 12)[..., None].repeat(3, -1)
    ct = np.where(truth, 66.0, 34.0) + np.random.default_rng(3).normal(0, 8, truth.shape)
    blood, _ = blood_and_calcium(ct, np.ones(truth.shape, bool), (1.0, 1.0, 5.0))
    assert dice(blood, truth) > 0.93

    def outline(mask: np.ndarray) -> int:
        return sum(int(np.abs(np.diff(mask[..., 1].astype(int), axis=a)).sum()) for a in (0, 1))

    assert outline(blood) < 1.15 * outline(truth)
    assert ndimage.label(blood)[1] == 1


def test_calcium_is_told_apart_and_does_not_grow() -> None:
    ct = np.full((60, 60, 5), 35.0)
    ct[20:24, 20:24, 1:4] = 250
    ct[40:52, 36:50, 1:4] = 70
    blurred = ndimage.gaussian_filter(ct, (0.7, 0.7, 0))
    blood, calcium = blood_and_calcium(blurred, np.ones(ct.shape, bool), (1.0, 1.0, 5.0))
    assert dice(calcium, ct == 250) > 0.75
    assert dice(blood, ct == 70) > 0.9
    assert not (blood & calcium).any()
    assert not blood[:30, :30].any()


def test_blood_in_a_bay_of_the_brain_mask_is_found() -> None:
    ct, _, brain = bled(1)
    bone = ct > 300
    holed = brain & ~(ct > 55)
    whole = closed_brain(holed, bone, SPACING_MM)
    assert dice(whole, brain) > 0.97
    assert not (whole & bone).any()


def test_the_skulls_edge_is_no_blood_and_nothing_is_found_in_nothing() -> None:
    ct = np.full((60, 60, 4), 35.0)
    brain = np.zeros((60, 60, 4), bool)
    brain[10:50, 10:50] = True
    ct[~brain] = 900
    ct[9:12] = 200  # half skull, half brain
    ct[28:36, 28:36, 1:3] = 70
    ct[20, 20, 0] = 300  # one noisy voxel
    dense = hyperdense_mask(ct, brain, (1.0, 1.0, 5.0))
    assert dense[30:34, 30:34, 1].all()
    assert not dense[:15].any()
    assert dense[..., 3].sum() == 0
    nothing = np.zeros((20, 20, 3), bool)
    assert not hyperdense_mask(np.full(nothing.shape, -1000.0), nothing, (1.0, 1.0, 5.0)).any()
    assert not closed_brain(nothing, nothing, (1.0, 1.0, 5.0)).any()
