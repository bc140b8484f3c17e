# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_multiframe import enhanced, mosaic
from dicom_study import oblique, results_of
from roi_fusion.data.io import read_volume
from roi_fusion.errors import InputError

AFFINE = np.array([[-0.9, 0, 0, 20.0], [0, -0.8, 0, 13], [0, 0, 5, 3], [0, 0, 0, 1]])
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("affine", [AFFINE, oblique()], ids=["axial", "oblique"])
def test_an_enhanced_ct_is_read_voxel_for_voxel(affine: np.ndarray, tmp_path: Path) -> None:
    ct = RNG.integers(-1000, 2000, (7, 9, 6))
    enhanced(tmp_path / "ct.dcm", [ct], affine, "CT", scaling=(1.0, -1024.0))
    for source in (tmp_path, tmp_path / "ct.dcm"):  # a folder, and a file
        volume = read_volume(source)
        np.testing.assert_array_equal(volume.array, ct)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
        assert volume.modality == "ct"


def test_of_an_enhanced_diffusion_series_the_highest_b_value_is_taken(tmp_path: Path) -> None:
    low, high = RNG.integers(0, 900, (2, 7, 9, 6))
    enhanced(tmp_path / "mr.dcm", [high, low], oblique(), "MR", b_values=(1000, 0), scaling=(0.5, 0.0))
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, high)
    assert volume.notes == ["images of b value 1000 taken, those of 0 passed over"]


def test_an_adc_map_beside_its_images_is_taken(tmp_path: Path) -> None:
    trace, adc = RNG.integers(0, 900, (2, 7, 9, 6))
    types = ("ORIGINAL\\PRIMARY\\DIFFUSION\\NONE", "DERIVED\\PRIMARY\\DIFFUSION\\ADC")
    enhanced(tmp_path / "mr.dcm", [trace, adc], AFFINE, "MR", frame_types=types)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, adc)
    assert volume.notes == ["of 2 kinds of images in one series, those of type ADC taken"]


@pytest.mark.parametrize("affine", [AFFINE, oblique()], ids=["axial", "oblique"])
@pytest.mark.parametrize("count", [4, 7])
def test_a_mosaic_is_read_voxel_for_voxel(affine: np.ndarray, count: int, tmp_path: Path) -> None:
    array = RNG.integers(0, 900, (8, 10, count))
    mosaic(tmp_path / "m.dcm", array, affine)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-3)


def test_a_mosaic_without_its_private_header_is_refused(tmp_path: Path) -> None:
    file = mosaic(tmp_path / "m.dcm", RNG.integers(0, 900, (8, 10, 7)), AFFINE)
    header = pydicom.dcmread(file)
    del header[0x0029, 0x1010]
    header.save_as(file)
    with pytest.raises(InputError, match=r"expected one DICOM series with a volume, got 0 .*a localiser \(1 images\)"):
        read_volume(tmp_path)


def test_a_frame_without_a_place_is_refused(tmp_path: Path) -> None:
    file = enhanced(tmp_path / "ct.dcm", [RNG.integers(-1000, 2000, (7, 9, 6))], AFFINE, "CT", scaling=(1.0, -1024.0))
    header = pydicom.dcmread(file)
    del header.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    header.save_as(file)
    with pytest.raises(
        InputError, match="expected position, orientation and pixel spacing in every header, got 1 slices without"
    ):
        read_volume(tmp_path)


def test_fewer_frames_than_the_header_says_are_refused(tmp_path: Path) -> None:
    file = enhanced(tmp_path / "ct.dcm", [RNG.integers(-1000, 2000, (7, 9, 6))], AFFINE, "CT", scaling=(1.0, -1024.0))
    header = pydicom.dcmread(file)
    header.NumberOfFrames, header.PixelData = 2, header.PixelData[: 2 * 7 * 9 * 2]
    header.save_as(file)
    with pytest.raises(InputError, match=r"ct.dcm: expected \d frames, got 2"):
        read_volume(tmp_path)


def test_results_on_an_enhanced_mri_refer_to_its_frames(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    from roi_fusion.data.dicom_out.write import write_dicom

    mri = enhanced(tmp_path / "mr" / "mr.dcm", [RNG.integers(0, 900, (12, 14, 5))], oblique(), "MR")
    written = write_dicom(results_of(tmp_path / "case", mri.parent), mri.parent)
    source = pydicom.dcmread(mri)
    frames = [f.PlanePositionSequence[0].ImagePositionPatient for f in source.PerFrameFunctionalGroupsSequence]
    for file in written["fused"]:
        header = pydicom.dcmread(file)
        (item,) = header.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID
        np.testing.assert_allclose(frames[item.ReferencedFrameNumber - 1], header.ImagePositionPatient, atol=1e-3)
    assert pydicom.dcmread(written["lesion"][0]).pixel_array.sum() == 4 * 5 * 2 + 1
