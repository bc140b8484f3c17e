# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Masks of a case as they are read: 0 and 1, on the grid of one of its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from roi_fusion.data.grids import same_grid
from roi_fusion.data.io import Volume, read_volume
from roi_fusion.errors import InputError

__all__ = ["read_mask"]


def read_mask(path: Path, what: str, images: Mapping[str, Volume]) -> tuple[Volume, str]:
    """A mask and the name of the image that it lies on.

    Args:
        path: file of 0 and 1, or of 0 and 255.
        what: it is of, for messages.
        images: name, ``"mri"`` or ``"ct"`` → image.

    Raises:
        InputError: for other values, or a grid that is no image's.
    """
    mask = read_volume(path)
    top = 255.0 if float(mask.array.max()) == 255 else 1.0
    if not mask.resampled and not np.isin(mask.array, (0.0, top)).all():
        came = ", ".join(f"{v:g}" for v in np.unique(mask.array)[:5])
        raise InputError(f"{path}: expected a {what} of 0 and 1, got values {came}")
    mask.array = mask.array / top
    for name, image in images.items():
        if same_grid(mask.array.shape, mask.affine, image.array.shape, image.affine, tolerance_mm=0.2):
            mask.affine = image.affine  # headers of one grid differ by rounding
            return mask, name
    grids = " or ".join(f"the {name.upper()} {list(image.array.shape)}" for name, image in images.items())
    raise InputError(f"{path}: expected a {what} on the grid of {grids}, got another grid {list(mask.array.shape)}")
