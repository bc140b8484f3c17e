# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A small picture of an MRI and its CT before anything is predicted: some slices, the lesion outlined."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw

from .sheets import Panel, Tiling, mri_panel, webp_uri
from .volumes import ResultVolumes, View

__all__ = ["pair_picture"]

#: Where in the head the slices lie, from below.
_PLACES = (0.35, 0.5, 0.65)


def _upright(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(nib.Nifti1Image(volume.astype(np.float32), affine)).dataobj)


def pair_picture(
    mri: np.ndarray, ct: np.ndarray, affine: np.ndarray, label: np.ndarray | None = None, tile_px: int = 96
) -> str:
    """Slices of an MRI above the same slices of its CT in the brain window, as the data URI of a WebP picture.

    Args:
        mri, ct: on one grid, ``[X, Y, Z]``.
        affine: of the grid.
        label: 0/1, outlined; the slice with most of it is the middle one.
        tile_px: longest side of a slice in pixels.
    """
    upright = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(mri.shape, np.uint8), affine)).affine
    mri, ct = _upright(mri, affine), _upright(ct, affine)
    mask = None if label is None else _upright(label, affine) > 0.5
    head = ct > -200
    if not head.any() or head.all():
        head = np.ones(ct.shape, bool)
    nothing: dict[str, None] = dict.fromkeys(("lesion", "lesion_prob", "provenance", "uncertainty", "reference"))
    volumes = ResultVolumes(
        affine=upright, stored_shape=mri.shape, stored_axes="", mri=mri, ct=ct, fused=head.astype(np.float32), **nothing
    )
    view = View.of(volumes)
    tiling = Tiling(volumes, view, tile_px)
    chosen = [tiling.slices[int(q * (len(tiling.slices) - 1))] for q in _PLACES]
    if mask is not None and mask.any():
        chosen[1] = int(np.argmax(view.counts(mask)))
    panels = (mri_panel(volumes), Panel("CT", ct, "gray", 0, 80, "HU"))
    picture = Image.new("RGB", (len(chosen) * tiling.width, len(panels) * tiling.height))
    draw = ImageDraw.Draw(picture)
    for row, panel in enumerate(panels):
        for column, k in enumerate(chosen):
            corner = (column * tiling.width, row * tiling.height)
            picture.paste(tiling.tile(panel, k).convert("RGB"), corner)
            for contour in tiling.contours(mask, k) if mask is not None else ():
                draw.line([(float(x), float(y)) for x, y in contour + corner], fill="#3ddc60", width=1)
    return webp_uri(picture)
