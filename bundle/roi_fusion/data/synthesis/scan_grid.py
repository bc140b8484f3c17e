# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The grids of scanners: voxel sizes, slices, orientation and field of view as they occur."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.reading import READING_MM
from .anatomy import Anatomy
from .heads import brain_box_mm

__all__ = ["ORIENTATIONS", "Grid", "draw_grid"]

#: Which world axis (right, front, up) each array axis runs along.
ORIENTATIONS = {"RAS": (0, 1, 2), "RSA": (0, 2, 1), "ASR": (1, 2, 0)}


@dataclass(frozen=True)
class Grid:
    """A scanner's grid in working order: the slice axis last.

    Attributes:
        shape: voxels along the array axes.
        spacing_mm: voxel size along the array axes.
        orientation: ``RAS`` for axial, ``RSA`` for coronal, ``ASR`` for sagittal slices.
        centre_mm: centre of the field of view relative to the brain's centre, to the right, to the front and up.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str = "RAS"
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def affine(self) -> np.ndarray:
        """Index to RAS millimetres, ``[4, 4]``."""
        affine = np.zeros((4, 4))
        for axis, world in enumerate(ORIENTATIONS[self.orientation]):
            affine[world, axis] = self.spacing_mm[axis]
        affine[:3, 3] = np.array(self.centre_mm) - affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        affine[3, 3] = 1
        return affine


def draw_grid(rng: np.random.Generator, anatomy: Anatomy, largest_voxels: int = 1_600_000, reading_share: float = 0.0) -> Grid:
    """A grid as scanners have them: 0.4 to 2.4 mm in plane, slices of 1 to 9 mm, mostly axial.

    A grid of more than `largest_voxels` is cut along the slice axis, around the lesion where there is one.

    Args:
        rng: source of randomness.
        anatomy: from :func:`~.anatomy.draw_anatomy`.
        largest_voxels: number of voxels at most.
        reading_share: share of grids that are drawn as the lesion is read, see :mod:`~roi_fusion.core.reading`: 1.33 to 2.67 mm
            in plane.
    """
    kind = rng.random()
    if reading_share > 0 and rng.random() < reading_share:
        finest, coarsest = READING_MM * 2 / 3, READING_MM * 4 / 3
        plane = float(np.exp(rng.uniform(np.log(finest), np.log(coarsest))))
        slices = plane if kind < 0.25 else float(np.clip(rng.normal(5.0, 1.7), max(finest, min(plane, 2.0)), 9.0))
        spacing = (plane, plane, slices)
    elif kind < 0.2:  # isotropic
        step = float(rng.uniform(0.9, 2.2))
        spacing = (step, step, step)
    elif kind < 0.45:  # diffusion
        plane = float(rng.uniform(1.2, 2.4))
        spacing = (plane, plane, float(rng.uniform(max(2.0, plane), 7.0)))
    else:
        plane = float(np.exp(rng.uniform(np.log(0.42), np.log(1.3))))
        spacing = (plane, plane, float(np.clip(rng.normal(5.0, 1.5), 1.0, 9.0)))
        spacing = (plane, plane, max(spacing[2], plane))
    orientation = "RAS" if rng.random() < 0.85 else str(rng.choice(["RSA", "ASR"]))
    head = anatomy.head
    low, high = brain_box_mm(head.brain, head.voxel_mm)
    # Whole head in plane; along the slices from the vertex to the skull base or further down.
    extent = np.array([170.0, 215.0, 175.0]) if rng.random() < 0.7 else np.array([150.0, 190.0, 145.0])
    centre = rng.normal(0, 4, 3) + np.array([0.0, 5.0, float(rng.uniform(-18, 4))])
    order = ORIENTATIONS[orientation]
    expected = [max(8, round(float(extent[w]) / s)) for w, s in zip(order, spacing)]
    fitting = max(8, int(largest_voxels / (expected[0] * expected[1])))
    if expected[2] > fitting or rng.random() < 0.15:
        slices = max(4, min(expected[2], fitting))
        if expected[2] <= fitting:
            slices = max(4, int(expected[2] * rng.uniform(0.4, 0.9)))
        room = (expected[2] - slices) * spacing[2] / 2
        world = order[2]
        middle = float(rng.uniform(-room, room))
        if anatomy.lesion is not None:
            at = float(anatomy.lesion_centre[world] * head.voxel_mm[world] - (low + high)[world] / 2)
            middle = at - float(centre[world]) + float(rng.uniform(-0.3, 0.3)) * slices * spacing[2]
        centre[world] += float(np.clip(middle, -room, room))
        expected[2] = slices
    return Grid((expected[0], expected[1], expected[2]), spacing, orientation, tuple(float(c) for c in centre))  # type: ignore[arg-type]
