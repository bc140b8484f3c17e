# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Seeded makers of malformed studies: each takes a good case folder and breaks one thing in it.

A maker is ``(folder, rng) -> None`` and edits ``mri.nii.gz``, ``ct.nii.gz`` or what lies beside them. Each is to
be refused with one sentence or used; which of both is not said here, because some of the faults are harmless.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from raw_layouts import dicom_series

Maker = Callable[[Path, np.random.Generator], None]
MAKERS: dict[str, Maker] = {}
VOLUMES = ("mri.nii.gz", "ct.nii.gz")
_AWKWARD = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 1e-30, 1e30, 3.4e38)
#: Byte offsets of NIfTI-1 header fields and how they are packed.
_FIELDS = {
    "sizeof_hdr": (0, "i"),
    "dim0": (40, "h"),
    "dim1": (42, "h"),
    "dim3": (46, "h"),
    "dim4": (48, "h"),
    "datatype": (70, "h"),
    "bitpix": (72, "h"),
    "pixdim0": (76, "f"),
    "pixdim1": (80, "f"),
    "pixdim3": (88, "f"),
    "vox_offset": (108, "f"),
    "scl_slope": (112, "f"),
    "scl_inter": (116, "f"),
    "qform_code": (252, "h"),
    "sform_code": (254, "h"),
    "quatern_b": (256, "f"),
    "srow_x0": (280, "f"),
    "srow_y1": (300, "f"),
    "srow_z3": (324, "f"),
}


def _maker(function: Maker) -> Maker:
    MAKERS[function.__name__] = function
    return function


def _one_of(rng: np.random.Generator) -> str:
    return VOLUMES[int(rng.integers(2))]


def _raw(path: Path) -> bytearray:
    return bytearray(gzip.decompress(path.read_bytes()))


def _put(path: Path, raw: bytes) -> None:
    path.write_bytes(gzip.compress(bytes(raw), 1))


def _rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> None:
    image = nib.load(path)
    array = change(np.asarray(image.dataobj, dtype=np.float32))
    nib.save(nib.Nifti1Image(array, image.affine if affine is None else affine), path)


@_maker
def header_field(folder: Path, rng: np.random.Generator) -> None:
    """One header field gets a value that no file should hold."""
    path = folder / _one_of(rng)
    raw = _raw(path)
    offset, kind = _FIELDS[list(_FIELDS)[int(rng.integers(len(_FIELDS)))]]
    value = int(rng.choice([-32768, -1, 0, 1, 7, 255, 30000, 32767])) if kind in "hi" else float(rng.choice(_AWKWARD))
    struct.pack_into("<" + kind, raw, offset, value)
    _put(path, raw)


@_maker
def header_bytes(folder: Path, rng: np.random.Generator) -> None:
    """Several random bytes of the header."""
    path = folder / _one_of(rng)
    raw = _raw(path)
    for at in rng.integers(0, 348, 6):
        raw[int(at)] = int(rng.integers(256))
    _put(path, raw)


@_maker
def one_bit_of_the_file(folder: Path, rng: np.random.Generator) -> None:
    """One flipped bit of the compressed file."""
    path = folder / _one_of(rng)
    packed = bytearray(path.read_bytes())
    packed[int(rng.integers(len(packed)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(packed)


@_maker
def cut_off(folder: Path, rng: np.random.Generator) -> None:
    """A file that ends early, from nothing to all but one byte."""
    path = folder / _one_of(rng)
    packed = path.read_bytes()
    path.write_bytes(packed[: int(rng.choice([0, 1, 40, len(packed) // 2, len(packed) - 1]))])


@_maker
def no_volume(folder: Path, rng: np.random.Generator) -> None:
    """Something else under the name of a volume."""
    path = folder / _one_of(rng)
    path.unlink()
    kind = int(rng.integers(5))
    if kind == 0:
        path.write_text("this is no volume\n")
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(path.name)  # points to itself
    elif kind == 3:
        path.write_bytes(gzip.compress(b"\0" * 1000))


@_maker
def claims_to_be_huge(folder: Path, rng: np.random.Generator) -> None:
    """A header of some gigavoxels before a few bytes, or zeros that unpack to far more than the file."""
    path = folder / _one_of(rng)
    raw = _raw(path)
    for k in range(3):
        struct.pack_into("<h", raw, 42 + 2 * k, int(rng.choice([5000, 30000, 32767])))
    _put(path, bytes(raw) + (b"\0" * 20_000_000 if rng.random() < 0.3 else b""))


@_maker
def affine(folder: Path, rng: np.random.Generator) -> None:
    """An affine that is singular, not finite, huge, tiny, sheared, mirrored or of other units."""
    path = folder / _one_of(rng)
    image = nib.load(path)
    matrix = image.affine.copy()
    kind = int(rng.integers(8))
    if kind == 0:
        matrix[:3, int(rng.integers(3))] = 0
    elif kind == 1:
        matrix[int(rng.integers(3)), int(rng.integers(4))] = rng.choice(_AWKWARD[:3])
    elif kind == 2:
        matrix[:3, :3] *= rng.choice([1e-4, 1e3])
    elif kind == 3:
        matrix[0, 1] = matrix[0, 0] * rng.uniform(0.1, 0.9)
    elif kind == 4:
        matrix[:3, int(rng.integers(3))] *= -1
    elif kind == 5:
        matrix[:3, 3] += rng.choice([50, 500, 1e6])
    elif kind == 6:
        matrix = matrix[:, rng.permutation(3).tolist() + [3]]
    out = nib.Nifti1Image(np.asarray(image.dataobj), None)
    out.header.set_sform(matrix, 1)
    out.header.set_qform(None if kind < 4 else image.affine, 0 if kind < 4 else 1)
    if kind == 7:
        out.header.set_xyzt_units(["meter", "micron", "unknown"][int(rng.integers(3))])
        out.header.set_sform(image.affine, 1)
    out.to_filename(path)


@_maker
def axes(folder: Path, rng: np.random.Generator) -> None:
    """Two, four or five axes; one voxel along one of them."""
    path = folder / _one_of(rng)
    kind = int(rng.integers(6))
    _rewrite(
        path,
        lambda a: [a[..., None], a[..., None, None], np.stack([a, a], -1), a[:, :, 0], a[:1], a[:, :, :1]][kind],
    )


@_maker
def voxel_type(folder: Path, rng: np.random.Generator) -> None:
    """Complex, RGB, integer and very wide voxels."""
    path = folder / _one_of(rng)
    image = nib.load(path)
    values = np.asarray(image.dataobj, dtype=np.float32)
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    kind = int(rng.integers(6))
    array = [
        lambda: values.astype(np.complex64),
        lambda: np.zeros(values.shape, rgb),
        lambda: np.clip(values, 0, 255).astype(np.uint8),
        lambda: values.astype(np.int32),
        lambda: values.astype(np.float64),
        lambda: values.astype(np.float64) * 1e300,
    ][kind]()
    nib.save(nib.Nifti1Image(array, image.affine), path)


@_maker
def values(folder: Path, rng: np.random.Generator) -> None:
    """Voxels that are not finite, constant, scaled, negated, shifted or noise."""
    path = folder / _one_of(rng)
    kind = int(rng.integers(10))

    def change(a: np.ndarray) -> np.ndarray:
        if kind < 3:
            where = rng.random(a.shape) < [0.001, 0.3, 1.0][kind]
            return np.where(where, np.float32(rng.choice(_AWKWARD[:3])), a)
        options = [np.full_like(a, 7), np.zeros_like(a), a * 10, -a, a + 5000, a * 1e-20]
        if kind < 9:
            return options[kind - 3]
        return rng.standard_normal(a.shape).astype(np.float32)

    _rewrite(path, change)


@_maker
def ct_padding(folder: Path, rng: np.random.Generator) -> None:
    """A CT whose field of view ends inside the grid, filled as programs fill it."""
    fill = float(rng.choice([0, -2000, -3024, -1024, 3071, np.nan]))

    def change(a: np.ndarray) -> np.ndarray:
        x, y = np.ogrid[: a.shape[0], : a.shape[1]]
        outside = np.hypot(x / a.shape[0] - 0.5, y / a.shape[1] - 0.5) > rng.uniform(0.2, 0.5)
        a[outside] = fill
        return a

    _rewrite(folder / "ct.nii.gz", change)


@_maker
def other_file(folder: Path, rng: np.random.Generator) -> None:
    """MRI and CT changed about, the same twice, or one of another place."""
    mri, ct = (folder / n for n in VOLUMES)
    kind = int(rng.integers(4))
    if kind == 0:
        shutil.copy(mri, ct)
    elif kind == 1:
        shutil.copy(ct, mri)
    elif kind == 2:
        mri.rename(folder / "x")
        ct.rename(mri)
        (folder / "x").rename(ct)
    else:
        half = nib.load(ct)
        nib.save(half.slicer[:, :, : max(half.shape[2] // 3, 1)], ct)


@_maker
def mask(folder: Path, rng: np.random.Generator) -> None:
    """Masks of other values, other grids, other places."""
    path = folder / str(rng.choice(["lesion_mask.nii.gz", "brain_mask.nii.gz", "bone_mask.nii.gz"]))
    image = nib.load(folder / "mri.nii.gz")
    shape, kind = image.shape[:3], int(rng.integers(7))
    array = [
        np.zeros(shape, np.uint8),
        np.full(shape, 2, np.uint8),
        rng.random(shape).astype(np.float32),
        np.full(shape, np.nan, np.float32),
        np.ones((3, 4, 5), np.uint8),
        np.ones((*shape, 2), np.uint8),
        -np.ones(shape, np.int16),
    ][kind]
    nib.save(nib.Nifti1Image(array, image.affine), path)


@_maker
def endings(folder: Path, rng: np.random.Generator) -> None:
    """Plain NIfTI under the name of a compressed one, and the other way round."""
    path = folder / _one_of(rng)
    if rng.random() < 0.5:
        path.write_bytes(_raw(path))
    else:
        path.rename(path.with_suffix(""))


_NEEDED_TAGS = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "RescaleIntercept",
    "PixelData",
    "Modality",
    "SeriesInstanceUID",
    "PatientID",
    "BitsAllocated",
)
#: Makers of DICOM folders with a fault: ``(slices' files, rng)``.
DICOM_FAULTS: dict[str, Callable[[list[Path], np.random.Generator], None]] = {}


def _dicom_fault(function: Callable[[list[Path], np.random.Generator], None]) -> Callable:
    DICOM_FAULTS[function.__name__] = function
    return function


def _edit(path: Path, **tags: object) -> None:
    import pydicom

    data = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            if name in data:
                delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path)


@_dicom_fault
def cut_slice(files: list[Path], rng: np.random.Generator) -> None:
    path = files[int(rng.integers(len(files)))]
    raw = path.read_bytes()
    path.write_bytes(raw[: int(rng.choice([0, 100, 300, len(raw) - 5]))])


@_dicom_fault
def missing_slice(files: list[Path], rng: np.random.Generator) -> None:
    files[len(files) // 2].unlink()


@_dicom_fault
def twice_the_slice(files: list[Path], rng: np.random.Generator) -> None:
    shutil.copy(files[0], files[0].with_name("again"))


@_dicom_fault
def missing_tag(files: list[Path], rng: np.random.Generator) -> None:
    name = str(rng.choice(_NEEDED_TAGS))
    for path in files if rng.random() < 0.5 else files[:1]:
        _edit(path, **{name: None})


@_dicom_fault
def junk_tag(files: list[Path], rng: np.random.Generator) -> None:
    import warnings

    tags: list[dict[str, object]] = [
        {"ImageOrientationPatient": ["0", "0", "0", "0", "0", "0"]},
        {"PixelSpacing": ["0", "0"]},
        {"PixelSpacing": ["-1", "1"]},
        {"RescaleSlope": "0"},
        {"SliceThickness": "1e30"},
        {"PatientID": "../../x/<b>"},
        {"SeriesDescription": "=cmd|' /C calc'!A0"},
        {"Rows": 1},
        {"ImagePositionPatient": ["0", "0", "1e9"]},
    ]
    chosen = tags[int(rng.integers(len(tags)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in files:
            _edit(path, **chosen)


@_dicom_fault
def no_preamble(files: list[Path], rng: np.random.Generator) -> None:
    for path in files:
        path.write_bytes(path.read_bytes()[132:])


def dicom_study(root: Path, case: Path, fault: str | None, rng: np.random.Generator, patient: str) -> None:
    """Write a case's two volumes as DICOM series below `root`, with a fault in one of them."""
    series: list[list[Path]] = []
    for name, modality in (("mri", "MR"), ("ct", "CT")):
        image = nib.load(case / f"{name}.nii.gz")
        array = np.asarray(image.dataobj, dtype=np.float32)
        top = max(float(array.max()), 1.0)
        if modality == "MR":
            array = array * (3000 / top)
        files = dicom_series(
            root / name, array, image.affine, modality, description=name, number=len(series) + 1, patient=patient
        )
        series.append(files)
    if fault is not None:
        DICOM_FAULTS[fault](series[int(rng.integers(2))], rng)


#: Names of case folders that a file system takes and a program may trip over.
NAMES = (
    "plain",
    "two words",
    "ünïcode",
    "患者",
    "run#1",
    "a$b",
    "$__import__('os').system('x')",
    "50%",
    "@dataset_dir",
    "=1+1",
    "<script>alert(1)",
    "quote'\"",
    "tab\there",
    "line\nbreak",
    "-dash",
    "007",
    "x" * 120,
    "semi;colon",
    "dot.dot..",
    os.fsdecode(b"not-utf8-\xff\xfe"),
)
