# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from raw_layouts import dicom_series, save
from roi_fusion.data.io import Volume, check_pair, dicom_series_of, looks_like_ct, read_volume
from roi_fusion.errors import InputError

itk = pytest.importorskip("itk")

AFFINE = np.array([[-0.9, 0, 0, 20.0], [0, -0.8, 0, 13], [0, 0, 5, 3], [0, 0, 0, 1]])


@pytest.fixture
def ct() -> np.ndarray:
    """A ball of water with a shell of bone in air, `[24, 26, 10]`."""
    x, y, z = np.mgrid[:24, :26, :10]
    r = np.sqrt((x - 12) ** 2 + (y - 12) ** 2 + (2.0 * (z - 5)) ** 2)
    return np.where(r < 8, 40 + x, np.where(r < 9.5, 900, -1000)).astype(np.int16)


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


def test_as_stored_leaves_nan_shear_and_place_to_the_caller(ct: np.ndarray, tmp_path: Path) -> None:
    bad = ct.astype(np.float32)
    bad[0, 0, :4] = np.nan
    tilted = AFFINE.copy()
    tilted[1, 2] = 1.6
    volume = read_volume(save(tmp_path / "n.nii.gz", bad, tilted), as_stored=True)
    np.testing.assert_array_equal(volume.array, bad)
    np.testing.assert_allclose(volume.affine, tilted, atol=1e-6)
    nib.save(nib.Nifti1Image(ct, None), tmp_path / "b.nii.gz")
    bare = read_volume(tmp_path / "b.nii.gz", as_stored=True)
    assert not bare.placed
    np.testing.assert_array_equal(bare.affine, nib.load(tmp_path / "b.nii.gz").affine)


def test_a_sheared_file_is_straightened(ct: np.ndarray, tmp_path: Path) -> None:
    tilted = AFFINE.copy()
    tilted[1, 2] = 1.6
    volume = read_volume(save(tmp_path / "x.nii.gz", ct, tilted))
    assert (volume.notes, volume.resampled) == (["gantry tilt of 17.7° corrected"], True)


def test_of_several_series_in_a_folder_none_is_taken(ct: np.ndarray, tmp_path: Path) -> None:
    dicom_series(tmp_path, ct, AFFINE, "CT", description="thin", number=1)
    dicom_series(tmp_path, ct, AFFINE, "CT", description="thick", number=2)
    both = r"series 1: a volume \(CT\); series 2: a volume \(CT\)"
    with pytest.raises(InputError, match=rf"expected one DICOM series with a volume, got 2 \({both}\)"):
        read_volume(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"got 0 \(no DICOM file\)"):
        read_volume(tmp_path / "empty")


def test_a_list_of_files_is_a_series(ct: np.ndarray, tmp_path: Path) -> None:
    """With commas between; what lies beside them does not count."""
    files = dicom_series(tmp_path, ct, AFFINE, "CT", number=1)
    dicom_series(tmp_path, ct, AFFINE, "CT", number=2)
    listed = ",".join(map(str, reversed(files)))
    np.testing.assert_array_equal(read_volume(listed, role="ct").array, ct)
    with pytest.raises(InputError, match="absent: expected a DICOM file, found no such file"):
        read_volume(f"{files[0]},{tmp_path / 'absent'}")
    comma = tmp_path / "a,b"
    comma.mkdir()
    dicom_series(comma, ct, AFFINE, "CT")
    np.testing.assert_array_equal(read_volume(comma).array, ct)  # a folder's own name


def test_a_file_and_what_lies_beside_it_are_read_once(ct: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pydicom

    files, read = dicom_series(tmp_path, ct, AFFINE, "CT"), pydicom.dcmread
    seen: list[Path] = []
    monkeypatch.setattr(pydicom, "dcmread", lambda path, **how: (seen.append(Path(path)), read(path, **how))[1])
    assert dicom_series_of(files[0]) is not None
    assert sorted(seen) == sorted(files)


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
