# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from dicom_multiframe import enhanced
from raw_layouts import dicom_series
from roi_fusion.data.io import read_volume
from roi_fusion.errors import InputError

pytest.importorskip("itk")

AFFINE = np.array([[-0.9, 0, 0, 20.0], [0, -0.8, 0, 13], [0, 0, 5, 3], [0, 0, 0, 1]])
CT = np.random.default_rng(0).integers(-1000, 2000, (64, 72, 6))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless], ids=lambda s: s.name)
def test_compressed_series_are_read_voxel_for_voxel(syntax: pydicom.uid.UID, tmp_path: Path) -> None:
    for file in dicom_series(tmp_path / "single", CT, AFFINE, "CT"):
        header = pydicom.dcmread(file)
        header.compress(syntax, generate_instance_uid=False)
        header.save_as(file)
    np.testing.assert_array_equal(read_volume(tmp_path / "single").array, CT)
    enhanced(tmp_path / "multi" / "ct.dcm", [CT], AFFINE, "CT", scaling=(1.0, -1024.0), syntax=syntax)
    np.testing.assert_array_equal(read_volume(tmp_path / "multi").array, CT)


def test_a_compression_that_no_package_reads_is_named(tmp_path: Path) -> None:
    """JPEG lossless in a multi-frame file: its package has another licence and is no part of the extra."""
    file = enhanced(tmp_path / "ct.dcm", [CT], AFFINE, "CT", scaling=(1.0, -1024.0), syntax=RLELossless)
    header = pydicom.dcmread(file)
    header.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    header.save_as(file)
    with pytest.raises(
        InputError, match=r"ct.dcm: expected a package that reads JPEG Lossless.*pip install pylibjpeg-libjpeg\)"
    ):
        read_volume(tmp_path)


def test_inverted_grey_values(tmp_path: Path) -> None:
    """A CT's numbers are HU whatever the display does; an MRI's are turned, so that air is dark."""
    mri = np.random.default_rng(0).integers(0, 900, (64, 72, 6))
    for folder, array, modality in ((tmp_path / "ct", CT, "CT"), (tmp_path / "mr", mri, "MR")):
        for file in dicom_series(folder, array, AFFINE, modality):
            header = pydicom.dcmread(file)
            header.PhotometricInterpretation = "MONOCHROME1"
            header.save_as(file)
    ct = read_volume(tmp_path / "ct")
    np.testing.assert_array_equal(ct.array, CT)
    assert ct.notes == []
    inverted = read_volume(tmp_path / "mr")
    np.testing.assert_array_equal(inverted.array, mri.max() + mri.min() - mri)
    assert inverted.notes == ["grey values inverted, as the header says that low ones are bright (MONOCHROME1)"]


def test_broken_pixels_are_refused(tmp_path: Path) -> None:
    file = enhanced(tmp_path / "ct.dcm", [CT], AFFINE, "CT", scaling=(1.0, -1024.0))
    header = pydicom.dcmread(file)
    header.PixelData = header.PixelData[:100]
    header.save_as(file)
    with pytest.raises(InputError, match="expected readable pixels, got"):
        read_volume(tmp_path)
