# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import sys
from pathlib import Path

import pydicom
import pytest

from dicom_study import KEPT, mr_series
from roi_fusion.data.dicom_out.source import identities, load_highdicom, read_source, uid_of
from roi_fusion.errors import InputError


def test_headers_hold_what_is_kept_and_the_place(tmp_path: Path) -> None:
    source = read_source(mr_series(tmp_path))
    assert [float(i.ImagePositionPatient[2]) for i in source.images] == sorted(
        float(i.ImagePositionPatient[2]) for i in source.images
    )
    allowed = {*KEPT, "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"}
    allowed |= {"Modality", "Columns", "Rows", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"}
    allowed |= {"SliceThickness", "PositionReferenceIndicator"}
    assert {e.keyword for e in source.images[0]} <= allowed
    one = source.slices[2]
    assert source.image_at(one.position, one.orientation) == (source.images[2], 1)
    assert source.image_at(one.position + 1, one.orientation) is None


def test_two_frames_of_reference_are_refused(tmp_path: Path) -> None:
    mr_series(tmp_path)
    file = next(tmp_path.iterdir())
    header = pydicom.dcmread(file)
    header.FrameOfReferenceUID = "1.2.3"
    header.save_as(file)
    with pytest.raises(InputError, match="expected one frame of reference for results as DICOM, got 2"):
        read_source(tmp_path)


def test_uids_are_valid_and_depend_on_all_names() -> None:
    uids = {uid_of(key, *names) for key in ("a", "b") for names in (("x",), ("x", 1), ("y",))}
    assert len(uids) == 6
    assert all(pydicom.uid.UID(u).is_valid for u in uids)
    assert uid_of("a", "x") == uid_of("a", "x")


def test_identities_of_files_and_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "ct.nii.gz").write_bytes(b"x")
    assert len(identities(tmp_path / "ct.nii.gz", "ct")[0]) == 64
    assert identities(None, "ct") == identities("", "ct") == []


def test_without_highdicom_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)  # as Python notes what cannot be imported
    with pytest.raises(InputError, match=r"expected the package highdicom \(pip install \"roi-fusion\[dicom\]\"\), found none"):
        load_highdicom()
