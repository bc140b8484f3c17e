# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from raw_layouts import dicom_series
from roi_fusion.data.dicom_choice import contrast_of
from roi_fusion.data.io import dicom_series_of, read_volume
from roi_fusion.errors import InputError

pytest.importorskip("itk")

AFFINE = np.diag([1.0, 1.0, 5.0, 1.0])
ARRAY = np.random.default_rng(0).integers(0, 900, (8, 9, 6))


def series(folder: Path, modality: str, number: int, description: str, **fields: object) -> Path:
    for file in dicom_series(folder, ARRAY + number, AFFINE, modality, number=number, description=description):
        header = pydicom.dcmread(file)
        for name, value in fields.items():
            setattr(header, name, value)
        header.save_as(file)
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """All that a stroke study holds, in one folder."""
    series(tmp_path, "CT", 1, "Topogram 0.6")
    series(tmp_path, "CT", 2, "Head 5 mm")
    series(tmp_path, "MR", 3, "t2_tse_dark-fluid")
    series(tmp_path, "MR", 4, "ep2d_diff_b1000")
    series(tmp_path, "MR", 5, "ep2d_diff_ADC")
    series(tmp_path, "MR", 9001, "ROI Fusion volume", ManufacturerModelName="ROI Fusion")
    return tmp_path


def test_modality_and_contrast_choose(study: Path) -> None:
    mri = read_volume(study, role="mr")
    np.testing.assert_array_equal(mri.array, ARRAY + 5)
    assert mri.notes == ["of 3 MRI series, number 5 (ADC) taken"]
    ct = read_volume(study, role="ct")
    np.testing.assert_array_equal(ct.array, ARRAY + 2)
    assert ct.notes == []


def test_a_file_chooses_its_series(study: Path) -> None:
    file = next(study.glob("s3_*"))
    np.testing.assert_array_equal(read_volume(file, role="mr").array, ARRAY + 3)
    with pytest.raises(InputError, match="expected the CT, got a file of a series of modality MR"):
        read_volume(file, role="ct")


def test_what_leaves_a_choice_is_refused(study: Path) -> None:
    with pytest.raises(InputError, match=r"expected one DICOM series with a volume, got 4 \(.*name a file of the one to take"):
        read_volume(study)
    series(study, "CT", 6, "Head 1 mm")
    with pytest.raises(InputError, match=r"expected one DICOM series with a CT volume, got 2 .*name a file of the one to take"):
        read_volume(study, role="ct")
    series(study, "MR", 7, "ADC again")
    with pytest.raises(InputError, match=r"expected one DICOM series with an MRI volume, got 2"):
        read_volume(study, role="mr")


def test_mixed_patients_are_refused(tmp_path: Path) -> None:
    series(tmp_path, "MR", 1, "DWI")
    series(tmp_path, "MR", 2, "ADC", PatientID="P2")
    with pytest.raises(InputError, match="expected the images of one patient, got 2 PatientIDs"):
        read_volume(tmp_path, role="mr")


def test_a_study_without_an_mri_is_refused(tmp_path: Path) -> None:
    series(tmp_path, "CT", 1, "Head")
    with pytest.raises(InputError, match=r"expected one DICOM series with an MRI volume, got 0 \(series 1: a CT series\)"):
        read_volume(tmp_path, role="mr")


def test_paths_that_are_no_series(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "b.dcm").write_bytes(b"no DICOM")
    assert dicom_series_of(tmp_path / "a.nii.gz") is None
    assert dicom_series_of(tmp_path / "b.dcm") is None
    assert dicom_series_of(tmp_path / "nothing") is None


def test_contrasts() -> None:
    names = ("ep2d_diff_ADC", "DWI b1000", "AX FLAIR", "t2_tse", "T2* GRE", "MPRAGE", "survey")
    assert [contrast_of(n) for n in names] == ["adc", "dwi", "flair", "t2", "", "t1", ""]
