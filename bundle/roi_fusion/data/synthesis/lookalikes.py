# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What looks like an acute lesion and is none, written into a label map as tissues of its own.

An expert tells each of them from a stroke by something that the images hold: white-matter disease by its place around the
ventricles and its symmetry, old infarcts by a core like fluid and tissue lost, lacunes, cysts and perivascular spaces by
fluid's brightness, choroid by its place inside the ventricles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from ..atlas import mni_tissue
from ..lesions import Lesion, PackedLesions, procedural_lesion
from .fields import smooth_noise
from .heads import Head
from .tissues import tissue_table

__all__ = ["add_lookalikes"]

_TABLE = tissue_table()
_WHITE = np.isin(_TABLE.names, ("white",))
_BRAIN = _TABLE.in_groups("brain")
_OLD_DISEASE = _TABLE.index("white_matter_disease")


def add_lookalikes(
    rng: np.random.Generator,
    head: Head,
    tissue: np.ndarray,
    noise: np.ndarray,
    lesion: np.ndarray | None,
    lesions: PackedLesions | None,
    place: Callable[..., np.ndarray],
) -> dict[str, float]:
    """Change `tissue` ``[X, Y, Z]`` in place.

    Args:
        rng: source of randomness.
        head: that the label map came from.
        tissue: tissue indices.
        noise: smooth noise on the same grid.
        lesion: soft map of the acute lesion, which stays free of most look-alikes.
        lesions: shapes of old infarcts; procedural ones when None.
        place: :func:`~.anatomy.place_lesion`.

    Returns:
        What was drawn.
    """
    free = None if lesion is None else lesion < 0.05
    notes: dict[str, float] = {}
    if rng.random() < 0.35:  # a map's own white-matter disease
        tissue[tissue == _OLD_DISEASE] = _TABLE.index("white")
    if rng.random() < 0.55:
        notes["white_matter_mm"] = _white_matter_disease(rng, head, tissue, noise)
    if rng.random() < 0.4:
        notes["punctate"] = _balls(
            rng, tissue, head, _WHITE, "white_matter_disease", int(rng.integers(3, 40)), (0.8, 3.0), free
        )
    if rng.random() < 0.3:
        notes["old_infarct_ml"] = _old_infarct(rng, head, tissue, free, lesions, place)
    deep = np.isin(_TABLE.names, ("deep_grey", "pallidum", "brain_stem", "white"))
    if rng.random() < 0.3:
        notes["lacunes"] = _lacunes(rng, head, tissue, deep, free)
    if rng.random() < 0.35:
        notes["perivascular"] = _balls(rng, tissue, head, deep, "perivascular", int(rng.integers(5, 60)), (0.6, 1.4), free)
    if rng.random() < 0.2:
        allowed = _TABLE.in_groups("brain", "csf")
        notes["cysts"] = _balls(rng, tissue, head, allowed, "cyst", int(rng.integers(1, 3)), (4.0, 16.0), free, outer=True)
    if rng.random() < 0.6:
        notes["choroid"] = _choroid(rng, head, tissue)
    if rng.random() < 0.06:
        notes["haematoma"] = _balls(rng, tissue, head, _BRAIN, "blood", 1, (4.0, 14.0), free)
    if rng.random() < 0.12:
        notes["microbleeds"] = _balls(rng, tissue, head, _BRAIN, "blood", int(rng.integers(1, 12)), (0.7, 1.6), free)
    if rng.random() < 0.35:
        where = np.isin(_TABLE.names, ("pallidum", "choroid"))
        notes["calcium"] = _balls(rng, tissue, head, where, "calcium", int(rng.integers(1, 5)), (1.0, 3.0), None)
    return notes


def _white_matter_disease(rng: np.random.Generator, head: Head, tissue: np.ndarray, noise: np.ndarray) -> float:
    """A band around the ventricles, about equal on both sides, with caps and patches further out."""
    reach = float(rng.gamma(2.0, 2.5))
    half = noise[: noise.shape[0] // 2]  # one pattern for both sides, as the disease has it
    pattern = np.concatenate([half, half[::-1], noise[2 * len(half) :]])
    pattern = (0.75 * pattern + 0.35 * noise) if rng.random() < 0.8 else noise
    threshold = reach * (1 + rng.uniform(0.4, 1.0) * pattern)
    white = _WHITE[tissue]
    faint = white & (head.from_ventricles < 1.3 * threshold + 1)
    tissue[faint] = _TABLE.index("faint_white_matter")
    tissue[white & (head.from_ventricles < threshold)] = _OLD_DISEASE
    if rng.random() < 0.5:  # deep patches
        patches = white & (pattern > rng.uniform(1.2, 2.0)) & (head.from_csf > 5)
        tissue[patches] = _OLD_DISEASE
    return reach


def _old_infarct(
    rng: np.random.Generator,
    head: Head,
    tissue: np.ndarray,
    free: np.ndarray | None,
    lesions: PackedLesions | None,
    place: Callable[..., np.ndarray],
) -> float:
    """Tissue lost after an earlier stroke: a core like fluid inside a rim of scar. Returns its volume in mL."""
    lesion: Lesion = procedural_lesion(rng, mni_tissue()) if lesions is None else lesions[int(rng.integers(len(lesions)))]
    soft = place(lesion, head, rng.normal(0, 4, 3), float(rng.uniform(0.7, 1.1)), bool(rng.random() < 0.5), tissue)
    where = (soft > 0.5) & _BRAIN[tissue]
    if free is not None:
        where &= free
    if not where.any():
        return 0.0
    box = tuple(slice(max(0, s.start - 4), s.stop + 4) for s in ndimage.find_objects(where.astype(np.uint8))[0])
    part = where[box]
    rough = smooth_noise(rng, part.shape, head.voxel_mm, 6.0)[0].numpy()
    depth = ndimage.distance_transform_edt(part, sampling=head.voxel_mm)
    core = part & (depth + 0.7 * rough > rng.uniform(1.2, 3.5))
    tissue[box][part] = _TABLE.index("old_rim")
    tissue[box][core] = _TABLE.index("old_core")
    return float(part.sum() * np.prod(head.voxel_mm)) / 1000


def _lacunes(rng: np.random.Generator, head: Head, tissue: np.ndarray, deep: np.ndarray, free: np.ndarray | None) -> float:
    """Small holes with fluid in deep tissue, some with a rim of scar."""
    count = int(rng.integers(1, 6))
    if rng.random() < 0.5:
        state = rng.bit_generator.state
        _balls(rng, tissue, head, deep, "old_rim", count, (2.4, 4.5), free)
        rng.bit_generator.state = state  # the same centres again, smaller
        return _balls(rng, tissue, head, deep | (np.array(_TABLE.names) == "old_rim"), "lacune", count, (1.4, 3.2), free)
    return _balls(rng, tissue, head, deep, "lacune", count, (1.4, 4.0), free)


def _choroid(rng: np.random.Generator, head: Head, tissue: np.ndarray) -> float:
    """Choroid plexus in the back part of both lateral ventricles."""
    ventricle = np.argwhere(tissue == _TABLE.index("ventricle"))
    if len(ventricle) < 100:
        return 0.0
    middle = tissue.shape[0] / 2
    count = 0
    for side in (-1, 1):
        own = ventricle[(ventricle[:, 0] - middle) * side > 8 / head.voxel_mm[0]]
        if len(own) < 50:
            continue
        back = own[own[:, 1] < np.percentile(own[:, 1], 35)]
        for centre in back[rng.integers(0, len(back), int(rng.integers(2, 7)))]:
            radii = rng.uniform(1.5, 4.0, 3)
            _fill(tissue, centre, radii / head.voxel_mm, np.isin(_TABLE.names, ("ventricle",)), "choroid", None)
            count += 1
    return float(count)


def _balls(
    rng: np.random.Generator,
    tissue: np.ndarray,
    head: Head,
    allowed: np.ndarray,
    name: str,
    count: int,
    radius_mm: tuple[float, float],
    free: np.ndarray | None,
    outer: bool = False,
) -> float:
    """Ellipsoids of tissue `name` at random places of allowed tissue; at the brain's surface with `outer`."""
    where = allowed[tissue[::2, ::2, ::2]]
    if outer:
        distance = head.from_skull[::2, ::2, ::2]
        where = where & (distance > 1) & (distance < 14)
    places = np.flatnonzero(where)
    if not len(places):
        return 0.0
    chosen = np.stack(np.unravel_index(places[rng.integers(0, len(places), count)], where.shape), -1) * 2
    for centre in chosen:
        radius = float(np.exp(rng.uniform(*np.log(radius_mm))))
        _fill(tissue, centre, radius * rng.uniform(0.75, 1.35, 3) / head.voxel_mm, allowed, name, free)
    return float(count)


def _fill(
    tissue: np.ndarray,
    centre: np.ndarray,
    radii: Sequence[float] | np.ndarray,
    allowed: np.ndarray,
    name: str,
    free: np.ndarray | None,
) -> None:
    """One ellipsoid, radii in voxels; the voxel at its centre always belongs to it."""
    start = np.maximum(np.floor(centre - np.asarray(radii)).astype(int), 0)
    stop = np.minimum(np.ceil(centre + np.asarray(radii)).astype(int) + 1, tissue.shape)
    box = tuple(slice(a, b) for a, b in zip(start, stop))
    axes = np.ogrid[box]
    inside = sum(((x - c) / max(float(r), 0.6)) ** 2 for x, c, r in zip(axes, centre, radii)) <= 1
    inside = inside & allowed[tissue[box]]
    if free is not None:
        inside &= free[box]
    tissue[box][inside] = _TABLE.index(name)
