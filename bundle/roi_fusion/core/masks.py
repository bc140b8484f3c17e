# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Head, bone and brain masks from CT numbers: deterministic, by thresholds and morphology in millimetres.

All functions take arrays ``[X, Y, Z]`` whose last axis is the slice axis, and `spacing_mm`, the voxel size along the same axes
in mm. The masks are used for cases that come without their own; evaluation regions come from these functions or from the user's
files, never from the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import isotropic_dilation, isotropic_erosion, remove_small_objects

__all__ = [
    "bone_mask",
    "brain_mask",
    "cranial_masks",
    "fill_slices",
    "grow_slices",
    "head_mask",
    "largest_component",
    "shrink_slices",
]

#: Least of a wall around the brain in HU. Higher and a skull that is thinner than a voxel or smoothed is open; lower and the
#: walls of orbits and nose close around what is no brain (200 HU: 5 points of Dice in such heads).
THIN_BONE_HU = 300.0
_FULL_CONNECTION = ndimage.generate_binary_structure(3, 3)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Largest 6-connected component of a boolean array; all false where the array is empty.

    Example:
        >>> largest_component(np.array([True, False, True, True])).tolist()
        [False, False, True, True]
    """
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))


def grow_slices(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """In-plane dilation by `radius_mm`, exact at any radius.

    Args:
        mask: boolean, ``[X, Y, Z]``.
        radius_mm: how far it grows in a slice, in mm.
        spacing_mm: voxel size along the array axes, in mm.

    Example:
        >>> dot = np.zeros((5, 5, 1), bool)
        >>> dot[2, 2] = True
        >>> int(grow_slices(dot, 1.0, (1.0, 1.0, 5.0)).sum())
        5
    """
    out = np.zeros_like(mask)
    for k in np.flatnonzero(mask.any((0, 1))):
        out[..., k] = isotropic_dilation(mask[..., k], radius_mm, spacing=spacing_mm[:2])
    return out


def shrink_slices(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """In-plane erosion by `radius_mm`; the border of the image does not erode.

    Args:
        mask: boolean, ``[X, Y, Z]``.
        radius_mm: how far it shrinks in a slice, in mm.
        spacing_mm: voxel size along the array axes, in mm.

    Example:
        >>> half = np.ones((4, 3, 1), bool)
        >>> half[0] = False
        >>> shrink_slices(half, 1.0, (1.0, 1.0, 5.0))[:, 0, 0].tolist()
        [False, False, True, True]
    """
    out = mask.copy()
    for k in np.flatnonzero(~mask.all((0, 1))):
        out[..., k] = isotropic_erosion(mask[..., k], radius_mm, spacing=spacing_mm[:2])
    return out


def fill_slices(mask: np.ndarray) -> np.ndarray:
    """Fill holes slice by slice.

    Args:
        mask: boolean, ``[X, Y, Z]``.

    Example:
        >>> ring = np.ones((3, 3, 1), bool)
        >>> ring[1, 1] = False
        >>> bool(fill_slices(ring).all())
        True
    """
    return np.stack([ndimage.binary_fill_holes(mask[..., k]) for k in range(mask.shape[-1])], -1)


def head_mask(
    volume: np.ndarray, spacing_mm: Sequence[float], *, modality: str = "ct", threshold_hu: float = -300.0
) -> np.ndarray:
    """The head without table and head holder: thresholded, opened, largest component, holes filled slice by slice.

    Args:
        volume: CT in HU, or an MRI, ``[X, Y, Z]``.
        spacing_mm: voxel size along the array axes, in mm.
        modality: ``"ct"`` thresholds at `threshold_hu`, ``"mri"`` at Otsu's threshold.
        threshold_hu: lowest CT number of the head, in HU.

    Returns:
        Boolean mask of the same shape.

    Example:
        >>> ct = np.full((40, 40, 3), -1000.0)
        >>> ct[10:30, 10:30] = 40
        >>> int(head_mask(ct, (1.0, 1.0, 5.0)).sum())
        1200
    """
    if modality == "ct":
        tissue = volume > threshold_hu
    else:
        # Otsu between air and tissue on the lower nine tenths: bright fluid would pull the threshold up.
        values = volume[np.isfinite(volume)]
        low = values[values <= np.percentile(values, 90)]
        tissue = volume > (threshold_otsu(low) if low.size and low.max() > low.min() else values.min())
    core = largest_component(shrink_slices(tissue, 2.5, spacing_mm))
    if not core.any():  # a head of a few voxels has no core
        core = largest_component(tissue)
    return fill_slices(grow_slices(core, 3.5, spacing_mm) & tissue)


def _bone_threshold(ct_hu: np.ndarray, spacing_mm: Sequence[float], lowest_hu: float) -> np.ndarray:
    """Local threshold in HU: half way between soft tissue and the densest bone within 5 mm, from `lowest_hu` to 600 HU.

    A single threshold for all bone is either too low for the dense tables of the skull, which then grow by the partial volume
    of thick slices, or too high for thin bone, which disappears.
    """
    smooth = ndimage.gaussian_filter(np.clip(ct_hu, -1000, 2000).astype(np.float32), [0.5 / s for s in spacing_mm[:2]] + [0])
    densest = ndimage.maximum_filter(smooth, size=[2 * int(5 / s) + 1 for s in spacing_mm[:2]] + [1])
    return np.clip((densest + 40) / 2, lowest_hu, 600)


def bone_mask(
    ct_hu: np.ndarray, head: np.ndarray, *, threshold_hu: float = 350.0, spacing_mm: Sequence[float] | None = None
) -> np.ndarray:
    """Skull and facial bone inside the head, without components of fewer than four voxels.

    Args:
        ct_hu: CT in HU, ``[X, Y, Z]``. A CT whose display window saturates below 1000 HU counts as bone where it is saturated.
        head: boolean mask from :func:`head_mask`.
        threshold_hu: lowest CT number of bone, in HU.
        spacing_mm: voxel size along the array axes, in mm. If given, the threshold follows the density of the bone nearby, and
            the marrow between the tables of the skull is filled.

    Returns:
        Boolean mask of the same shape.

    Example:
        >>> ct = np.full((20, 20, 3), 40.0)
        >>> ct[5:8] = 1200
        >>> ct[15, 15, 1] = 1200  # a single voxel
        >>> int(bone_mask(ct, ct > 0).sum()) == 3 * 20 * 3
        True
    """
    top = float(ct_hu.max(initial=-1000))
    if top < 1000 and np.count_nonzero(head & (ct_hu >= top)) > 0.005 * max(int(head.sum()), 1):
        threshold_hu = min(threshold_hu, top - 1)
    bone = head & (ct_hu > threshold_hu)
    if spacing_mm is not None and bone.any():
        core = head & (ct_hu > _bone_threshold(ct_hu, spacing_mm, threshold_hu))
        bone &= core | shrink_slices(grow_slices(core, 3.0, spacing_mm), 3.0, spacing_mm)
    return remove_small_objects(bone, max_size=3, connectivity=3)


def _closed_edge(bone: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Where a skull that runs out of a slice is open: voxels of the slice's edge that are head from one bone to the next."""
    out = np.zeros_like(bone)
    last_x, last_y = bone.shape[0] - 1, bone.shape[1] - 1
    x = np.concatenate([np.arange(last_x), np.full(last_y, last_x), np.arange(last_x, 0, -1), np.zeros(last_y, int)])
    y = np.concatenate([np.zeros(last_x, int), np.arange(last_y), np.full(last_x, last_y), np.arange(last_y, 0, -1)])
    for k in range(bone.shape[-1]):
        walls, tissue = bone[x, y, k], head[x, y, k]
        at = np.flatnonzero(walls)
        for start, stop in zip(at, np.roll(at, -1)):
            between = np.arange(start + 1, stop if stop > start else stop + len(x)) % max(len(x), 1)
            if between.size and tissue[between].all():
                out[x[between], y[between], k] = True
    return out


def _enclosed(bone: np.ndarray, head: np.ndarray, spacing_mm: Sequence[float], gap_mm: float = 24.0) -> np.ndarray:
    """Space that bone encloses in each slice, bone included, with gaps of up to `gap_mm` and those at the slice's edge closed.

    Gaps are closed in three dimensions, because a single open slice (orbits, thin or cut bone) would divide the brain; and on
    pixels of about 2 mm, which is as accurate as a bridge across a gap can be.
    """
    bone = bone | _closed_edge(bone, head)
    factor = [max(1, round(2 / s)) for s in spacing_mm[:2]]
    shape = bone.shape
    fitted = np.pad(bone, [(0, -n % f) for n, f in zip(shape, factor)] + [(0, 0)])
    x, y, z = (n // f for n, f in zip(fitted.shape, (*factor, 1)))
    coarse = fitted.reshape(x, factor[0], y, factor[1], z).any((1, 3))
    sampling = [spacing_mm[0] * factor[0], spacing_mm[1] * factor[1], spacing_mm[2]]
    radius = gap_mm / 2
    margin = [int(np.ceil((radius + 2) / s)) for s in sampling[:2]]
    coarse = np.pad(coarse, [(m, m) for m in margin] + [(0, 0)])
    grown = fill_slices(ndimage.distance_transform_edt(~coarse, sampling=sampling) <= radius)
    closed = fill_slices((ndimage.distance_transform_edt(grown, sampling=sampling) > radius) | coarse)
    closed = closed[margin[0] : -margin[0], margin[1] : -margin[1]]
    return closed.repeat(factor[0], 0).repeat(factor[1], 1)[: shape[0], : shape[1]]


def brain_mask(ct_hu: np.ndarray, bone: np.ndarray, head: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """The intracranial space: the space that the closed skull encloses in each slice, cut off at orbits and canals.

    Args:
        ct_hu: CT in HU, ``[X, Y, Z]``.
        bone: boolean mask from :func:`bone_mask`.
        head: boolean mask from :func:`head_mask`.
        spacing_mm: voxel size along the array axes, in mm.

    Returns:
        Boolean mask of the same shape, without bone; empty where nothing is enclosed.
    """
    return _filled_brain(ct_hu, bone, head, spacing_mm) & ~bone


def _filled_brain(ct_hu: np.ndarray, bone: np.ndarray, head: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """:func:`brain_mask` including the dense structures inside it."""
    if not bone.any() or not head.any():
        return np.zeros_like(bone)
    soft = ndimage.gaussian_filter(np.clip(ct_hu, -200, 200).astype(np.float32), [1.0 / s for s in spacing_mm[:2]] + [0])
    walls = bone | (head & (ct_hu > THIN_BONE_HU))
    shown = slice(*np.flatnonzero(head.any((0, 1)))[[0, -1]] + [0, 1])  # a skull is not open where the scan ended
    closed = np.zeros_like(bone)
    closed[..., shown] = _enclosed(walls[..., shown], head[..., shown], spacing_mm)
    inside = closed & ~bone & head & (soft > -25) & (soft < 160)
    core = largest_component(shrink_slices(inside, 4.0, spacing_mm))
    return fill_slices(grow_slices(core, 5.5, spacing_mm) & inside) if core.any() else core


def cranial_masks(
    ct_hu: np.ndarray,
    head: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    bone: np.ndarray | None = None,
    brain: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Bone and brain of a head; a dense structure that lies isolated in the brain (calcium, a clip) counts as brain.

    Args:
        ct_hu: CT in HU, ``[X, Y, Z]``.
        head: boolean mask from :func:`head_mask`.
        spacing_mm: voxel size along the array axes, in mm.
        bone, brain: the user's own masks, which are kept, except that bone is removed from the brain.

    Returns:
        Bone and brain, boolean masks that do not overlap; empty where nothing is found.

    Example:
        >>> x, y = np.mgrid[-60:61, -60:61]
        >>> radius = np.hypot(x, y)[..., None] * np.ones(3)
        >>> ct = np.select([radius < 45, radius < 52, radius < 58], [35.0, 1000.0, 20.0], -1000.0)
        >>> bone, brain = cranial_masks(ct, head_mask(ct, (1.0, 1.0, 5.0)), (1.0, 1.0, 5.0))
        >>> bool(bone[radius == 48].all()), bool(brain[radius < 40].all()), bool((bone & brain).any())
        (True, True, False)
    """
    if bone is not None or brain is not None:
        bone = bone_mask(ct_hu, head, spacing_mm=spacing_mm) if bone is None else bone
        brain = brain_mask(ct_hu, bone, head, spacing_mm) if brain is None else brain
        return bone, brain & ~bone
    bone = bone_mask(ct_hu, head, spacing_mm=spacing_mm)
    brain = _filled_brain(ct_hu, bone, head, spacing_mm)
    parts, count = ndimage.label(bone, _FULL_CONNECTION)
    if count:
        outside = np.bincount(parts[~brain].ravel(), minlength=count + 1) > 0
        outside[0] = False
        bone = outside[parts]
    return bone, brain & ~bone
