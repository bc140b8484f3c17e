# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The MNI brain that nilearn ships, as tissue shares."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from .lesions import MNI_BOX

__all__ = ["Field", "mni_template", "mni_tissue"]


class Field:
    """A stack of maps ``[C, X, Y, Z]`` on an axis-aligned millimetre grid, sampled linearly."""

    def __init__(self, values: np.ndarray, origin_mm: Sequence[float] | np.ndarray, step_mm: float) -> None:
        # grid_sample reads coordinates as (last axis … first axis): stored as [C, Z, Y, X] they are (x, y, z).
        self.values = torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 2, 1), dtype=np.float32))[None]
        self.origin_mm = torch.tensor([float(o) for o in origin_mm])
        self.half_extent_mm = torch.tensor([(n - 1) * float(step_mm) / 2 for n in values.shape[1:]])

    def at(self, points_mm: torch.Tensor) -> torch.Tensor:
        """Values at ``[..., 3]`` points → ``[C, ...]``; the nearest edge value outside."""
        grid = ((points_mm - self.origin_mm) / self.half_extent_mm).sub_(1).reshape(1, 1, 1, -1, 3)
        out = F.grid_sample(self.values, grid, mode="bilinear", padding_mode="border", align_corners=True)
        return out.reshape(self.values.shape[1], *points_mm.shape[:-1])

    def at_plane(self, points_mm: torch.Tensor) -> torch.Tensor:
        """As :meth:`at` for a plane grid ``[X, Y, ..., 3]`` of points, read at every fourth point: for smooth fields."""
        x, y = points_mm.shape[:2]
        coarse = self.at(_resize_plane(points_mm.movedim(-1, 0), (-(-x // 4) + 1, -(-y // 4) + 1)).movedim(0, -1))
        return _resize_plane(coarse, (x, y))


def _resize_plane(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Linear resize of the two axes behind the first, corners kept: ``[C, X, Y, ...]`` → ``[C, *size, ...]``."""
    planes = maps.flatten(3).movedim(-1, 1) if maps.ndim > 3 else maps[:, None]  # [C, rest, X, Y]
    out = F.interpolate(planes, size=size, mode="bilinear", align_corners=True)
    return out.movedim(1, -1).reshape(maps.shape[0], *size, *maps.shape[3:])


@lru_cache(maxsize=1)
def mni_template() -> tuple[Field, Field, np.ndarray]:
    """MNI152: (grey, white) at 1 mm; distance in mm from the brain's surface (negative inside) at 2 mm; tissue on MNI_BOX."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template

    grey_image = load_mni152_gm_template(resolution=1)
    affine = grey_image.affine
    grey, white = (im.get_fdata(dtype=np.float32) for im in (grey_image, load_mni152_wm_template(resolution=1)))
    brain = load_mni152_brain_mask(resolution=1).get_fdata() > 0
    tissue = Field(np.stack([grey, white]), affine[:3, 3], 1.0)
    margin = 40
    coarse = ndimage.binary_closing(np.pad(brain, margin), iterations=4)[::2, ::2, ::2]
    distance = 2.0 * (ndimage.distance_transform_edt(~coarse) - ndimage.distance_transform_edt(coarse))
    shell = Field(distance[None], affine[:3, 3] - margin, 2.0)
    box_shape, box_affine = MNI_BOX
    start = np.round(box_affine[:3, 3] - affine[:3, 3]).astype(int)
    box = tuple(slice(s, s + n) for s, n in zip(start, box_shape))
    return tissue, shell, (grey + white)[box] > 0.5


def mni_tissue() -> np.ndarray:
    """Where grey or white matter is, boolean on :data:`~roi_fusion.data.lesions.MNI_BOX`."""
    return mni_template()[2]
