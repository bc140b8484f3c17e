# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from roi_fusion.core.masks import bone_mask, brain_mask, cranial_masks, head_mask, largest_component
from roi_fusion_tools.phantoms.render import Phantom, PhantomConfig, draw_phantom


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@lru_cache(maxsize=1)
def drawn(config: PhantomConfig, number: int) -> Phantom:
    return draw_phantom(config, (301, number))


def with_metal(ct: np.ndarray, spacing: tuple[float, ...], brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A clip of 7 mm and 3071 HU somewhere in the brain, with streaks over its slice."""
    out = ct.astype(np.float32)
    where = np.argwhere(brain)
    centre = where[rng.integers(len(where))]
    x, y = np.ogrid[: ct.shape[0], : ct.shape[1]]
    dx, dy = (x - centre[0]) * spacing[0], (y - centre[1]) * spacing[1]
    radius, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    plane = out[..., centre[2]]
    plane += 900 * np.cos(6 * angle + rng.uniform(0, 6)) ** 3 * np.exp(-radius / 18) * (radius > 2)
    plane[radius < 3.5] = 3071
    return np.clip(out, -1024, 3071).astype(np.int16)


def with_table(ct: np.ndarray, spacing: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """A curved table of 4 mm and 100 to 600 HU that touches the back of the head."""
    out = ct.copy()
    x, y = ((np.arange(n) - n / 2) * s for n, s in zip(ct.shape[:2], spacing))
    back = y[np.flatnonzero((ct > -300).any((0, 2)))[0]]
    table = (np.abs(y - (back - 2 + 0.0015 * x[:, None] ** 2)) < 2) & (np.abs(x[:, None]) < 100)
    out[table[..., None] & (ct < 0)] = rng.integers(100, 600)
    return out


def agreement(number: int, shape: tuple[int, int, int], spacing: tuple[float, ...], kind: str) -> tuple[float, float]:
    """Dice of bone and of brain against the phantom's truth."""
    phantom = drawn(PhantomConfig(shape, spacing), number)  # type: ignore[arg-type]
    rng = np.random.default_rng(number)
    ct = phantom.ct
    if kind == "metal":
        ct = with_metal(ct, spacing, phantom.brain > 0, rng)
    elif kind == "table":
        ct = with_table(ct, spacing, rng)
    head = head_mask(ct, spacing)
    bone, brain = cranial_masks(ct, head, spacing)
    assert (brain <= head).all()
    assert not (brain & bone).any()
    return dice(bone, phantom.bone > 0), dice(brain, phantom.brain > 0)


@pytest.mark.parametrize(("number", "kind"), [(8, "plain"), (4, "metal"), (11, "table")])
def test_masks_agree_with_the_phantoms_truth(number: int, kind: str) -> None:
    bone, brain = agreement(number, (128, 128, 24), (1.8, 1.8, 6.0), kind)
    assert bone >= 0.90
    assert brain >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_masks_at_the_grid_of_the_clinic() -> None:
    """Twelve phantoms at 0.9x0.9x6 mm, plain, with metal and with a table."""
    kinds = ("plain", "metal", "table")
    found = [[agreement(n, (256, 256, 26), (0.9, 0.9, 6.0), kind) for kind in kinds] for n in range(12)]  # [case, kind, region]
    for kind, values in zip(kinds, np.array(found).transpose(1, 0, 2)):
        middle, worst = np.median(values, axis=0), np.min(values, axis=0)
        print(f"{kind:6s} bone {middle[0]:.3f} (worst {worst[0]:.3f})  brain {middle[1]:.3f} (worst {worst[1]:.3f})")
        assert worst[0] >= 0.90
        assert worst[1] >= 0.95


def test_an_eight_bit_ct_has_bone_where_it_is_saturated() -> None:
    spacing = (2.9, 2.8, 8.0)
    phantom = draw_phantom(PhantomConfig((72, 84, 18), spacing), (301, 1))
    ct = np.clip(phantom.ct, -1000, 320)  # a display window that ends below dense bone
    bone, brain = cranial_masks(ct, head_mask(ct, spacing), spacing)
    assert dice(bone, phantom.bone > 0) > 0.75
    assert dice(brain, phantom.brain > 0) > 0.9


def test_what_is_dense_but_loose_in_the_brain_is_brain() -> None:
    x, y = np.mgrid[:90, :90] - 45.0
    radius = np.hypot(x, y)[..., None].repeat(6, -1)
    ct = np.where(radius < 33, 35.0, np.where(radius < 38, 1200.0, np.where(radius < 42, 20.0, -1000.0)))
    ct[50:54, 50:54, 2:4] = 1500  # a clip
    bone, brain = cranial_masks(ct, head_mask(ct, (1.0, 1.0, 5.0)), (1.0, 1.0, 5.0))
    assert brain[50:54, 50:54, 2:4].all()
    assert not bone[50:54, 50:54, 2:4].any()
    assert bone[45, 45 + 35].all()


def test_a_skull_that_runs_out_of_the_image_encloses_its_brain() -> None:
    spacing = (1.8, 1.8, 6.0)
    phantom = drawn(PhantomConfig((128, 128, 24), spacing), 8)
    wide = np.flatnonzero((phantom.brain > 0).any((1, 2)))
    for part in (np.s_[wide[8] :], np.s_[wide[8] : wide[-9]], np.s_[:, :70]):  # cut by 14 mm, at one side and at both; half
        ct, truth = phantom.ct[part], phantom.brain[part] > 0
        _, brain = cranial_masks(ct, head_mask(ct, spacing), spacing)
        assert dice(brain, truth) > 0.93, part


def test_a_skull_is_not_open_where_a_scan_ended_and_was_padded() -> None:
    spacing = (1.8, 1.8, 6.0)
    phantom = drawn(PhantomConfig((128, 128, 24), spacing), 8)
    ct = phantom.ct.copy()
    ct[..., 13:] = -1024
    _, brain = cranial_masks(ct, head_mask(ct, spacing), spacing)
    assert dice(brain[..., :13], phantom.brain[..., :13] > 0) > 0.95
    assert dice(brain[..., 12], phantom.brain[..., 12] > 0) > 0.95


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


def test_nothing_is_found_in_nothing() -> None:
    empty = np.zeros((8, 8, 3), bool)
    assert not largest_component(empty).any()
    air = np.full((20, 20, 3), -1000.0)
    assert not head_mask(air, (1.0, 1.0, 5.0)).any()
    assert not bone_mask(air, empty[:0].any() | np.zeros_like(air, bool)).any()
    assert not brain_mask(air, np.zeros_like(air, bool), np.zeros_like(air, bool), (1.0, 1.0, 5.0)).any()
