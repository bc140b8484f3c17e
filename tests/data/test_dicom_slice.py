# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset

from roi_fusion.data.dicom_slice import DicomSlice, b_value, number_of, numbers_of, text_of, whole_of


def test_an_empty_header_says_nothing() -> None:
    one = DicomSlice.of(Path("x"), Dataset())
    assert not one.placed
    assert np.isnan(one.slope)
    assert (one.size, one.samples, one.uid, one.inverted) == ((0, 0), 1, "", False)
    header = Dataset()
    assert (text_of(header, "Modality"), whole_of(header, "SeriesNumber"), b_value(header)) == ("", 0, "")
    assert np.isnan(number_of(header, "SliceThickness"))
    assert np.isnan(numbers_of(header, "PixelSpacing", 2)).all()


def test_b_values_of_makers() -> None:
    for tag, vr, value in ((0x0019100C, "IS", "800"), (0x20011003, "FL", 800.0), (0x00431039, "IS", [1000000800, 8])):
        header = Dataset()
        header.add_new(tag, vr, value)
        assert b_value(header) == "800"
    unknown = Dataset()
    unknown.add_new(0x00431039, "UN", rb"1000000800\8\0\0")
    assert b_value(unknown) == "800"
    unknown.add_new(0x00431039, "UN", b"junk")
    assert b_value(unknown) == ""


def test_images_go_together_by_size_and_orientation() -> None:
    header = Dataset()
    header.Rows, header.Columns, header.ImageOrientationPatient = 4, 5, [1, 0, 0, 0, 1, 0]
    one = DicomSlice.of(Path("x"), header)
    assert one.goes_with(one)
    header.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
    assert not one.goes_with(DicomSlice.of(Path("x"), header))
