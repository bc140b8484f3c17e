# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Volumes ``[X, Y, Z]`` with an affine from index to RAS millimetres: spacing, axis order, straightening, resampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.affines import voxel_sizes
from scipy import ndimage

__all__ = [
    "block_mean",
    "has_orientation",
    "resample",
    "respaced",
    "same_grid",
    "shear_mm",
    "spacing_mm",
    "spacing_of",
    "straighten",
    "thick_axis_last",
    "thick_axis_order",
]


def spacing_mm(affine: np.ndarray) -> np.ndarray:
    """Voxel size along the array axes."""
    return voxel_sizes(affine)


def same_grid(
    shape: Sequence[int], affine: np.ndarray, other_shape: Sequence[int], other_affine: np.ndarray, tolerance_mm: float = 1e-2
) -> bool:
    """Whether two grids have one shape and agree to `tolerance_mm` in the corners."""
    if tuple(shape) != tuple(other_shape):
        return False
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*shape, 1]
    return bool(np.abs(corners @ (np.asarray(affine) - np.asarray(other_affine)).T).max() < tolerance_mm)


#: Share of the largest spacing from which on another counts as equal: programs that resample to one spacing miss it by a few
#: hundredths, and slices are thicker than their pixels by far more.
EQUAL_SPACING = 0.9


def thick_axis_order(affine: np.ndarray) -> list[int]:
    """Array axes with that of the largest spacing last; of about equal spacings the one nearest to the body's axis."""
    spacing = spacing_mm(affine)
    upwards = np.abs(affine[2, :3]) / spacing
    last = max(range(3), key=lambda a: (bool(spacing[a] >= EQUAL_SPACING * spacing.max()), upwards[a]))
    return [a for a in range(3) if a != last] + [last]


def thick_axis_last(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same volume with its axes in :func:`thick_axis_order`."""
    order = thick_axis_order(affine)
    return array.transpose(order), affine[:, [*order, 3]]


def block_mean(array: np.ndarray, affine: np.ndarray, step_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Means over blocks of whole voxels of about `step_mm`; axes with larger voxels stay."""
    factor = np.maximum(1, np.minimum(np.round(step_mm / spacing_mm(affine)).astype(int), array.shape))
    fitted = array[tuple(slice(n // f * f) for n, f in zip(array.shape, factor))].astype(np.float32)
    x, y, z = (n // f for n, f in zip(fitted.shape, factor))
    blocks = fitted.reshape(x, factor[0], y, factor[1], z, factor[2])  # [X, fx, Y, fy, Z, fz]
    out = affine.astype(np.float64).copy()
    out[:3, :3] = affine[:3, :3] * factor
    out[:3, 3] = affine[:3, 3] + affine[:3, :3] @ ((factor - 1) / 2)
    return blocks.mean((1, 3, 5)), out


def respaced(shape: Sequence[int], affine: np.ndarray, spacing: Sequence[float]) -> tuple[tuple[int, ...], np.ndarray]:
    """A grid of another spacing that covers the same box."""
    old = spacing_mm(affine)
    new_shape = tuple(max(1, round(n * o / s)) for n, o, s in zip(shape, old, spacing))
    out = affine.astype(np.float64).copy()
    out[:3, :3] = affine[:3, :3] / old * np.asarray(spacing)
    # First voxels share their outer corner.
    out[:3, 3] = affine[:3, 3] - affine[:3, :3] @ np.full(3, 0.5) + out[:3, :3] @ np.full(3, 0.5)
    return new_shape, out


def resample(
    array: np.ndarray,
    affine: np.ndarray,
    shape: Sequence[int],
    target_affine: np.ndarray,
    matrix: np.ndarray | None = None,
    *,
    outside: float = 0.0,
    nearest: bool = False,
) -> np.ndarray:
    """A volume on another grid, linear or nearest; smoothed first along axes that become coarser, against aliasing.

    Args:
        array: ``[X, Y, Z]``.
        affine: of `array`.
        shape, target_affine: the grid of the result.
        matrix: maps millimetres of the result to millimetres of `array`; the identity when it is None.
        outside: value outside the field of view.
        nearest: take the nearest voxel.

    Returns:
        float32, or the array's own type with `nearest`.
    """
    to_index = np.linalg.inv(affine) @ (np.eye(4) if matrix is None else matrix) @ target_affine
    source = array
    if not nearest:
        target = target_affine[:3, :3] if matrix is None else matrix[:3, :3] @ target_affine[:3, :3]
        along = np.abs(affine[:3, :3].T @ target / np.linalg.norm(target, axis=0)).argmax(
            1
        )  # the axis nearest to each of the array's
        step = np.linalg.norm(target, axis=0)[along] / spacing_mm(affine)  # voxels of the array a voxel of the result
        sigma = [(s - 1) / 2 if s > 1.3 else 0.0 for s in step]
        source = ndimage.gaussian_filter(array.astype(np.float32), sigma) if any(sigma) else array.astype(np.float32)
    padded = np.pad(source, 1, mode="edge")  # the outer half of a border voxel belongs to the field of view
    out = ndimage.affine_transform(
        padded,
        to_index[:3, :3],
        to_index[:3, 3] + 1,
        output_shape=tuple(shape),
        order=0 if nearest else 1,
        mode="constant",
        cval=outside,
    )
    return out


def shear_mm(shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """How far the last slice is shifted along both other axes against a stack at right angles, in mm."""
    unit = affine[:3, :3] / spacing_mm(affine)
    travel = affine[:3, 2] * (shape[2] - 1)
    return np.array([unit[:, 0] @ travel, unit[:, 1] @ travel])


def straighten(array: np.ndarray, affine: np.ndarray, outside: float) -> tuple[np.ndarray, np.ndarray]:
    """Undo a gantry tilt: shift each slice (last axis) within its plane until the stack stands at right angles.

    Slices keep their planes, so nothing is interpolated between them; the planes grow by the shift, so nothing is cut off.
    """
    shear = shear_mm(array.shape, affine)
    step = spacing_mm(affine)
    unit = affine[:3, :3] / step
    normal = np.cross(unit[:, 0], unit[:, 1])
    normal *= np.sign(normal @ affine[:3, 2])
    before = [max(0, int(np.ceil(-s / d))) for s, d in zip(shear, step)]  # voxels to add at the low end
    after = [max(0, int(np.ceil(s / d))) for s, d in zip(shear, step)]
    shape = (array.shape[0] + before[0] + after[0], array.shape[1] + before[1] + after[1], array.shape[2])
    out = affine.astype(np.float64).copy()
    out[:3, 2] = normal * float(normal @ affine[:3, 2])
    out[:3, 3] = affine[:3, 3] - affine[:3, 0] * before[0] - affine[:3, 1] * before[1]
    return resample(array, affine, shape, out, outside=outside), out


def left_right_axis(affine: torch.Tensor) -> int:
    """Which array axis of an affine ``[4, 4]`` runs between the patient's left and right most nearly."""
    directions = torch.as_tensor(affine).double()[:3, :3]
    return int((directions[0].abs() / directions.norm(dim=0).clamp(min=1e-12)).argmax())


def spacing_of(volume: MetaTensor) -> tuple[float, ...]:
    """Voxel size in mm along the three array axes."""
    return tuple(float(s) for s in volume.pixdim[:3])


def has_orientation(volume: MetaTensor) -> bool:
    """Whether a file said where its voxels lie: a NIfTI with sform or qform, and an affine that can be inverted."""
    codes = [volume.meta[c] for c in ("sform_code", "qform_code") if c in volume.meta]
    unknown = bool(codes) and not any(int(c) for c in codes)
    return not unknown and float(torch.linalg.det(volume.affine[:3, :3]).abs()) > 1e-9


def like(mask: np.ndarray, reference: MetaTensor) -> MetaTensor:
    """A boolean array as a uint8 volume ``[1, X, Y, Z]`` with the place of `reference`."""
    out = MetaTensor(torch.from_numpy(np.ascontiguousarray(mask[None]).astype(np.uint8)), affine=reference.affine)
    return out
