# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""NIfTI and FreeSurfer's MGH from files, compressed or not: judged by the header first, then read whole and checked."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np

from ..errors import InputError
from .volume import Volume, check_affine, check_size

__all__ = ["MGH", "NIFTI", "read_nifti", "voxels_of"]

NIFTI = (".nii.gz", ".nii")
MGH = (".mgz", ".mgh")

#: Bytes of a stream that may follow the voxels: padding, and the tags of an MGH. A stream that goes on is a bomb.
_MARGIN_BYTES = 2**24

#: Deflate makes a byte out of no less than a 1,032nd.
_MAX_COMPRESSION = 1040

#: The longest header: that of NIfTI-2.
_HEADER_BYTES = 540

#: The three lowest bits of ``xyzt_units``: name and millimetres. Anything else is taken as millimetres, as all programs do.
_UNITS = {1: ("metre", 1000.0), 3: ("micron", 0.001)}

#: Where sform and qform lie farther apart, a note says so.
_AGREE_MM = 1.0


def read_nifti(path: Path) -> tuple[Volume, np.dtype]:
    """Read a NIfTI or MGH file, ``[X, Y, Z]`` or with further axes of length 1.

    The affine is nibabel's: the sform where its code is above 0, else the qform, else the one that nibabel makes up of the
    voxel sizes, with both codes 0. Units of metre and micron become millimetres.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.mgh`` or ``.mgz``.

    Returns:
        The volume and its type on disk.

    Raises:
        InputError: when size, type or place cannot be used, voxels are missing, or a checksum is wrong.
    """
    name = path.name.lower()
    packed = name.endswith((".gz", ".mgz"))
    with path.open("rb") as file:
        if (file.read(2) == b"\x1f\x8b") != packed:
            came = ("no gzip data", "gzip data")[not packed]
            raise InputError(f"{path}: expected a readable volume, got {came} in a file of this ending")
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        kind = _image_class(stream.read(_HEADER_BYTES), name, path)
        stream.seek(0)
        shape, dtype, end = _judge(kind, stream.read(_HEADER_BYTES), path)
        if path.stat().st_size * (_MAX_COMPRESSION if packed else 1) < end:
            raise InputError(f"{path}: expected a readable volume, got a file too short for the {end:,} bytes of its header")
        stream.seek(0)
        image = kind.from_bytes(_unpacked(stream, end, path)) if packed else kind.from_filename(path)
    if shape != tuple(image.shape)[:3]:
        raise InputError(f"{path}: expected a readable volume, got the shape {list(image.shape)} for {list(shape)}")
    affine, forms, notes = _placement(image, shape, path)
    array = np.asanyarray(image.dataobj).astype(np.float32).reshape(shape)
    return Volume(array, affine, str(path), notes=notes, forms=forms), dtype


def voxels_of(path: Path) -> int:
    """Number of voxels of a NIfTI or MGH file, by its header alone.

    Raises:
        InputError: when there is no header, or one that cannot be used.
        OSError, EOFError, zlib.error: when the bytes of the header cannot be read.
    """
    name = path.name.lower()
    with gzip.open(path) if name.endswith((".gz", ".mgz")) else path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
    shape, _, _ = _judge(_image_class(head, name, path), head, path)
    return math.prod(shape)


def _image_class(head: bytes, name: str, path: Path) -> Any:
    if name.endswith(MGH):
        return nib.MGHImage
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        if kind.header_class.may_contain_header(head):
            return kind
    raise InputError(f"{path}: expected a readable volume, got no NIfTI header in it")


def _judge(kind: Any, head: bytes, path: Path) -> tuple[tuple[int, int, int], np.dtype, int]:
    """Shape, type and end of the voxels in bytes, by the header alone."""
    block = head[: kind.header_class.template_dtype.itemsize]
    header = kind.header_class(block, check=False) if kind is not nib.MGHImage else _mgh_header(block)
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    dtype = header.get_data_dtype()
    check_size(shape, dtype, str(path))
    sizes = np.asarray(header["pixdim"][1:4] if "pixdim" in header.keys() else header["delta"], dtype=float)  # noqa: SIM118
    if not np.isfinite(sizes).all() or not (sizes != 0).all():
        came = " × ".join(f"{s:g}" for s in sizes)
        raise InputError(f"{path}: expected voxel sizes above 0, got {came} in the header")
    offset = header.get_data_offset()
    if not 0 <= offset <= _MARGIN_BYTES:
        raise InputError(f"{path}: expected voxels behind the header, got an offset of {offset:,} bytes")
    x, y, z = shape
    return (x, y, z), dtype, int(offset + x * y * z * dtype.itemsize)


def _mgh_header(block: bytes) -> Any:
    head = nib.MGHImage.header_class.template_dtype.itemsize
    return nib.MGHImage.header_class(block.ljust(head, b"\0"), check=False)


def _unpacked(stream: BinaryIO, end: int, path: Path) -> bytes:
    """The bytes up to `end`; the rest is read too, up to a margin: only then the stream's checksum is compared."""
    data = stream.read(end)
    if len(data) < end:
        raise InputError(f"{path}: expected a readable volume, got {len(data):,} bytes where the header says {end:,}")
    tail = stream.read(_MARGIN_BYTES)
    if stream.read(1):
        raise InputError(f"{path}: expected a readable volume, got a stream that goes on behind its {end:,} bytes")
    return data + tail[:4096] if path.name.lower().endswith(MGH) else data


def _placement(image: Any, shape: tuple[int, int, int], path: Path) -> tuple[np.ndarray, dict[str, Any], list[str]]:
    """The affine in millimetres, both forms, and notes on what they contradict each other in."""
    affine = np.array(image.affine, dtype=np.float64)
    if isinstance(image, nib.MGHImage):
        check_affine(affine, shape, str(path))
        code = int(image.header["goodRASFlag"] > 0)
        return affine, {"sform": affine, "sform_code": code, "qform": affine, "qform_code": code}, []
    unit, factor = _UNITS.get(int(image.header["xyzt_units"]) & 7, ("mm", 1.0))
    affine[:3] *= factor
    notes = [] if factor == 1 else [f"the header's unit is {unit}; taken as millimetres × {factor:g}"]
    check_affine(affine, shape, str(path), unit)
    sform_code, qform_code = (int(image.header[f"{n}_code"]) for n in ("sform", "qform"))
    sform = image.get_sform(coded=False)
    try:
        qform = image.get_qform(coded=False)
    except ValueError:  # a quaternion longer than 1
        qform = np.full((4, 4), np.nan)
    sform[:3] *= factor
    qform[:3] *= factor
    if not np.isfinite(qform).all():
        notes += ["the qform cannot be used and is left out of results"] if qform_code else []
        qform, qform_code = affine, 0
    forms = {"sform": sform, "sform_code": sform_code, "qform": qform, "qform_code": qform_code}
    if sform_code and qform_code:
        apart = _apart_mm(shape, affine, qform)
        if apart > _AGREE_MM:
            notes.append(f"sform and qform disagree by up to {apart:.1f} mm; the sform is taken")
    return affine, forms, notes


def _apart_mm(shape: tuple[int, int, int], affine: np.ndarray, other: np.ndarray) -> float:
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*(n - 1 for n in shape), 1]
    return float(np.linalg.norm(corners @ (affine - other).T, axis=1).max())
