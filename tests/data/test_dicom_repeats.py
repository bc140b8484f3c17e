# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from raw_layouts import dicom_series
from roi_fusion.data.io import read_volume
from roi_fusion.errors import InputError

pytest.importorskip("itk")

AFFINE = np.diag([1.0, 1.0, 5.0, 1.0])


def volumes(folder: Path, *tags: dict[str, Any]) -> list[np.ndarray]:
    """One series of several volumes on one grid, each with tags of its own."""
    arrays = []
    for number, own in enumerate(tags, start=1):
        array = np.random.default_rng(number).integers(0, 900, (5, 6, 4))
        for file in dicom_series(folder, array, AFFINE, "MR", number=number):
            header = pydicom.dcmread(file)
            header.SeriesInstanceUID, header.SeriesNumber = "1.2.3", 1
            for name, value in own.items():
                if name.startswith("0x"):
                    header.add_new(int(name, 16), *value)
                else:
                    setattr(header, name, value)
            header.save_as(file)
        arrays.append(array)
    return arrays


def test_files_that_are_there_twice_count_once(tmp_path: Path) -> None:
    files = dicom_series(tmp_path, np.arange(120).reshape(5, 6, 4), AFFINE, "CT")
    (tmp_path / "again").mkdir()
    for file in files[:3]:
        shutil.copy(file, tmp_path / "again")
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, np.arange(120).reshape(5, 6, 4))
    assert volume.notes == ["3 images that are there twice counted once"]


def test_images_stored_twice_under_two_uids_count_once(tmp_path: Path) -> None:
    files = dicom_series(tmp_path, np.arange(120).reshape(5, 6, 4), AFFINE, "CT")
    header = pydicom.dcmread(files[0])
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.save_as(tmp_path / "second")
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, np.arange(120).reshape(5, 6, 4))
    assert volume.notes == ["1 images with the pixels of others at their place counted once"]


@pytest.mark.parametrize(
    "tags",
    [
        ({"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}, {"DiffusionBValue": 500.0}),
        ({"0x0019100C": ("IS", "0")}, {"0x0019100C": ("IS", "1000")}, {"0x0019100C": ("IS", "500")}),  # Siemens
        (
            {"0x00431039": ("IS", [0, 0])},
            {"0x00431039": ("IS", [1000001000, 0])},
            {"0x00431039": ("IS", [1000000500, 0])},
        ),  # GE
        ({"0x20011003": ("FL", 0.0)}, {"0x20011003": ("FL", 1000.0)}, {"0x20011003": ("FL", 500.0)}),  # Philips
    ],
    ids=["DICOM", "Siemens", "GE", "Philips"],
)
def test_of_several_b_values_the_highest_is_taken(tags: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    arrays = volumes(tmp_path, *tags)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, arrays[1])
    assert volume.notes == ["images of b value 1000 taken, those of 0, 500 passed over"]


def test_the_trace_of_a_b_value_and_an_adc_in_one_series(tmp_path: Path) -> None:
    trace = {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"], "DiffusionBValue": 1000.0}
    low = {**trace, "DiffusionBValue": 0.0}
    adc = {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}
    arrays = volumes(tmp_path / "with", trace, low, adc)
    np.testing.assert_array_equal(read_volume(tmp_path / "with").array, arrays[2])
    arrays = volumes(tmp_path / "without", low, trace, {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]})
    np.testing.assert_array_equal(read_volume(tmp_path / "without").array, arrays[1])


def test_magnitudes_are_taken_beside_phases(tmp_path: Path) -> None:
    arrays = volumes(tmp_path, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "M"]})
    np.testing.assert_array_equal(read_volume(tmp_path).array, arrays[1])


@pytest.mark.parametrize("tag", ["EchoTime", "AcquisitionNumber", "TemporalPositionIdentifier"])
def test_other_repeats_are_refused_by_the_tag_they_differ_in(tag: str, tmp_path: Path) -> None:
    volumes(tmp_path, {tag: 1}, {tag: 2})
    with pytest.raises(InputError, match=f"expected one volume, got 2 that differ in {tag}"):
        read_volume(tmp_path)


def test_overlapping_slices_are_a_volume(tmp_path: Path) -> None:
    """Slices of 5 mm every 2.5 mm, as CTs reconstruct them."""
    array = np.random.default_rng(0).integers(-1000, 900, (5, 6, 8))
    for file in dicom_series(tmp_path, array, np.diag([1.0, 1.0, 2.5, 1.0]), "CT"):
        header = pydicom.dcmread(file)
        header.SliceThickness = 5
        header.save_as(file)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, np.diag([1.0, 1.0, 2.5, 1.0]), atol=1e-5)
