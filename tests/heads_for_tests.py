# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A small head of ellipsoids as a label map, so that tests need no data."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

STEP_MM = 3.0


def ellipsoid_labels() -> np.ndarray:
    """Labels ``[64, 76, 64]`` of 3 mm voxels: skin, skull, fluid, cortex, white matter, ventricles, eyes."""
    shape = (64, 76, 64)
    x, y, z = ((np.arange(n) - (n - 1) / 2) * STEP_MM for n in shape)
    grid = np.meshgrid(x, y, z, indexing="ij")

    def inside(radii: tuple[float, float, float], centre: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
        return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii)) <= 1

    labels = np.zeros(shape, np.int16)
    for label, radii in (
        (511, (86, 104, 86)),
        (507, (83, 101, 83)),
        (515, (78, 96, 78)),
        (24, (72, 90, 72)),
        (3, (66, 84, 66)),
    ):
        labels[inside(radii)] = label
    labels[inside((56, 74, 56))] = 2
    for side in (-1, 1):
        labels[inside((9, 30, 14), (12 * side, 0, 6))] = 4
        labels[inside((12, 12, 12), (30 * side, 92, -30))] = 506
    return labels


def write_head(folder: Path, name: str = "a", labels: np.ndarray | None = None) -> Path:
    """Write the label map as ``<folder>/<name>.nii.gz``."""
    folder.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(ellipsoid_labels() if labels is None else labels, np.diag([STEP_MM, STEP_MM, STEP_MM, 1]))
    nib.save(image, folder / f"{name}.nii.gz")
    return folder
