# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Head, bone, brain and hyperdense masks from CT numbers: deterministic, by thresholds and morphology in millimetres.

All functions take arrays ``[X, Y, Z]`` whose last axis is the slice axis and `spacing_mm` along the same axes. These masks
stand in where a case brings none of its own; they are the only source of evaluation regions beside the user's files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import isotropic_dilation, isotropic_erosion, remove_small_objects

__all__ = ["bone_mask", "brain_mask", "cranial_masks", "fill_slices", "head_mask", "hyperdense_mask", "largest_component"]

_FULL_CONNECTION = ndimage.generate_binary_structure(3, 3)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 6-connected part of a boolean array; all false where it is empty."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))


def _grow(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """In-plane dilation by `radius_mm`, exact at any radius."""
    out = np.zeros_like(mask)
    for k in np.flatnonzero(mask.any((0, 1))):
        out[..., k] = isotropic_dilation(mask[..., k], radius_mm, spacing=spacing_mm[:2])
    return out


def _shrink(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """In-plane erosion by `radius_mm`; the border of the image does not erode."""
    out = mask.copy()
    for k in np.flatnonzero(~mask.all((0, 1))):
        out[..., k] = isotropic_erosion(mask[..., k], radius_mm, spacing=spacing_mm[:2])
    return out


def fill_slices(mask: np.ndarray) -> np.ndarray:
    """Holes filled slice by slice."""
    return np.stack([ndimage.binary_fill_holes(mask[..., k]) for k in range(mask.shape[-1])], -1)


def head_mask(
    volume: np.ndarray, spacing_mm: Sequence[float], *, modality: str = "ct", threshold_hu: float = -300.0
) -> np.ndarray:
    """The head without table and head holder: thresholded, opened, largest component, holes filled slice by slice.

    Args:
        volume: CT in HU, or an MRI.
        spacing_mm: voxel size along the array axes.
        modality: ``"ct"`` thresholds at `threshold_hu`, ``"mri"`` at Otsu's threshold.
        threshold_hu: lowest CT number of the head.
    """
    if modality == "ct":
        tissue = volume > threshold_hu
    else:
        # Otsu between air and tissue on the lower nine tenths: bright fluid would pull the threshold up.
        values = volume[np.isfinite(volume)]
        low = values[values <= np.percentile(values, 90)]
        tissue = volume > (threshold_otsu(low) if low.size and low.max() > low.min() else values.min())
    core = largest_component(_shrink(tissue, 2.5, spacing_mm))
    if not core.any():  # a head of a few voxels has no core
        core = largest_component(tissue)
    return fill_slices(_grow(core, 3.5, spacing_mm) & tissue)


def _bone_threshold(ct_hu: np.ndarray, spacing_mm: Sequence[float], lowest_hu: float) -> np.ndarray:
    """Half way between soft tissue and the densest bone within 5 mm, from `lowest_hu` to 600 HU.

    One threshold for all bone is too low for the dense tables of the skull, which then swell by the partial volume of thick
    slices, or too high for thin bone, which disappears.
    """
    smooth = ndimage.gaussian_filter(np.clip(ct_hu, -1000, 2000).astype(np.float32), [0.5 / s for s in spacing_mm[:2]] + [0])
    densest = ndimage.maximum_filter(smooth, size=[2 * int(5 / s) + 1 for s in spacing_mm[:2]] + [1])
    return np.clip((densest + 40) / 2, lowest_hu, 600)


def bone_mask(
    ct_hu: np.ndarray, head: np.ndarray, *, threshold_hu: float = 350.0, spacing_mm: Sequence[float] | None = None
) -> np.ndarray:
    """Skull and facial bone inside the head, without specks of under four voxels.

    Args:
        ct_hu: CT in HU. A CT whose display window saturates below 1000 HU counts as bone where it is saturated.
        head: from :func:`head_mask`.
        threshold_hu: lowest CT number of bone.
        spacing_mm: voxel size along the array axes; with it the threshold follows the density of the bone nearby, and the
            marrow between the tables of the skull is filled.
    """
    top = float(ct_hu.max(initial=-1000))
    if top < 1000 and np.count_nonzero(head & (ct_hu >= top)) > 0.005 * max(int(head.sum()), 1):
        threshold_hu = min(threshold_hu, top - 1)
    bone = head & (ct_hu > threshold_hu)
    if spacing_mm is not None and bone.any():
        core = head & (ct_hu > _bone_threshold(ct_hu, spacing_mm, threshold_hu))
        bone &= core | _shrink(_grow(core, 3.0, spacing_mm), 3.0, spacing_mm)
    return remove_small_objects(bone, max_size=3, connectivity=3)


def _enclosed(bone: np.ndarray, spacing_mm: Sequence[float], gap_mm: float = 24.0) -> np.ndarray:
    """What bone encloses in each slice, itself included, when gaps of up to `gap_mm` are closed.

    Gaps are closed in three dimensions, because one open slice (orbits, a thin or cut bone) would part the brain in two; and on
    pixels of about 2 mm, which is as exact as a bridge across a gap can be.
    """
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
    """The intracranial space: what the closed skull encloses in each slice, opened to cut it off at orbits and canals.

    Args:
        ct_hu: CT in HU.
        bone: from :func:`bone_mask`.
        head: from :func:`head_mask`.
        spacing_mm: voxel size along the array axes.
    """
    return _filled_brain(ct_hu, bone, head, spacing_mm) & ~bone


def _filled_brain(ct_hu: np.ndarray, bone: np.ndarray, head: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """:func:`brain_mask` with what dense things lie inside it."""
    if not bone.any():
        return np.zeros_like(bone)
    soft = ndimage.gaussian_filter(np.clip(ct_hu, -200, 200).astype(np.float32), [1.0 / s for s in spacing_mm[:2]] + [0])
    inside = _enclosed(bone, spacing_mm) & ~bone & head & (soft > -25) & (soft < 160)
    core = largest_component(_shrink(inside, 4.0, spacing_mm))
    return fill_slices(_grow(core, 5.5, spacing_mm) & inside) if core.any() else core


def cranial_masks(
    ct_hu: np.ndarray,
    head: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    bone: np.ndarray | None = None,
    brain: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Bone and brain together: what is dense but lies loose in the brain (calcium, a clip) belongs to the brain.

    Args:
        ct_hu: CT in HU, ``[X, Y, Z]``.
        head: from :func:`head_mask`.
        spacing_mm: voxel size along the array axes.
        bone, brain: masks that the user has; they stay, but for brain where bone is.

    Returns:
        Bone and brain, boolean, disjoint; empty where nothing is found.
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


def hyperdense_mask(
    ct_hu: np.ndarray, brain: np.ndarray, spacing_mm: Sequence[float], *, threshold_hu: float = 60.0
) -> np.ndarray:
    """Acute blood and calcium: smoothed CT above `threshold_hu`, 3 mm or more inside the brain, 0.02 mL or more.

    The margin keeps out voxels that are half skull.
    """
    inner = _shrink(brain, 3.0, spacing_mm)
    smooth = ndimage.gaussian_filter(np.clip(ct_hu, -200, 400).astype(np.float32), [1.0 / s for s in spacing_mm[:2]] + [0])
    dense = inner & (smooth > threshold_hu)
    least_voxels = math.ceil(0.02 * 1000 / float(np.prod(spacing_mm)))
    return remove_small_objects(dense, max_size=least_voxels - 1, connectivity=2)
