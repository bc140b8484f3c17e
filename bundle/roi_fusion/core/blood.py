# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Acute blood and calcium in the brain, from CT numbers: what the fused volume takes from the CT inside the skull.

A single threshold cuts a haematoma at its brightest part and leaves a ragged island. Here a core above 60 HU is grown to half
of its own contrast to the brain around it, not below 45 HU. Calcium, several times as dense, is told apart first: half of its
contrast lies above blood, and its blurred rim, which has the numbers of blood, is no core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage
from skimage.morphology import isotropic_closing, remove_small_objects

from .masks import fill_slices, grow_slices, shrink_slices

__all__ = ["blood_and_calcium", "closed_brain", "hyperdense_mask"]

#: CT number of a core. Lower and grey matter with noise is one; higher and diluted or old blood is none.
CORE_HU = 60.0
#: Growth ends here at the latest: grey matter ends at 43 HU, veins and falx have 45 to 55.
LEAST_HU = 45.0
#: Smoothed CT above which a core is calcium: clotted blood reaches 90 HU.
CALCIUM_HU = 100.0
#: What is large is no calcium of the brain, but a clot with a dense part, a clip's streak or contrast agent.
_CALCIUM_LIMIT_ML = 3.0
#: How far the blurred rim of calcium reaches, in mm.
_CALCIUM_RIM_MM = 2.0
#: Margins to the skull in mm: voxels that are partly skull make no core, and nothing grows into them.
_CORE_MARGIN_MM, _GROWN_MARGIN_MM = 3.0, 1.5
#: How far from its core a haematoma is grown, in mm; the rim of a core at 80 HU lies 1 to 3 mm out.
_REACH_MM = 6.0
#: The brain around a haematoma, in mm from its core: beyond the blurred rim and oedema's steepest part.
_RING_MM = (4.0, 10.0)
_LEAST_ML = 0.02
#: Smoothing of the CT and of a border, in mm in plane.
_CT_SIGMA_MM, _BORDER_MM = 1.0, 1.0


def closed_brain(brain: np.ndarray, bone: np.ndarray, spacing_mm: Sequence[float], gap_mm: float = 8.0) -> np.ndarray:
    """The brain with its holes filled and the bays of its border closed, without bone.

    A mask that was drawn by threshold or by a network leaves out what is dense: as a hole, or, at the border, as a bay.

    Args:
        brain, bone: boolean, ``[X, Y, Z]``.
        spacing_mm: voxel size along the array axes, in mm.
        gap_mm: widest mouth of a bay is twice this, in mm.

    Example:
        >>> brain = np.ones((30, 30, 1), bool)
        >>> brain[:4, 12:18] = False  # a bay of 6 mm
        >>> bool(closed_brain(brain, ~np.ones_like(brain), (1.0, 1.0, 5.0)).all())
        True
    """
    out = fill_slices(brain)
    margin = [(math.ceil(gap_mm / s) + 1,) * 2 for s in spacing_mm[:2]]
    for k in np.flatnonzero(out.any((0, 1))):
        wide = np.pad(out[..., k], margin, mode="edge")
        closed = isotropic_closing(wide, gap_mm, spacing=spacing_mm[:2])
        out[..., k] = closed[margin[0][0] : -margin[0][1], margin[1][0] : -margin[1][1]]
    return fill_slices(out & ~bone) if bone.any() else fill_slices(out)


def _parts(mask: np.ndarray, spacing_mm: Sequence[float], connectivity: int) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """The connected parts of a mask, each in a box with room for its ring and all that it may grow into."""
    parts, count = ndimage.label(mask, ndimage.generate_binary_structure(3, connectivity))
    room = [math.ceil(_RING_MM[1] / s) + 1 for s in spacing_mm]
    for n, at in enumerate(ndimage.find_objects(parts, count), start=1):
        box = tuple(slice(max(s.start - r, 0), s.stop + r) for s, r in zip(at, room))
        yield box, parts[box] == n


def blood_and_calcium(ct_hu: np.ndarray, brain: np.ndarray, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Blood and calcium inside the brain, two boolean masks that do not overlap.

    Args:
        ct_hu: CT in HU, ``[X, Y, Z]``.
        brain: boolean mask of the brain, holes filled, see :func:`closed_brain`.
        spacing_mm: voxel size along the array axes, in mm.

    Example:
        >>> ct = np.full((40, 40, 3), 35.0)
        >>> ct[10:20, 10:20], ct[30:33, 30:33] = 75, 300
        >>> blood, calcium = blood_and_calcium(ct, np.ones(ct.shape, bool), (1.0, 1.0, 5.0))
        >>> bool(blood[12:18, 12:18].all()), bool(calcium[31, 31].all()), bool(blood[28:].any())
        (True, True, False)
    """
    smooth = ndimage.gaussian_filter(
        np.clip(ct_hu, -200, 400).astype(np.float32), [_CT_SIGMA_MM / s for s in spacing_mm[:2]] + [0]
    )
    least = math.ceil(_LEAST_ML * 1000 / float(np.prod(spacing_mm)))
    inner, within = (shrink_slices(brain, margin, spacing_mm) for margin in (_CORE_MARGIN_MM, _GROWN_MARGIN_MM))
    calcium = np.zeros_like(brain)
    for box, part in _parts(inner & (smooth > CALCIUM_HU), spacing_mm, 1):
        if part.sum() * float(np.prod(spacing_mm)) / 1000 <= _CALCIUM_LIMIT_ML:
            level = max((float(smooth[box][part].max()) + 35) / 2, CORE_HU)
            calcium[box] |= _grown(part, smooth[box] > level, within[box], spacing_mm)
    rim = grow_slices(calcium, _CALCIUM_RIM_MM, spacing_mm)
    core = remove_small_objects(inner & (smooth > CORE_HU) & ~rim, max_size=least - 1, connectivity=2)
    blood = np.zeros_like(brain)
    for box, part in _parts(core, spacing_mm, 2):
        level = _level(smooth[box], part, brain[box] & ~core[box] & ~rim[box], spacing_mm)
        blood[box] |= _grown(part, smooth[box] > level, within[box] & ~rim[box], spacing_mm)
    size = calcium if not calcium.any() else remove_small_objects(calcium, max_size=least - 1, connectivity=2)
    return blood & ~size, size


def _level(smooth: np.ndarray, core: np.ndarray, around: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Half-way between a core and the brain around it, in HU, from :data:`LEAST_HU` to :data:`CORE_HU`."""
    away = ndimage.distance_transform_edt(~core, sampling=spacing_mm)
    ring = around & (away > _RING_MM[0]) & (away < _RING_MM[1])
    tissue = float(np.median(smooth[ring])) if ring.any() else 35.0
    # The upper quarter: a core's own border is blurred.
    return float(np.clip((np.percentile(smooth[core], 75) + tissue) / 2, LEAST_HU, CORE_HU))


def _grown(core: np.ndarray, dense: np.ndarray, within: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """What of `dense` hangs together with a core, with a smooth border and no arms thinner than it."""
    near = grow_slices(core, _REACH_MM, spacing_mm)
    for k in np.flatnonzero(core.any((0, 1))):  # a cap in the next slice lies below or above the core itself
        for beside in (k - 1, k + 1):
            if 0 <= beside < core.shape[-1]:
                near[..., beside] |= core[..., k]
    found = ndimage.binary_propagation(core, mask=(dense & near & within) | core)
    sigma = [_BORDER_MM / s for s in spacing_mm[:2]] + [0]
    rounded = ndimage.gaussian_filter(fill_slices(found).astype(np.float32), sigma) > 0.5
    return ndimage.binary_propagation(core & rounded, mask=rounded & within) if (core & rounded).any() else core


def hyperdense_mask(ct_hu: np.ndarray, brain: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Blood and calcium together, see :func:`blood_and_calcium`."""
    blood, calcium = blood_and_calcium(ct_hu, brain, spacing_mm)
    return blood | calcium
