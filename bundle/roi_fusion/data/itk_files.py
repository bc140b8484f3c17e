# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""MHA and NRRD files by ITK, an optional package; the size is judged by the header before ITK makes room for the voxels."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .itk_bridge import LPS, load_itk
from .volume import Volume, check_affine, check_size

__all__ = ["ITK", "last_line", "read_itk"]

ITK = (".mha", ".mhd", ".nrrd", ".nhdr")

_NRRD = (".nrrd", ".nhdr")

#: What stands between header and voxels; a header is no longer than so many bytes.
_NRRD_DATA = re.compile(rb"\r?\n\r?\n")
_META_DATA = re.compile(rb"ElementDataFile *=[^\r\n]*\r?\n")
_DATA_FILE = re.compile(rb"(?im)^(?:ElementDataFile *= *|data ?file: *)(.*?)\s*$")
_HEADER_BYTES = 2**20

#: Words in ITK's names of types, and the kind of number that they mean.
_KINDS = {"float": "f", "double": "f", "unsigned": "u"}


def last_line(error: BaseException) -> str:
    """What a reader said, without the traceback that ITK puts before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:160] if lines else type(error).__name__


def read_itk(path: Path) -> tuple[Volume, np.dtype]:
    """Read an MHA or NRRD file whose header says where it lies.

    Args:
        path: ``.mha``, ``.mhd``, ``.nrrd`` or ``.nhdr``.

    Returns:
        The volume and its type on disk.

    Raises:
        InputError: when size, type or place cannot be used.
    """
    with path.open("rb") as f:
        head = f.read(_HEADER_BYTES)
    data_at = re.search(_NRRD_DATA if path.suffix.lower() in _NRRD else _META_DATA, head)
    fields = head[: data_at.end() if data_at else None].lower()
    expected = b"space directions" if path.suffix.lower() in _NRRD else b"transformmatrix"
    if not (expected in fields or b"orientation" in fields or b"rotation" in fields):
        raise InputError(f"{path}: expected an orientation ({expected.decode()} in the header), got none")
    itk = load_itk()
    reader = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if reader is None:
        raise InputError(f"{path}: expected a readable volume, got one that ITK knows no reader for")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    axes = range(reader.GetNumberOfDimensions())
    shape = [int(reader.GetDimensions(a)) for a in axes]
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    dtype = _stored(reader)
    check_size(shape, dtype, str(path))
    named = re.search(_DATA_FILE, head[: len(fields)])
    if named is not None and named[1].upper() != b"LOCAL":
        _check_data(path.parent / named[1].decode(), 0, fields, int(np.prod(shape)) * dtype.itemsize)
    elif data_at:
        _check_data(path, data_at.end(), fields, int(np.prod(shape)) * dtype.itemsize)
    image = itk.imread(str(path))
    array = itk.array_from_image(image)
    array = array.reshape(array.shape[-3:])  # [Z, Y, X]
    affine = np.eye(4)
    affine[:3, :3] = (itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing()))[:3, :3]
    affine[:3, 3] = np.array(image.GetOrigin())[:3]
    affine = LPS @ affine
    check_affine(affine, shape, str(path))
    return Volume(array.T.astype(np.float32), affine, str(path)), array.dtype


def _check_data(path: Path, start: int, fields: bytes, size: int) -> None:
    """Refuse voxels that are cut off or whose checksum is wrong: ITK returns whatever it got of them.

    Args:
        path: of the voxels: the file itself, or one beside it.
        start: of the voxels, in bytes.
        fields: the header in small letters.
        size: of the voxels in bytes, unpacked.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected the voxels of the header beside it, found no such file")
    if re.search(rb"compresseddata *= *true|encoding: *gz", fields):
        unpack, got = zlib.decompressobj(wbits=47), 0  # zlib as MHA has it, gzip as NRRD
        with path.open("rb") as f:
            f.seek(start)
            while not unpack.eof and got <= size and (chunk := f.read(2**16)):
                while chunk and not unpack.eof and got <= size:
                    got += len(unpack.decompress(chunk, 2**22))
                    chunk = unpack.unconsumed_tail
        if got != size or not unpack.eof:
            raise InputError(f"{path}: expected a readable volume, got {got:,} bytes where the header says {size:,}")
    elif not re.search(rb"binarydata *= *false|encoding: *(txt|text|ascii|hex)", fields):
        got = path.stat().st_size - start
        if got < size:
            raise InputError(f"{path}: expected a readable volume, got {got:,} bytes where the header says {size:,}")


def _stored(reader: Any) -> np.dtype:
    """Type on disk; a structure where a voxel holds several numbers."""
    name = reader.GetComponentTypeAsString(reader.GetComponentType())
    kind = next((k for word, k in _KINDS.items() if word in name), "i")
    number = np.dtype(f"{kind}{reader.GetComponentSize()}")
    count = int(reader.GetNumberOfComponents())
    return number if count == 1 else np.dtype([("", number)] * min(count, 4))
