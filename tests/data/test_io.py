# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from raw_layouts import dicom_series, save
from roi_fusion.data.grids import shear_mm
from roi_fusion.data.io import Volume, check_pair, looks_like_ct, read_volume, scan_dicom
from roi_fusion.errors import InputError

itk = pytest.importorskip("itk")

AFFINE = np.array([[-0.9, 0, 0, 20.0], [0, -0.8, 0, 13], [0, 0, 5, 3], [0, 0, 0, 1]])


@pytest.fixture
def ct() -> np.ndarray:
    """A ball of water with a shell of bone in air, `[24, 26, 10]`."""
    x, y, z = np.mgrid[:24, :26, :10]
    r = np.sqrt((x - 12) ** 2 + (y - 12) ** 2 + (2.0 * (z - 5)) ** 2)
    return np.where(r < 8, 40 + x, np.where(r < 9.5, 900, -1000)).astype(np.int16)


def test_dicom_is_sorted_scaled_and_placed(ct: np.ndarray, tmp_path: Path) -> None:
    dicom_series(tmp_path, ct, AFFINE, "CT", intercept=-1024.0)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, ct)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
    assert (volume.modality, volume.notes) == ("ct", [])


def test_slope_and_intercept_of_an_mri(tmp_path: Path) -> None:
    mri = np.arange(5 * 6 * 4).reshape(5, 6, 4) * 0.5 + 3
    dicom_series(tmp_path, mri, AFFINE, "MR", slope=0.5, intercept=3.0)
    np.testing.assert_allclose(read_volume(tmp_path).array, mri)


def test_a_missing_slice_is_refused(ct: np.ndarray, tmp_path: Path) -> None:
    files = dicom_series(tmp_path, ct, AFFINE, "CT")
    files[4].unlink()
    with pytest.raises(InputError, match=r"expected evenly spaced slices, got a step of 10.00 mm where the others are 5.00 mm"):
        read_volume(tmp_path)


def test_a_tilted_gantry_is_corrected(ct: np.ndarray, tmp_path: Path) -> None:
    dicom_series(tmp_path, ct, AFFINE, "CT", tilt_mm=1.6)  # two pixels a slice, about 18 degrees
    volume = read_volume(tmp_path)
    assert volume.notes == ["gantry tilt of 17.7° corrected"]
    assert np.abs(shear_mm(volume.array.shape, volume.affine)).max() < 1e-3
    tilted = AFFINE.copy()
    tilted[1, 2] = -1.6
    for index in np.argwhere(ct > 500)[::40]:  # every bone voxel lies where the tilted scanner saw it
        there = np.linalg.inv(volume.affine) @ tilted @ [*index, 1]
        assert volume.array[tuple(np.round(there[:3]).astype(int))] == pytest.approx(900, abs=1)


def test_a_localiser_and_other_series_are_told(ct: np.ndarray, tmp_path: Path) -> None:
    dicom_series(tmp_path, ct, AFFINE, "CT", description="Topogram 0.6")
    with pytest.raises(InputError, match=r"expected one DICOM series with a volume, got 0 .*a localiser"):
        read_volume(tmp_path)
    three_planes = tmp_path / "planes"
    for number, turn in enumerate(((0, 1, 2), (2, 0, 1))):
        files = dicom_series(three_planes, ct[..., :3], AFFINE[:, [*turn, 3]], "MR", number=number)
        for file in files:
            header = pydicom.dcmread(file)
            header.SeriesInstanceUID, header.SeriesNumber = "1.2.3", 1
            header.save_as(file)
    assert scan_dicom(three_planes.iterdir())[0].why_no_volume() == "a localiser (2 orientations in one series)"


def test_of_two_b_values_the_higher_is_taken_and_other_repeats_are_refused(tmp_path: Path) -> None:
    low = dicom_series(tmp_path, np.full((5, 6, 4), 10), AFFINE, "MR", description="ep2d", number=1)
    high = dicom_series(tmp_path, np.full((5, 6, 4), 70), AFFINE, "MR", description="ep2d", number=2)
    for files, b in ((low, 0.0), (high, 1000.0)):
        for file in files:
            header = pydicom.dcmread(file)
            header.SeriesInstanceUID, header.DiffusionBValue = "1.2.3", b
            header.save_as(file)
    assert (read_volume(tmp_path).array == 70).all()
    for file in (*low, *high):
        header = pydicom.dcmread(file)
        del header.DiffusionBValue
        header.save_as(file)
    with pytest.raises(InputError, match="expected each slice position once, got positions that repeat"):
        read_volume(tmp_path)


@pytest.mark.parametrize("ending", ["nii.gz", "mha", "nrrd"])
def test_all_formats_agree(ending: str, ct: np.ndarray, tmp_path: Path) -> None:
    nifti = save(tmp_path / "x.nii.gz", ct, AFFINE)
    path = tmp_path / f"y.{ending}"
    itk.imwrite(itk.imread(str(nifti)), str(path))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, ct)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)


def test_no_orientation_is_refused(ct: np.ndarray, tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", ct, AFFINE)
    image = nib.load(path)
    image.header["sform_code"] = image.header["qform_code"] = 0  # type: ignore[attr-defined]
    bare = nib.Nifti1Image(ct, None)
    nib.save(bare, path)
    with pytest.raises(InputError, match=r"expected an orientation \(sform or qform\), got none"):
        read_volume(path)
    nrrd = tmp_path / "x.nrrd"
    nrrd.write_bytes(b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\nendian: little\n\n" + bytes(16))
    with pytest.raises(InputError, match=r"expected an orientation \(space directions"):
        read_volume(nrrd)


def test_what_is_no_volume_is_refused(ct: np.ndarray, tmp_path: Path) -> None:
    for name, content, sentence in (
        ("x.nii.gz", b"not gzip", "expected a readable volume"),
        ("x.mha", b"ObjectType = Image\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n", "expected a readable volume"),
        ("x.txt", b"", "another ending"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=sentence):
            read_volume(tmp_path / name)
    with pytest.raises(InputError, match="found no such file"):
        read_volume(tmp_path / "none.nii")
    with pytest.raises(InputError, match="expected a 3-D volume, got shape"):
        read_volume(save(tmp_path / "t.nii.gz", np.stack([ct, ct], -1), AFFINE))
    bad = ct.astype(np.float32)
    bad[0, 0, :4] = np.nan
    with pytest.raises(InputError, match="got 4 NaN"):
        read_volume(save(tmp_path / "n.nii.gz", bad, AFFINE))


def test_a_16_bit_overflow_is_refused(ct: np.ndarray, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(ct.astype(np.uint16), AFFINE), tmp_path / "x.nii.gz")  # air at 64536
    with pytest.raises(InputError, match=r"expected values that fit their 16 bits, got .* an overflow"):
        read_volume(tmp_path / "x.nii.gz")


def test_pairs_are_checked(ct: np.ndarray) -> None:
    mri = np.where(ct > -500, 300.0, 0.0).astype(np.float32)
    mri[12:14] += 200
    good = ct.astype(np.float32)

    def volumes(m: np.ndarray, c: np.ndarray) -> tuple[Volume, Volume]:
        return Volume(m, AFFINE, "m.nii"), Volume(c, AFFINE, "c.nii")

    assert looks_like_ct(good)
    assert not looks_like_ct(mri)
    check_pair(*volumes(mri, good))
    with pytest.raises(InputError, match=r"m\.nii: expected the MRI, got values of a CT: MRI and CT \(c\.nii\) look swapped"):
        check_pair(*volumes(good, mri))
    with pytest.raises(InputError, match=r"m\.nii: expected the MRI, got values of a CT like c\.nii"):
        check_pair(*volumes(good, good))
    with pytest.raises(InputError, match=r"c\.nii: expected CT in HU \(air"):
        check_pair(*volumes(mri, (good + 1000) / 20))
    with pytest.raises(InputError, match="16-bit overflow"):
        check_pair(*volumes(mri, np.where(good > 500, 40_000, good)))
    padded = np.where(good < -900, -3024, good)
    mri_volume, ct_volume = volumes(mri, padded)
    check_pair(mri_volume, ct_volume)
    assert ct_volume.array.min() == -1024
    with pytest.raises(InputError, match="expected the CT, got a series of modality MRI"):
        check_pair(Volume(mri, AFFINE, "m"), Volume(good, AFFINE, "c", modality="mr"))
