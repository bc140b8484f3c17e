# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from roi_fusion.data.nifti import read_nifti
from roi_fusion.errors import InputError

RNG = np.random.default_rng(5)
ARRAY = RNG.integers(-1000, 2000, (24, 26, 10)).astype(np.int16)
AFFINE = np.array([[-0.9, 0, 0, 20.0], [0, 0.8, 0, -13], [0, 0, 5, 3], [0, 0, 0, 1]])


def oblique() -> np.ndarray:
    out = AFFINE.copy()
    out[:3, :3] = Rotation.from_euler("xyz", [10, -20, 33], degrees=True).as_matrix() @ AFFINE[:3, :3]
    return out


def sheared() -> np.ndarray:
    out = AFFINE.copy()
    out[1, 2] = 1.6
    return out


def left_handed() -> np.ndarray:
    return oblique() @ np.diag([-1.0, 1, 1, 1])


def write(path: Path, sform: np.ndarray, codes: tuple[int, int], qform: np.ndarray | None = None, kind: type = nib.Nifti1Image):
    image = kind(ARRAY, sform)
    image.set_qform(sform if qform is None else qform, codes[1])
    image.set_sform(sform, codes[0])
    nib.save(image, path)
    return path


def changed(path: Path, change: Callable[[nib.Nifti1Header], None], packed: bool = True) -> Path:
    """A file with a header that nibabel itself would not write."""
    write(path, AFFINE, (1, 1))
    data = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    header = nib.Nifti1Header(data[:348], check=False)
    change(header)
    data = header.binaryblock + data[348:]
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 1), (4, 3)])
@pytest.mark.parametrize("place", [oblique, sheared, left_handed])
def test_every_affine_is_nibabels(place: Callable, codes: tuple[int, int], kind: type, ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"x{ending}", place(), codes, AFFINE, kind)
    volume, stored = read_nifti(path)
    image = nib.load(path)
    np.testing.assert_array_equal(volume.affine, image.affine)
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert (volume.array.dtype, stored) == (np.float32, np.int16)
    for form in ("sform", "qform"):
        assert volume.forms[f"{form}_code"] == int(image.header[f"{form}_code"])
        np.testing.assert_allclose(volume.forms[form], getattr(image, f"get_{form}")(), atol=1e-6)


def test_voxel_sizes_beside_an_sform_change_nothing(tmp_path: Path) -> None:
    """MONAI throws a tilted sform away for the qform where pixdim is not as long as its columns."""
    path = changed(tmp_path / "x.nii.gz", lambda h: h["pixdim"].__setitem__(slice(1, 4), [0.90001, 0.8, 4.9]))
    np.testing.assert_allclose(read_nifti(path)[0].affine, AFFINE, atol=1e-6)


def test_forms_that_disagree_are_told_from_1_mm_on(tmp_path: Path) -> None:
    for shift, told in ((0.9, []), (8.0, ["sform and qform disagree by up to 8.0 mm; the sform is taken"])):
        moved = AFFINE.copy()
        moved[0, 3] += shift
        assert read_nifti(write(tmp_path / "x.nii.gz", moved, (2, 1), AFFINE))[0].notes == told
    assert read_nifti(write(tmp_path / "x.nii.gz", moved, (2, 0), AFFINE))[0].notes == []


def test_a_qform_that_is_no_rotation_counts_only_where_it_is_needed(tmp_path: Path) -> None:
    def spoil(header: nib.Nifti1Header) -> None:
        header["quatern_b"] = header["quatern_c"] = 3.0

    volume, _ = read_nifti(changed(tmp_path / "x.nii.gz", spoil))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
    assert volume.notes == ["the qform cannot be used and is left out of results"]
    assert volume.forms["qform_code"] == 0


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0), ("unknown", 1.0)])
def test_units_become_millimetres(unit: str, factor: float, tmp_path: Path) -> None:
    scaled = np.diag([1 / factor] * 3 + [1]) @ AFFINE
    image = nib.Nifti1Image(ARRAY, scaled)
    image.header.set_xyzt_units(unit)
    image.set_qform(scaled, 1)
    nib.save(image, tmp_path / "x.nii.gz")
    volume, _ = read_nifti(tmp_path / "x.nii.gz")
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
    np.testing.assert_allclose(volume.forms["qform"], AFFINE, atol=1e-4)
    assert len(volume.notes) == (factor != 1)


@pytest.mark.parametrize("further", [(1,), (1, 1), (1, 1, 1, 1)])
def test_further_axes_of_length_1_are_left_out(further: tuple[int, ...], tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(ARRAY.reshape(*ARRAY.shape, *further), AFFINE), tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "x.nii.gz")[0].array, ARRAY)


@pytest.mark.parametrize("ending", [".mgz", ".mgh"])
def test_mgh_is_read(ending: str, tmp_path: Path) -> None:
    nib.save(nib.MGHImage(ARRAY.astype(np.float32), oblique()), tmp_path / f"x{ending}")
    volume, _ = read_nifti(tmp_path / f"x{ending}")
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_array_equal(volume.affine, nib.load(tmp_path / f"x{ending}").affine)
    np.testing.assert_allclose(volume.affine, oblique(), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda h: h["srow_x"].__setitem__(0, np.nan), "affine of finite numbers"),
        (lambda h: h["srow_z"].__setitem__(2, np.inf), "affine of finite numbers"),
        (lambda h: h["srow_x"].__setitem__(slice(0, 3), 0), "expected voxels of"),
        (lambda h: h["srow_x"].__setitem__(0, 1e9), "expected voxels of"),
        (lambda h: h["pixdim"].__setitem__(2, np.nan), "expected voxel sizes above 0, got 0.9 × nan × 5"),
        (lambda h: h["pixdim"].__setitem__(2, np.inf), "expected voxel sizes above 0"),
        (lambda h: h["pixdim"].__setitem__(3, 0), "expected voxel sizes above 0"),
        (lambda h: h.__setitem__("datatype", 32), "got complex voxels"),
        (lambda h: h.__setitem__("datatype", 128), r"got colour \(RGB\) voxels"),
        (lambda h: h.__setitem__("vox_offset", 1e10), "got an offset of"),
        (lambda h: h["dim"].__setitem__(slice(0, 4), [3, 30_000, 30_000, 4]), "got a header that says 30000×30000×4"),
        (lambda h: h["dim"].__setitem__(slice(0, 4), [3, 24, 26, 11]), "expected a readable volume"),
        (lambda h: h["dim"].__setitem__(slice(0, 5), [4, 24, 26, 5, 2]), r"expected a 3-D volume, got shape \[24, 26, 5, 2\]"),
        (lambda h: h["dim"].__setitem__(slice(0, 4), [3, 24, -26, 10]), "expected a 3-D volume"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_headers_are_refused_in_one_sentence(change: Callable, sentence: str, packed: bool, tmp_path: Path) -> None:
    path = changed(tmp_path / f"x.nii{'.gz' * packed}", change, packed)
    with pytest.raises(InputError, match=sentence) as refused:
        read_nifti(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_ending_must_say_what_the_file_is(tmp_path: Path) -> None:
    packed, plain = write(tmp_path / "x.nii.gz", AFFINE, (1, 1)), write(tmp_path / "y.nii", AFFINE, (1, 1))
    for source, name, came in ((packed, "z.nii", "got gzip data"), (plain, "z.nii.gz", "got no gzip data")):
        (tmp_path / name).write_bytes(source.read_bytes())
        with pytest.raises(InputError, match=f"expected a readable volume, {came}"):
            read_nifti(tmp_path / name)


@pytest.mark.parametrize("ending", [".nii.gz", ".mgz"])
def test_a_damaged_bit_is_refused_or_harmless(ending: str, tmp_path: Path) -> None:
    kind = {".nii.gz": nib.Nifti1Image, ".mgz": nib.MGHImage}[ending]
    nib.save(kind(ARRAY.astype(np.float32), AFFINE), tmp_path / f"x{ending}")
    data = (tmp_path / f"x{ending}").read_bytes()
    refused, rng = 0, np.random.default_rng(1)
    for bit in [*range(0, 80, 4), *rng.integers(80, 8 * len(data), 40)]:  # the gzip header too
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        (tmp_path / f"y{ending}").write_bytes(damaged)
        try:
            array = read_nifti(tmp_path / f"y{ending}")[0].array
        except (InputError, OSError, EOFError, ValueError, zlib.error):  # read_volume makes one sentence of any
            refused += 1
        else:
            np.testing.assert_array_equal(array, ARRAY)
    assert refused >= 40


@pytest.mark.parametrize("claim", [(30_000, 30_000, 20), (16_000, 16_000, 1), (24, 26, 10)])
def test_a_bomb_takes_no_memory(claim: tuple[int, int, int], tmp_path: Path) -> None:
    """A gigabyte of zeros in a megabyte: refused by its header, or behind the voxels that the header tells."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header["dim"][:4] = 3, *claim
    header["pixdim"][1:4], header["sform_code"], header["vox_offset"] = 1, 1, 352
    header.set_sform(np.diag([0.05, 0.05, 1, 1]), 1)
    with gzip.open(tmp_path / "x.nii.gz", "wb", compresslevel=9) as f:
        f.write(header.binaryblock + bytes(4))
        for _ in range(64 if claim == (24, 26, 10) else 1):
            f.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"at most 268,435,456 voxels|too short|goes on behind"):
        read_nifti(tmp_path / "x.nii.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20
