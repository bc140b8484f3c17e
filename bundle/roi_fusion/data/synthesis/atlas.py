# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A label map made from the MNI atlas phantom, for demos and tests without label maps of real heads."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from ..atlas_head import TISSUES, Anatomy, render_shares

__all__ = ["atlas_labels"]

#: Label of each tissue of the phantom: grey, white, csf, cortical bone, diploë, soft, fat, eye, cavity, air, blood, calcium.
_LABELS = dict(zip(TISSUES, (3, 2, 24, 515, 516, 507, 507, 506, 0, 0, 3, 2)))
_VENTRICLE_LABEL, _STEP_MM = 4, 2.0


@lru_cache(maxsize=1)
def atlas_labels() -> tuple[np.ndarray, np.ndarray]:
    """Labels ``[X, Y, Z]`` of 2 mm voxels, and their affine (RAS, mm)."""
    shares, _ = render_shares(Anatomy(np.random.default_rng(0), None), (96, 120, 100), (_STEP_MM,) * 3)
    labels = np.array([_LABELS[t] for t in TISSUES], np.int16)[shares.argmax(0)]
    # Fluid more than 18 mm from bone lies in the ventricles.
    far = ndimage.distance_transform_edt(~np.isin(labels, (515, 516))) * _STEP_MM > 18
    labels[far & (labels == 24)] = _VENTRICLE_LABEL
    return labels, np.diag([_STEP_MM, _STEP_MM, _STEP_MM, 1.0])
