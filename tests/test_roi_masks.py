# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest

from roi_fusion.phantoms import PhantomConfig, draw_phantom
from roi_fusion.roi_masks import bone_mask, brain_mask, head_mask, hyperdense_mask, largest_component


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("number", range(4))
def test_masks_agree_with_the_phantoms_truth(number: int) -> None:
    spacing = (1.8, 1.8, 6.0)
    phantom = draw_phantom(PhantomConfig((128, 128, 24), spacing), (21, number))
    head = head_mask(phantom.ct, spacing)
    bone = bone_mask(phantom.ct, head)
    brain = brain_mask(phantom.ct, bone, head, spacing)
    assert dice(bone, phantom.bone > 0) > 0.88
    assert dice(brain, phantom.brain > 0) > 0.95
    assert (brain <= head).all()
    assert not (brain & bone).any()


def test_the_head_has_no_table_and_no_holes() -> None:
    ct = np.full((80, 80, 3), -1000.0)
    x, y = np.mgrid[:80, :80] - 40.0
    ct[x**2 + y**2 < 25**2] = 40
    ct[(x**2 + y**2) < 5**2] = -1000  # a sinus
    ct[abs(x + 33) < 1.5] = 150  # a table
    head = head_mask(ct, (1.0, 1.0, 5.0))
    assert head[40, 40].all()
    assert not head[8].any()
    truth = x**2 + y**2 < 25**2
    assert dice(head[..., 1], truth) > 0.98


def test_a_head_from_mri_alone() -> None:
    rng = np.random.default_rng(0)
    x, y = np.mgrid[:80, :80] - 40.0
    signal = np.where(x**2 + y**2 < 25**2, 300.0, 0.0) + np.where(x**2 + y**2 < 8**2, 900.0, 0.0)
    mri = np.abs(signal + 10 * rng.standard_normal(signal.shape))[..., None].repeat(3, -1)
    assert dice(head_mask(mri, (1.0, 1.0, 5.0), modality="mri")[..., 0], x**2 + y**2 < 25**2) > 0.97


def test_blood_is_found_and_the_skulls_edge_is_not() -> None:
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


def test_nothing_is_found_in_nothing() -> None:
    empty = np.zeros((8, 8, 3), bool)
    assert not largest_component(empty).any()
    air = np.full((20, 20, 3), -1000.0)
    assert not head_mask(air, (1.0, 1.0, 5.0)).any()
    assert not bone_mask(air, empty[:0].any() | np.zeros_like(air, bool)).any()
    assert not brain_mask(air, np.zeros_like(air, bool), np.zeros_like(air, bool), (1.0, 1.0, 5.0)).any()
    assert not hyperdense_mask(air, np.zeros_like(air, bool), (1.0, 1.0, 5.0)).any()
