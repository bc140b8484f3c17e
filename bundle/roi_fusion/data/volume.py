# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A volume as read, and what every format's reader asks of a header before the voxels are touched: its size and its affine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import InputError
from .grids import shear_mm, spacing_mm, straighten

__all__ = ["MAX_VOXELS", "Volume", "check_affine", "check_overflow", "check_size", "looks_like_ct", "straightened"]

#: The largest volume that is read: 1,024 × 1,024 × 256, or a CT of 512 × 512 in 1,024 slices; 1 GiB as float32. A damaged or
#: hostile header asks for more; without a limit it takes the whole memory of the machine.
MAX_VOXELS = 2**28

#: The longest type on disk is that of 128-bit floats.
_MAX_ITEM_BYTES = 16

#: A voxel of a head is neither finer nor coarser, a field of view no longer, and no scanner counts from farther away.
_VOXEL_MM = (0.01, 100.0)
_FIELD_OF_VIEW_MM = 3000.0
_ORIGIN_MM = 10_000.0

#: The largest gantry tilt of a scanner is 30°; axes that lean more come from a damaged header.
_LEAN_DEGREES = 45.0

#: A stack that leans by less than this over its whole height needs no straightening.
_STRAIGHT_MM = 0.25


@dataclass
class Volume:
    """One volume as read.

    Attributes:
        array: ``[X, Y, Z]``, float32.
        affine: index to RAS millimetres.
        source: the file or series, for messages.
        modality: ``"ct"``, ``"mr"``, or empty where the format does not say.
        notes: what was corrected on reading, and what the header contradicts itself in; a sentence each, without the file.
        forms: both placements of a NIfTI header in millimetres, ``{"sform", "sform_code", "qform", "qform_code"}``, which
            results carry on; a code of 0 says that the matrix does not count. Other formats have one: it stands in both.
        resampled: whether the voxels are no longer those of the file.
        contrast: of an MRI that came as DICOM, see :func:`~roi_fusion.data.dicom_choice.contrast_of`.
    """

    array: np.ndarray
    affine: np.ndarray
    source: str
    modality: str = ""
    notes: list[str] = field(default_factory=list)
    forms: dict[str, Any] = field(default_factory=dict)
    resampled: bool = False
    contrast: str = ""

    def __post_init__(self) -> None:
        if not self.forms:
            unit = self.affine[:3, :3] / spacing_mm(self.affine)
            upright = np.allclose(unit.T @ unit, np.eye(3), atol=1e-4)  # a qform cannot hold a shear
            self.forms = {"sform": self.affine, "sform_code": 1, "qform": self.affine, "qform_code": int(upright)}

    @property
    def placed(self) -> bool:
        """Whether the file says where its voxels lie."""
        return bool(self.forms["sform_code"] or self.forms["qform_code"])


def check_size(shape: Sequence[int], dtype: np.dtype, where: str) -> None:
    """Judge a volume by its header, before anything is read.

    Raises:
        InputError: when it is no 3-D volume, has more than :data:`MAX_VOXELS`, or its voxels are no real numbers.
    """
    if dtype.kind not in "biuf" or dtype.itemsize > _MAX_ITEM_BYTES:
        kind = "complex" if dtype.kind == "c" else "colour (RGB)" if dtype.fields else str(dtype)
        raise InputError(f"{where}: expected one real number a voxel, got {kind} voxels")
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"{where}: expected a 3-D volume, got shape {[int(n) for n in shape]}")
    voxels = int(np.prod([int(n) for n in shape], dtype=object))
    if voxels > MAX_VOXELS:
        size = "×".join(str(int(n)) for n in shape)
        raise InputError(f"{where}: expected at most {MAX_VOXELS:,} voxels, got a header that says {size}")


def check_affine(affine: np.ndarray, shape: Sequence[int], where: str, unit: str = "mm") -> None:
    """Judge where a header puts a volume.

    Args:
        affine: index to RAS millimetres.
        shape: of the volume.
        where: the file, for the sentence.
        unit: the header's own, for the sentence.

    Raises:
        InputError: when the affine has NaN, cannot be inverted, or is none of a scan of a head.
    """
    if not np.isfinite(affine).all():
        raise InputError(f"{where}: expected an affine of finite numbers, got NaN or infinity in it")
    step = spacing_mm(affine)
    units = "" if unit == "mm" else f" (the header's unit is {unit})"
    if not (step >= _VOXEL_MM[0]).all() or not (step <= _VOXEL_MM[1]).all():
        came = " × ".join(f"{s:.4g}" for s in step)
        raise InputError(
            f"{where}: expected voxels of {_VOXEL_MM[0]:g} to {_VOXEL_MM[1]:g} mm, got {came} mm by the affine{units}"
        )
    lean = float(np.degrees(np.arccos(min(1.0, abs(float(np.linalg.det(affine[:3, :3] / step)))))))
    if lean > _LEAN_DEGREES:
        raise InputError(
            f"{where}: expected axes that stand at right angles or lean by up to {_LEAN_DEGREES:.0f}° (gantry tilt), "
            f"got {lean:.0f}° by the affine"
        )
    if float((step * shape).max()) > _FIELD_OF_VIEW_MM or float(np.abs(affine[:3, 3]).max()) > _ORIGIN_MM:
        came = " × ".join(f"{n * s:.0f}" for n, s in zip(shape, step))
        origin = ", ".join(f"{o:.4g}" for o in affine[:3, 3])
        raise InputError(
            f"{where}: expected the field of view of a scan (up to {_FIELD_OF_VIEW_MM:.0f} mm, within {_ORIGIN_MM:.0f} mm of "
            f"the scanner), got {came} mm at {origin}{units}"
        )


def check_overflow(volume: Volume, stored: np.dtype, padding: float | None = None) -> None:
    """Refuse numbers that ran over the end of 16 bits: air at 64536, or both ends of the range in one volume.

    Args:
        volume: as read.
        stored: type on disk.
        padding: value that the header says is none.

    Raises:
        InputError: when the numbers ran over.
    """
    if stored.itemsize != 2 or stored.kind not in "iu":
        return
    values = volume.array if padding is None else volume.array[volume.array != padding]
    if values.size == 0:
        return
    low, high = float(values.min()), float(values.max())
    wrapped_air = stored.kind == "u" and low >= 0 and float(((values > 63_000) & (values < 65_536)).mean()) > 0.05
    if wrapped_air or (stored.kind == "i" and low <= -32_000 and high >= 32_000):
        raise InputError(f"{volume.source}: expected values that fit their 16 bits, got {low:g} to {high:g}: an overflow")


def straightened(volume: Volume) -> Volume:
    """The volume with axes at right angles: itself, or without its gantry tilt, which a note then tells."""
    shear = shear_mm(volume.array.shape, volume.affine)
    if np.abs(shear).max() <= _STRAIGHT_MM:
        return volume
    height = np.linalg.norm(volume.affine[:3, 2]) * max(volume.array.shape[2] - 1, 1)
    degrees = float(np.degrees(np.arcsin(min(1.0, float(np.linalg.norm(shear)) / height))))
    outside = -1024.0 if volume.modality == "ct" or looks_like_ct(volume.array) else 0.0
    array, affine = straighten(volume.array, volume.affine, outside)
    notes = [*volume.notes, f"gantry tilt of {degrees:.1f}° corrected"]
    return replace(volume, array=array, affine=affine, notes=notes, forms={}, resampled=True)


def looks_like_ct(array: np.ndarray) -> bool:
    """Whether values look like HU: a tenth or more of them air near -1000, some soft tissue, some bone."""
    sample = array[:: max(1, array.shape[0] // 64), :: max(1, array.shape[1] // 64)]
    air = float((sample < -800).mean())
    return air > 0.03 and bool((sample > 250).any()) and float(((sample > -150) & (sample < 150)).mean()) > 0.03
