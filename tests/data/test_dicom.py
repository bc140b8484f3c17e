# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from raw_layouts import dicom_series
from roi_fusion.data.dicom import scan_dicom
from roi_fusion.data.io import read_volume
from roi_fusion.errors import InputError

AFFINE = np.diag([1.0, 1.0, 5.0, 1.0])
ARRAY = np.random.default_rng(0).integers(-1000, 1000, (8, 9, 6))


def marked(folder: Path, **fields: Any) -> list[Path]:
    """A CT series in which every file carries these values, however wrong."""
    files = dicom_series(folder, ARRAY, AFFINE, "CT")
    for file in files:
        header = pydicom.dcmread(file)
        for name, value in fields.items():
            setattr(header, name, value)
        header.save_as(file)
    return files


def test_patients_and_studies_are_told_apart_by_their_raw_ids(tmp_path: Path) -> None:
    for folder, patient, study in (("a", "A/1", "1.1"), ("b", "A_1", "1.1"), ("c", "", "1.2"), ("d", "", "1.3")):
        for file in marked(tmp_path / folder, PatientID=patient, StudyInstanceUID=study):
            header = pydicom.dcmread(file)
            header.SeriesInstanceUID = "1.2.3"
            header.save_as(file)
    found = scan_dicom(p for p in sorted(tmp_path.rglob("*")) if p.is_file())
    assert [(s.patient_id, s.study_uid, len(s.slices)) for s in found] == [
        ("", "1.2", 6),
        ("", "1.3", 6),
        ("A/1", "1.1", 6),
        ("A_1", "1.1", 6),
    ]


@pytest.mark.parametrize("tag", ["SeriesNumber", "ImageOrientationPatient", "SliceThickness", "RescaleSlope"])
def test_junk_in_one_series_ends_no_scan(tag: str, tmp_path: Path) -> None:
    dicom_series(tmp_path / "good", ARRAY, AFFINE, "CT", number=77)
    for file in dicom_series(tmp_path / "bad", ARRAY, AFFINE, "CT", number=88, slope=1.0):
        header = pydicom.dcmread(file)
        data = file.read_bytes()
        element = header.data_element(tag)
        raw = (chr(92).join(map(str, element.value)) if element.VM > 1 else str(element.value)).encode()
        at = data.find(pydicom.tag.Tag(tag).group.to_bytes(2, "little") + pydicom.tag.Tag(tag).element.to_bytes(2, "little"))
        file.write_bytes(data[: at + 8] + b"x" * len(raw) + data[at + 8 + len(raw) :])
    found = scan_dicom(p for p in sorted(tmp_path.rglob("*")) if p.is_file())
    assert len(found) == 2
    assert all(s.why_no_volume() is None for s in found)
    pytest.importorskip("itk")
    good = next(s for s in found if "good" in str(s))
    np.testing.assert_array_equal(read_volume(good).array, ARRAY)
    if tag == "ImageOrientationPatient":
        bad = next(s for s in found if "bad" in str(s))
        with pytest.raises(InputError, match="expected position, orientation and pixel spacing in every header"):
            read_volume(bad)


def test_files_without_a_preamble_are_read(tmp_path: Path) -> None:
    pytest.importorskip("itk")
    for file in dicom_series(tmp_path, ARRAY, AFFINE, "CT"):
        header = pydicom.dcmread(file)
        bare = pydicom.Dataset(header)
        pydicom.dcmwrite(file, bare, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert file.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_volume(tmp_path).array, ARRAY)


def test_what_is_no_dicom_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dicom_series(tmp_path, ARRAY, AFFINE, "CT")
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "empty").touch()
    (tmp_path / "two").write_bytes(bytes([8, 0, 5, 0]) + b"junk" * 40)  # begins like one
    (found,) = scan_dicom(p for p in sorted(tmp_path.rglob("*")) if p.is_file())
    assert len(found.slices) == 6


def test_a_localiser_by_kind_description_or_size(tmp_path: Path) -> None:
    dicom_series(tmp_path / "a", ARRAY, AFFINE, "CT", description="Scout")
    dicom_series(tmp_path / "b", ARRAY[..., :2], AFFINE, "MR")
    marked(tmp_path / "c", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    marked(tmp_path / "d", Modality="SR")
    found = {s.files[0].parent.name: s.why_no_volume() for s in scan_dicom(p for p in tmp_path.rglob("*") if p.is_file())}
    assert found == {"a": "a localiser", "b": "a localiser (2 images)", "c": "a localiser", "d": "a SR series"}
