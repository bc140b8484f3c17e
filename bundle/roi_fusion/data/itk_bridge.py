# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The way to ITK and back: images and transforms. ITK counts in LPS millimetres, everything else here in RAS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import import_needed
from .grids import spacing_mm

__all__ = [
    "LPS",
    "from_itk_transform",
    "load_itk",
    "nearest_rotation",
    "read_transform",
    "to_itk_image",
    "to_itk_transform",
    "write_transform",
]

#: ITK and DICOM count to the left and to the back.
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load_itk() -> Any:
    """The package itk.

    Raises:
        InputError: when it is not installed.
    """
    return import_needed("itk", "registration, MHA, NRRD and DICOM: expected the package itk (pip install itk), found none")


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The rotation ``[3, 3]`` nearest to a matrix, by singular value decomposition."""
    u, _, vt = np.linalg.svd(matrix)
    return u @ vt


def to_itk_image(itk: Any, array: np.ndarray, affine: np.ndarray) -> Any:
    """A volume ``[X, Y, Z]`` with its affine to RAS millimetres as an ITK image."""
    image = itk.image_from_array(np.ascontiguousarray(array.T, dtype=np.float32))  # ITK: slices first
    affine = LPS @ affine
    spacing = spacing_mm(affine)
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin([float(o) for o in affine[:3, 3]])
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(affine[:3, :3] / spacing)))
    return image


def to_itk_transform(itk: Any, matrix: np.ndarray, centre_mm: np.ndarray, kind: str) -> Any:
    """A matrix of RAS millimetres as an ITK transform of LPS millimetres about a centre."""
    transform = itk.Euler3DTransform if kind == "rigid" else itk.AffineTransform[itk.D, 3]
    transform = transform[itk.D].New() if kind == "rigid" else transform.New()
    lps, centre = LPS @ matrix @ LPS, LPS[:3, :3] @ centre_mm
    transform.SetCenter([float(c) for c in centre])
    linear = nearest_rotation(lps[:3, :3]) if kind == "rigid" else lps[:3, :3]
    transform.SetMatrix(itk.matrix_from_array(np.ascontiguousarray(linear)))
    transform.SetTranslation([float(v) for v in lps[:3, :3] @ centre + lps[:3, 3] - centre])
    return transform


def from_itk_transform(itk: Any, transform: Any) -> np.ndarray:
    """An ITK transform of LPS millimetres as a matrix ``[4, 4]`` of RAS millimetres."""
    lps = np.eye(4)
    lps[:3, :3] = itk.array_from_matrix(transform.GetMatrix())
    lps[:3, 3] = np.array(transform.GetOffset())
    return LPS @ lps @ LPS


def write_transform(path: str | Path, matrix: np.ndarray, centre_mm: np.ndarray, *, kind: str = "rigid") -> None:
    """Write ``transform.tfm`` as ITK, Slicer and ANTs take it: points of the reference (fixed) image → of the moved one, LPS.

    Args:
        path: file, ``.tfm``.
        matrix: maps RAS millimetres of the reference image to those of the moved one.
        centre_mm: RAS point about which it turns.
        kind: ``"rigid"`` or ``"affine"``.
    """
    itk = load_itk()
    itk.transformwrite([to_itk_transform(itk, matrix, np.asarray(centre_mm, dtype=float), kind)], str(path))


def read_transform(path: str | Path) -> np.ndarray:
    """The matrix of a ``transform.tfm``: RAS millimetres of the reference image → of the moved one."""
    itk = load_itk()
    return from_itk_transform(itk, itk.transformread(str(path))[0])
