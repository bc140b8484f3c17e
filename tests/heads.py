# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A head of ellipsoids in numpy alone, for tests of what goes wrong with pairs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

SHAPE, SPACING_MM = (64, 64, 26), np.array([3.6, 3.6, 6.0])
AFFINE = np.diag([*SPACING_MM, 1.0])
AFFINE[:3, 3] = -(np.array(SHAPE) - 1) / 2 * SPACING_MM


class Pair(NamedTuple):
    mri: np.ndarray
    ct: np.ndarray
    lesion: np.ndarray


def make_pair(seed: int = 0) -> Pair:
    """MRI (like DWI, with skin) and CT in HU on the grid of :data:`AFFINE`; 20 mL of lesion at the left, brain 1,420 mL."""
    points = np.moveaxis(np.indices(SHAPE), 0, -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]

    def ellipsoid(radii: tuple[float, float, float], centre: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
        return (((points - np.array(centre)) / np.array(radii)) ** 2).sum(-1) < 1

    rng = np.random.default_rng(seed)
    lesion = ellipsoid((15, 20, 16), (-38, 5, 10))
    ct, mri = np.full(SHAPE, -1000.0), np.zeros(SHAPE)
    for mask, hu, value in (
        (ellipsoid((76, 95, 75)), 20, 250),
        (ellipsoid((70, 89, 70)), 1100, 40),
        (ellipsoid((64, 83, 64)), 34, 400),
        (ellipsoid((6, 22, 12), (10, 5, 5)) | ellipsoid((6, 22, 12), (-10, 5, 5)), 6, 120),
        (lesion, 27, 900),
    ):
        ct[mask], mri[mask] = hu, value
    noisy = np.abs(mri + rng.normal(0, 12, SHAPE)), ct + rng.normal(0, 4, SHAPE)
    return Pair(noisy[0].astype(np.float32), noisy[1].astype(np.float32), lesion)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path
