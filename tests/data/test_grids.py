# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from roi_fusion.data.grids import (
    block_mean,
    left_right_axis,
    resample,
    respaced,
    same_grid,
    shear_mm,
    spacing_mm,
    straighten,
    thick_axis_last,
    thick_axis_order,
)


def ramp(shape: tuple[int, int, int], affine: np.ndarray, slopes: tuple[float, float, float]) -> np.ndarray:
    """A volume that is linear in millimetres: every resampling of it is known."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return (index @ affine[:3, :3].T + affine[:3, 3]) @ np.array(slopes)


AFFINE = np.array([[-0.9, 0, 0, 20.0], [0, 0.8, 0, -7], [0, 0, 5, 3], [0, 0, 0, 1]])


SLOPES = (1.0, -2.0, 0.5)


def test_resampling_keeps_values_in_place() -> None:
    array = ramp((30, 32, 10), AFFINE, SLOPES)
    shape, affine = respaced(array.shape, AFFINE, (1.8, 0.8, 2.5))
    assert shape == (15, 32, 20)
    np.testing.assert_allclose(spacing_mm(affine), (1.8, 0.8, 2.5))
    moved = np.eye(4)
    moved[:3, 3] = (0.5, 0.4, 0)
    out = resample(array, AFFINE, shape, affine, moved, outside=-1)
    there = ramp(shape, moved @ affine, SLOPES)
    np.testing.assert_allclose(out[2:-2, 2:-2, 2:-2], there[2:-2, 2:-2, 2:-2], atol=1e-3)
    far = np.eye(4)
    far[0, 3] = 500
    assert (resample(array, AFFINE, shape, affine, far, outside=-1) == -1).all()


def test_nearest_keeps_the_type() -> None:
    mask = np.zeros((6, 6, 3), np.uint8)
    mask[2:4, 2:4] = 1
    out = resample(mask, np.eye(4), mask.shape, np.eye(4), nearest=True)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, mask)


def test_block_means_stay_in_place() -> None:
    array = ramp((31, 32, 6), AFFINE, SLOPES)
    small, affine = block_mean(array, AFFINE, 2.5)
    assert small.shape == (10, 10, 6)
    np.testing.assert_allclose(small, ramp(small.shape, affine, SLOPES), atol=1e-3)


@pytest.mark.parametrize(
    ("spacing", "order"),
    [
        ((1, 1, 5), [0, 1, 2]),
        ((5, 1, 1), [1, 2, 0]),
        ((1, 5, 1), [0, 2, 1]),
        ((1, 1, 1), [0, 1, 2]),
        ((1.99, 2.01, 1.95), [0, 1, 2]),  # resampled to 2 mm, as near as whole voxels come
    ],
)
def test_the_thick_axis_comes_last(spacing: tuple[float, ...], order: list[int]) -> None:
    affine = np.diag([*spacing, 1.0])
    assert thick_axis_order(affine) == order
    array, turned = thick_axis_last(np.zeros((4, 5, 6)), affine)
    assert array.shape == tuple(np.array([4, 5, 6])[order])
    np.testing.assert_allclose(spacing_mm(turned), np.array(spacing)[order])


def test_grids_are_compared_in_their_corners() -> None:
    near = AFFINE.copy()
    near[0, 0] += 1e-3  # 0.3 mm at the end of 300 voxels
    assert same_grid((8, 8, 8), AFFINE, (8, 8, 8), near)
    assert not same_grid((300, 8, 8), AFFINE, (300, 8, 8), near)
    assert not same_grid((8, 8, 8), AFFINE, (8, 8, 9), AFFINE)


def test_a_tilted_stack_is_straightened() -> None:
    tilted = AFFINE.copy()
    tilted[:3, 2] = (0, 5 * np.sin(np.deg2rad(20)), 5 * np.cos(np.deg2rad(20)))
    array = ramp((30, 32, 10), tilted, SLOPES)
    assert shear_mm(array.shape, tilted)[1] == pytest.approx(45 * np.sin(np.deg2rad(20)))
    out, affine = straighten(array, tilted, outside=-1e6)
    assert np.abs(shear_mm(out.shape, affine)).max() < 1e-6
    inside = out > -9e5
    assert inside.mean() > 0.5
    core = ndimage.binary_erosion(inside, np.ones((3, 3, 1)), iterations=2)  # the border voxels end half a voxel further
    np.testing.assert_allclose(out[core], ramp(out.shape, affine, SLOPES)[core], atol=1e-2)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR", "PIR", "ALS"])
def test_the_left_right_axis_of_any_orientation(codes: str) -> None:
    oriented = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (10, 10, 10)) @ np.diag([0.5, 2.0, 6.0, 1.0])
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("xyz", (12, -9, 15), degrees=True).as_matrix()
    affine = tilt @ oriented
    (axis,) = (k for k, code in enumerate(nib.aff2axcodes(affine)) if code in "LR")
    assert left_right_axis(torch.as_tensor(affine)) == axis
