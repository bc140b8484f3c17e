# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Head, bone, brain and hyperdense masks from CT numbers: deterministic, by thresholds and morphology in millimetres.

All functions take arrays ``[X, Y, Z]`` whose last axis is the slice axis and `spacing_mm` along the same axes. These masks
stand in where a case brings none of its own; they are the only source of evaluation regions beside the user's files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

__all__ = ["bone_mask", "brain_mask", "head_mask", "hyperdense_mask", "largest_component"]


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 6-connected part of a boolean array; all false where it is empty."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))


def _disk(radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """In-plane disk as a structuring element ``[a, b, 1]``."""
    reach = [int(radius_mm / s) for s in spacing_mm[:2]]
    x, y = np.ogrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    return (((x * spacing_mm[0]) ** 2 + (y * spacing_mm[1]) ** 2) <= radius_mm**2 + 1e-6)[..., None]


def _grow(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """In-plane dilation by `radius_mm`; exact at any radius because it thresholds a distance."""
    sampling = spacing_mm[:2]
    out = np.zeros_like(mask)
    for k in np.flatnonzero(mask.any((0, 1))):
        out[..., k] = ndimage.distance_transform_edt(~mask[..., k], sampling=sampling) <= radius_mm
    return out


def _shrink(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """In-plane erosion by `radius_mm`; the border of the image does not erode."""
    return ~_grow(~mask, radius_mm, spacing_mm)


def _fill_slices(mask: np.ndarray) -> np.ndarray:
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
    return _fill_slices(_grow(core, 3.5, spacing_mm) & tissue)


def bone_mask(ct_hu: np.ndarray, head: np.ndarray, *, threshold_hu: float = 350.0) -> np.ndarray:
    """Skull and facial bone: inside the head above `threshold_hu`, without specks of under four voxels."""
    bone = head & (ct_hu > threshold_hu)
    parts, count = ndimage.label(bone, ndimage.generate_binary_structure(3, 3))
    if not count:
        return bone
    large = np.bincount(parts.ravel()) >= 4
    large[0] = False
    return large[parts]


def brain_mask(ct_hu: np.ndarray, bone: np.ndarray, head: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """The intracranial space: what the closed skull encloses in each slice, opened to cut it off at orbits and canals.

    Args:
        ct_hu: CT in HU.
        bone: from :func:`bone_mask`.
        head: from :func:`head_mask`.
        spacing_mm: voxel size along the array axes.
    """
    margin = int(np.ceil(12 / min(spacing_mm[:2]))) + 1
    padded = np.pad(bone, [(margin, margin), (margin, margin), (0, 0)])
    ring = _shrink(_grow(padded, 10.0, spacing_mm), 10.0, spacing_mm) | padded
    ring = ring[margin:-margin, margin:-margin]
    soft = ndimage.gaussian_filter(np.clip(ct_hu, -200, 200).astype(np.float32), [1.0 / s for s in spacing_mm[:2]] + [0])
    inside = _fill_slices(ring) & ~bone & head & (soft > -25) & (soft < 160)
    core = largest_component(_shrink(inside, 4.0, spacing_mm))
    if not core.any():
        return core
    return _fill_slices(_grow(core, 5.5, spacing_mm) & inside) & ~bone


def hyperdense_mask(
    ct_hu: np.ndarray, brain: np.ndarray, spacing_mm: Sequence[float], *, threshold_hu: float = 60.0
) -> np.ndarray:
    """Acute blood and calcium: smoothed CT above `threshold_hu`, 3 mm or more inside the brain, 0.02 mL or more.

    The margin keeps out voxels that are half skull.
    """
    inner = _shrink(brain, 3.0, spacing_mm)
    smooth = ndimage.gaussian_filter(np.clip(ct_hu, -200, 400).astype(np.float32), [1.0 / s for s in spacing_mm[:2]] + [0])
    dense = inner & (smooth > threshold_hu)
    parts, count = ndimage.label(dense, ndimage.generate_binary_structure(3, 2))
    if not count:
        return dense
    large = np.bincount(parts.ravel()) * float(np.prod(spacing_mm)) / 1000 >= 0.02
    large[0] = False
    return large[parts]
