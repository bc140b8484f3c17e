# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from scipy.ndimage import map_coordinates

from conftest import shared
from raw_layouts import dicom_series
from roi_fusion.data.grids import shear_mm
from roi_fusion.data.io import read_volume, scan_dicom
from roi_fusion.errors import InputError

pytest.importorskip("itk")

AFFINE = np.array([[-0.9, 0, 0, 20.0], [0, -0.8, 0, 13], [0, 0, 5, 3], [0, 0, 0, 1]])


@pytest.fixture
def ct() -> np.ndarray:
    """A ball of water with a shell of bone in air, `[24, 26, 10]`."""
    x, y, z = np.mgrid[:24, :26, :10]
    r = np.sqrt((x - 12) ** 2 + (y - 12) ** 2 + (2.0 * (z - 5)) ** 2)
    return np.where(r < 8, 40 + x, np.where(r < 9.5, 900, -1000)).astype(np.int16)


def rewrite(file: Path, change: Callable[[Any], None], **how: Any) -> None:
    header = pydicom.dcmread(file)
    change(header)
    header.save_as(file, **how)


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


def bottom_up(files: list[Path]) -> list[Path]:
    return sorted(files, key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))


def test_a_slice_without_scaling_takes_that_of_the_others(ct: np.ndarray, tmp_path: Path) -> None:
    files = dicom_series(tmp_path, ct, AFFINE, "CT")
    rewrite(files[3], lambda h: h.__delitem__("RescaleIntercept"))
    rewrite(files[4], lambda h: (h.__delitem__("RescaleIntercept"), h.__delitem__("RescaleSlope")))
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, ct)
    assert volume.notes == ["2 slices without RescaleSlope or RescaleIntercept took those of the others"]
    rewrite(files[5], lambda h: setattr(h, "RescaleIntercept", -1000))
    with pytest.raises(InputError, match="got 2 without, and 2 different ones in the others"):
        read_volume(tmp_path)


def test_a_scout_inside_a_series_is_passed_over(ct: np.ndarray, tmp_path: Path) -> None:
    files = dicom_series(tmp_path, ct, AFFINE, "CT")
    (scout,) = dicom_series(tmp_path, ct[:, :, :1], AFFINE[:, [0, 2, 1, 3]], "CT", number=9)
    rewrite(scout, lambda h: setattr(h, "SeriesInstanceUID", pydicom.dcmread(files[0]).SeriesInstanceUID))
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, ct)
    assert volume.notes == ["1 images of another orientation or size (scouts) passed over"]


def uneven(folder: Path, ct: np.ndarray, heights: list[float], thickness: list[float], tilt: float = 0.0) -> None:
    """A series whose slices lie at these heights, in mm above the first."""
    for file, height, thick in zip(bottom_up(dicom_series(folder, ct, AFFINE, "CT")), heights, thickness):

        def move(header: Any, height: float = height, thick: float = thick) -> None:
            header.ImagePositionPatient = ["-20", f"{-13 + tilt * height:.6f}", f"{3 + height:.6f}"]
            header.SliceThickness = thick

        rewrite(file, move)


@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_a_thin_base_and_a_thick_vault_make_one_grid(tilt: float, tmp_path: Path) -> None:
    heights = [0, 4, 8, 12, 16, 17, 24, 31, 38, 45.0]  # they overlap where they meet
    x, y, _ = np.mgrid[:24, :26, :10]
    ct = (-1000 + 10 * x + 20 * np.asarray(heights) + 0 * y).astype(np.int16)  # linear: any interpolation gives it exactly
    ct[0, 0] = 2000  # bone, so that it looks like a CT
    uneven(tmp_path, ct, heights, [4] * 5 + [7] * 5, tilt)
    volume = read_volume(tmp_path)
    assert volume.notes[0] == "slices every 4 mm and every 7 mm resampled to every 4 mm"
    assert [n[:11] for n in volume.notes[1:]] == (["gantry tilt"] if tilt else [])
    assert volume.resampled
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, 2]), 4.0, atol=1e-6)
    for height in (0, 5, 15, 20, 40):  # millimetres to voxels and back
        place = np.array([20 - 0.9 * 7, 13 - 0.8 * 11 - tilt * height, 3 + height, 1.0])
        index = np.linalg.inv(volume.affine) @ place
        value = map_coordinates(volume.array, index[:3, None], order=1)[0]
        assert value == pytest.approx(-1000 + 10 * 7 + 20 * height, abs=1)


@pytest.mark.parametrize(
    ("heights", "thickness"),
    [
        ([0, 5, 10, 15, 20, 30, 40, 50, 60, 70.0], [5] * 10),  # every second slice of the vault is lost
        ([0, 5, 10, 15, 20, 35, 40, 45, 50, 55.0], [5] * 10),  # a hole
        ([0, 4, 8, 12, 16, 27, 34, 41, 48, 55.0], [4] * 5 + [7] * 5),  # a hole where they meet
        ([0, 4, 8, 12, 15, 26, 29, 41, 48, 55.0], [4] * 10),
        ([0] * 10, [5] * 10),
    ],
)
def test_lost_slices_are_no_second_spacing(
    heights: list[float], thickness: list[float], ct: np.ndarray, tmp_path: Path
) -> None:
    uneven(tmp_path, ct, heights, thickness, 0.1)
    with pytest.raises(InputError, match=r"slices are missing|each slice position once"):
        read_volume(tmp_path)


@pytest.mark.slow
def test_a_scanner_s_own_series_of_two_spacings(tmp_path: Path) -> None:
    """28 slices, 4 and 7 mm, 1.08 mm apart where they meet, gantry tilt 18.5°: their pixels are found where headers say."""
    import tarfile

    with tarfile.open(shared("data/real/ge_head_ct_dicom.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    volume = read_volume(tmp_path)
    assert volume.notes == ["slices every 4 mm and every 7 mm resampled to every 4 mm", "gantry tilt of 18.5° corrected"]
    rows, columns = (a.ravel() for a in np.meshgrid(*[np.arange(20, 500, 24)] * 2, indexing="ij"))
    for file in bottom_up([p for p in tmp_path.rglob("*.dcm")])[:14]:  # the thin part is interpolated in the plane alone
        header = pydicom.dcmread(file)
        turn, spacing = np.array(header.ImageOrientationPatient, float), np.array(header.PixelSpacing, float)
        lps = np.array(header.ImagePositionPatient, float)[:, None] + np.outer(turn[:3], columns * spacing[1])
        ras = np.diag([-1, -1, 1]) @ (lps + np.outer(turn[3:], rows * spacing[0]))
        index = np.linalg.inv(volume.affine) @ np.vstack([ras, np.ones(rows.size)])
        found = map_coordinates(volume.array, index[:3], order=1, mode="nearest")
        expected = np.maximum(
            header.pixel_array[rows, columns] * float(header.RescaleSlope) + float(header.RescaleIntercept), -1024
        )
        assert np.median(np.abs(found - expected)) < 3


@pytest.mark.parametrize(
    ("tag", "value"), [("ImageOrientationPatient", [0] * 6), ("ImagePositionPatient", None), ("PixelSpacing", [0, 0])]
)
def test_slices_without_a_place_are_refused(tag: str, value: Any, ct: np.ndarray, tmp_path: Path) -> None:
    files = dicom_series(tmp_path, ct, AFFINE, "CT")
    for file in files:
        rewrite(file, lambda h: setattr(h, tag, value))
    with pytest.raises(InputError, match="expected position, orientation and pixel spacing in every header, got 10 slices"):
        read_volume(tmp_path)


def test_a_huge_matrix_is_refused_before_its_pixels_are_read(ct: np.ndarray, tmp_path: Path) -> None:
    for file in dicom_series(tmp_path, ct, AFFINE, "CT"):
        rewrite(file, lambda h: (setattr(h, "Rows", 30_000), setattr(h, "Columns", 30_000)))
    with pytest.raises(InputError, match="got a header that says 30000×30000×10"):
        read_volume(tmp_path)
