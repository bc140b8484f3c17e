# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Varies one head in its own label space: fat, ventricles, sulci, a lesion, and what looks like a lesion and is none.

Everything but the lesion is a tissue of its own in the label map, so that sampling and painting treat it as such. The lesion
stays a soft map over the tissues that it damages.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from ...errors import InputError
from ..atlas import mni_tissue
from ..lesions import MNI_BOX, Lesion, PackedLesions, procedural_lesion
from .fields import smooth_noise
from .heads import Head, brain_box_mm, mni_brain_box_mm
from .lookalikes import add_lookalikes
from .tissues import tissue_table

__all__ = ["Anatomy", "draw_anatomy", "place_lesion"]

_TABLE = tissue_table()
_BRAIN = _TABLE.in_groups("brain", "chronic")


@dataclass
class Anatomy:
    """One varied head.

    Attributes:
        head: that it was made of.
        tissue: tissue index per voxel, uint8 ``[X, Y, Z]``.
        lesion: soft lesion map, float32 ``[X, Y, Z]``, None without a lesion.
        lesion_kind: of :class:`~roi_fusion.data.lesions.Lesion`, ``none`` without one.
        lesion_centre: in voxels.
        lesion_ml: volume over brain tissue.
        notes: what was drawn.
    """

    head: Head
    tissue: np.ndarray
    lesion: np.ndarray | None = None
    lesion_kind: str = "none"
    lesion_centre: np.ndarray = field(default_factory=lambda: np.zeros(3))
    lesion_ml: float = 0.0
    notes: dict[str, float] = field(default_factory=dict)


def place_lesion(
    lesion: Lesion,
    head: Head,
    shift_mm: np.ndarray,
    scale: float = 1.0,
    mirrored: bool = False,
    tissue: np.ndarray | None = None,
) -> np.ndarray:
    """Lay an MNI lesion on a head by the boxes of both brains; kept where the head has brain tissue.

    Args:
        lesion: on ``lesions.MNI_BOX``.
        head: to lay it on.
        shift_mm: added to its place, ``[3]``.
        scale: of its size, about its centre.
        mirrored: swap left and right.
        tissue: tissue indices that say where brain is; the head's own when None.

    Returns:
        Soft map 0…1, float32 ``[X, Y, Z]``.
    """
    mask = lesion.mask[::-1] if mirrored else lesion.mask
    out = np.zeros(head.tissue.shape, np.float32)
    found = np.argwhere(mask)
    if not len(found):
        return out
    low, high = brain_box_mm(head.brain, head.voxel_mm)
    mni_low, mni_high = mni_brain_box_mm()
    factor = (high - low) / (mni_high - mni_low)  # mm of the head per mm of MNI
    centre = found.mean(0)

    def to_head(mni: np.ndarray) -> np.ndarray:
        return (((mni - centre) * scale + centre - mni_low) * factor + low + shift_mm) / head.voxel_mm

    corners = np.stack([to_head(found.min(0) - 2.0), to_head(found.max(0) + 2.0)])
    start = np.clip(np.floor(corners.min(0)).astype(int), 0, np.array(out.shape) - 1)
    stop = np.clip(np.ceil(corners.max(0)).astype(int) + 1, start + 1, out.shape)
    matrix = head.voxel_mm / factor / scale
    offset = ((start * head.voxel_mm - low - shift_mm) / factor + mni_low - centre) / scale + centre
    soft = ndimage.affine_transform(
        ndimage.gaussian_filter(mask.astype(np.float32), 0.6), matrix, offset, tuple(stop - start), order=1, mode="constant"
    )
    box = tuple(slice(a, b) for a, b in zip(start, stop))
    out[box] = soft * _BRAIN[(head.tissue if tissue is None else tissue)[box]]
    return out


def draw_lesion(
    rng: np.random.Generator, head: Head, tissue: np.ndarray, lesions: PackedLesions | None, tries: int = 6
) -> tuple[np.ndarray, str]:
    """A lesion that fits a head: its soft map ``[X, Y, Z]`` and its kind.

    Raises:
        InputError: when none of `tries` lesions lies in the head's brain.
    """
    for _ in range(tries):
        if lesions is None:
            lesion = procedural_lesion(rng, mni_tissue())
        else:
            lesion = lesions[int(rng.integers(len(lesions)))]
        shift = rng.normal(0, 4.0, 3)
        soft = place_lesion(lesion, head, shift, float(rng.uniform(0.85, 1.2)), bool(rng.random() < 0.5), tissue)
        volume_ml = float((soft > 0.5).sum() * np.prod(head.voxel_mm)) / 1000
        if volume_ml >= 0.03:
            return soft, lesion.kind
    raise InputError(f"lesions: expected a lesion that lies in the brain of {head.name}, got none in {tries} tries")


def draw_anatomy(
    rng: np.random.Generator, head: Head, lesions: PackedLesions | None, lesion_free_share: float = 0.15
) -> Anatomy:
    """Vary a head.

    Args:
        rng: source of randomness.
        head: label map.
        lesions: real masks to draw from; procedural shapes when None.
        lesion_free_share: share of heads without a lesion.

    Raises:
        InputError: when no lesion fits the head.
    """
    tissue = head.tissue.copy()
    noise = smooth_noise(rng, tissue.shape, head.voxel_mm, 14.0)[0].numpy()
    notes: dict[str, float] = {}
    _split_fat(rng, head, tissue, noise)
    notes["ventricles_mm"], notes["sulci_mm"] = _resize_fluid(rng, head, tissue, noise)
    out = Anatomy(head, tissue, notes=notes)
    if rng.random() >= lesion_free_share:
        soft, kind = draw_lesion(rng, head, tissue, lesions)
        if rng.random() < 0.2:  # strokes in two places at once
            second, _ = draw_lesion(rng, head, tissue, lesions)
            soft = np.maximum(soft, second)
        out.lesion, out.lesion_kind = soft, kind
        inside = np.argwhere(soft > 0.5)
        out.lesion_centre = inside.mean(0)
        out.lesion_ml = len(inside) * float(np.prod(head.voxel_mm)) / 1000
    notes.update(add_lookalikes(rng, head, tissue, noise, out.lesion, lesions, place_lesion))
    if out.lesion is not None:
        out.lesion = out.lesion * _BRAIN[tissue]  # look-alikes that are fluid stay fluid
    return out


def _split_fat(rng: np.random.Generator, head: Head, tissue: np.ndarray, noise: np.ndarray) -> None:
    """The maps hold fat and muscle as one label: fat under the skin, around the eyes and in streaks between muscles."""
    soft = np.flatnonzero(head.tissue == _TABLE.index("muscle"))
    depth = head.depth.reshape(-1)[soft].astype(np.float32)
    n = noise.reshape(-1)[soft]
    thickness = float(rng.uniform(4.0, 9.0))
    fat = (depth + 2.0 * n < thickness) | (np.abs(n + 0.4) < 0.12) | (n > 1.6)
    eye = np.argwhere(head.tissue == _TABLE.index("eye"))
    if len(eye):
        near = np.zeros(tissue.shape, bool)
        low, high = eye.min(0), eye.max(0) + 1
        reach = np.round(np.array([4, 22, 5]) / head.voxel_mm).astype(int)
        start, stop = np.maximum(low - reach, 0), np.minimum(high + np.round(4 / head.voxel_mm).astype(int), tissue.shape)
        near[tuple(slice(a, b) for a, b in zip(start, stop))] = True
        fat |= near.reshape(-1)[soft] & (np.abs(n) > 0.18)
    tissue.reshape(-1)[soft[fat]] = _TABLE.index("fat")


def _resize_fluid(rng: np.random.Generator, head: Head, tissue: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
    """Widen the ventricles; widen or narrow the sulci. Returns both changes in mm."""
    brain, csf = _TABLE.in_groups("brain"), _TABLE.index("csf")
    wide = float(rng.uniform(0, 5)) if rng.random() < 0.4 else 0.0
    if wide:
        grown = (head.from_ventricles < wide * (1 + 0.5 * noise)) & brain[tissue]
        tissue[grown] = _TABLE.index("ventricle")
    change = float(rng.choice([-3, -2, -1, 0, 0, 1]))
    if change < 0:  # a young brain: fluid next to brain becomes cortex
        filled = (head.from_brain <= -change + 0.7 * noise) & (tissue == csf) & (head.from_skull > 1)
        tissue[filled] = _TABLE.index("grey")
    elif change > 0:
        opened = (head.from_csf <= change) & (noise > 0) & (tissue == _TABLE.index("grey"))
        tissue[opened] = csf
    return wide, change


def mni_offset_mm() -> np.ndarray:
    """Millimetres of the first voxel of ``lesions.MNI_BOX``."""
    return MNI_BOX[1][:3, 3]
