# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from dicom_study import FRAME, KEPT, dciodvfy, mr_series, oblique, results_of
from roi_fusion.data.dicom_out.write import write_dicom
from roi_fusion.data.io import read_volume
from roi_fusion.errors import InputError

hd = pytest.importorskip("highdicom")
pytest.importorskip("itk")

#: Place of each volume's voxels in the files and in the NIfTI results must agree to this.
CLOSE_MM = 1e-3


def back(path: Path, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A multi-frame file as highdicom reads it, brought onto a NIfTI grid by positions alone."""
    volume = hd.imread(path).get_volume()
    lps_to_ras = np.diag([-1.0, -1, 1, 1])
    index = np.linalg.inv(affine) @ lps_to_ras @ volume.affine  # slice, row, column to NIfTI's index
    turn = np.round(index[:3, :3]).astype(int)
    np.testing.assert_allclose(index[:3, :3], turn, atol=1e-3)
    where = np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), -1) @ turn.T + np.round(index[:3, 3])
    out = np.full(shape, np.nan)
    out[tuple(where.reshape(-1, 3).astype(int).T)] = volume.array.reshape(-1)
    assert np.isfinite(out).all()
    return out


def loaded(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(folder / f"{name}.nii.gz")
    return np.asarray(image.dataobj), image.affine


@pytest.fixture(params=["axial", "oblique", "sagittal, counted backwards"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A series and its results."""
    affine = {
        "axial": np.array([[-0.9, 0, 0, 20.0], [0, -0.8, 0, 13], [0, 0, 5, 3], [0, 0, 0, 1]]),
        "oblique": oblique(),
        "sagittal, counted backwards": np.array([[0, 0, 4.0, -8], [-1.1, 0, 0, 50], [0, -1.1, 0, 60], [0, 0, 0, 1]]),
    }[request.param]
    mri = mr_series(tmp_path / "mr", affine)  # files are named at random: their order is not that of the slices
    return mri, results_of(tmp_path / "case", mri)


def test_highdicom_reads_every_volume_back(case: tuple[Path, Path]) -> None:
    mri, folder = case
    written = write_dicom(folder, mri)
    lesion, affine = loaded(folder, "lesion")
    found = back(written["lesion"][0], affine, lesion.shape)
    np.testing.assert_array_equal(found, lesion)
    prob, _ = loaded(folder, "lesion_prob")
    np.testing.assert_allclose(back(written["lesion_prob"][0], affine, prob.shape) / 255, prob, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(back(written["uncertainty"][0], affine, prob.shape), loaded(folder, "uncertainty")[0])
    provenance, _ = loaded(folder, "provenance")
    stored = back(written["provenance"][0], affine, prob.shape)
    np.testing.assert_array_equal(np.where(stored == -1, np.nan, stored), provenance)
    assert pydicom.dcmread(written["provenance"][0]).FloatPixelPaddingValue == -1
    fused = read_volume(folder / "dicom" / "fused" / "0001.dcm")
    np.testing.assert_allclose(fused.affine, affine, atol=CLOSE_MM)
    np.testing.assert_allclose(fused.array, loaded(folder, "fused")[0], atol=0.5)


def test_the_window_is_the_fused_volumes_display_range(case: tuple[Path, Path]) -> None:
    mri, folder = case
    image = nib.load(folder / "fused.nii.gz")
    fused = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    fused.header["cal_min"], fused.header["cal_max"] = 20.0, 180.0
    nib.save(fused, folder / "fused.nii.gz")
    slices = [pydicom.dcmread(path) for path in write_dicom(folder, mri)["fused"]]
    assert {(float(s.WindowCenter), float(s.WindowWidth)) for s in slices} == {(100.0, 160.0)}


def test_a_dicom_validator_finds_no_error(case: tuple[Path, Path]) -> None:
    pytest.importorskip("importlib.metadata").version("dicom3tools")
    mri, folder = case
    for files in write_dicom(folder, mri).values():
        for file in files:
            assert dciodvfy(file) == []


def test_only_patient_and_study_go_along(tmp_path: Path) -> None:
    mri = mr_series(tmp_path / "mr")
    ct = mr_series(tmp_path / "ct", Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2", PatientName="SECRET^Other")
    folder = results_of(tmp_path / "SECRET case", mri)
    for name, files in write_dicom(folder, mri, ct).items():
        for file in files:
            data = file.read_bytes()
            assert b"secret" not in data.lower()
            assert str(tmp_path).encode() not in data
            header = pydicom.dcmread(file)
            assert {tag: str(header.get(tag)) for tag in KEPT} == KEPT
            assert header.StudyInstanceUID == "1.2.3.4"
            assert header.SeriesDescription.endswith("for research, not for diagnosis")
            assert header.SeriesNumber > 9000
            if name != "report":
                assert header.FrameOfReferenceUID == FRAME
            if name == "fused":
                assert list(header.ImageType[:2]) == ["DERIVED", "SECONDARY"]
                assert header.BurnedInAnnotation == "NO"


def test_uids_are_of_images_weights_and_settings(tmp_path: Path) -> None:
    mri = mr_series(tmp_path / "mr")
    other = mr_series(tmp_path / "other")

    def uids(name: str, series: Path = mri, **facts: object) -> set[str]:
        folder = results_of(tmp_path / name, series, **facts)
        return {str(pydicom.dcmread(f).SOPInstanceUID) for files in write_dicom(folder, series).values() for f in files}

    first = uids("a")
    assert len(first) == 5 + 5  # slices, and the other objects
    assert uids("b") == first
    changes = ({"weights": {"sha256": "cd" * 32}}, {"seed": 1}, {"guidance": {"mode": "full"}}, {"registration": {"mm": 1}})
    for number, change in enumerate(changes):
        assert not uids(str(number), **change) & first
    assert not uids("c", other) & first


def test_slices_tell_which_image_they_are_derived_from(tmp_path: Path) -> None:
    mri = mr_series(tmp_path / "mr")
    at = {tuple(np.round(h.ImagePositionPatient, 3)): h.SOPInstanceUID for h in map(pydicom.dcmread, mri.iterdir())}
    for file in write_dicom(results_of(tmp_path / "case", mri), mri)["fused"]:
        header = pydicom.dcmread(file)
        (source,) = header.SourceImageSequence
        assert source.ReferencedSOPInstanceUID == at[tuple(np.round(header.ImagePositionPatient, 3))]


def test_results_of_another_series_are_refused(tmp_path: Path) -> None:
    mri = mr_series(tmp_path / "mr")
    folder = results_of(tmp_path / "case", mri)
    moved = oblique()
    moved[2, 3] += 3
    other = mr_series(tmp_path / "other", moved)
    with pytest.raises(InputError, match=r"expected the series that the results in .*case lie on, got one of another place"):
        write_dicom(folder, other)
    assert not (folder / "dicom").exists()


def test_what_cannot_be_referred_to_is_refused(tmp_path: Path) -> None:
    mri = mr_series(tmp_path / "mr")
    folder = results_of(tmp_path / "case", mri)
    with pytest.raises(
        InputError, match=r"expected the MRI as a DICOM series for results as DICOM, got a file of another kind"
    ):
        write_dicom(folder, folder / "fused.nii.gz")
    with pytest.raises(InputError, match=r"expected the results of a case, found no result.json"):
        write_dicom(tmp_path / "nothing", mri)
    for file in mri.iterdir():
        header = pydicom.dcmread(file)
        del header.FrameOfReferenceUID
        header.save_as(file)
    with pytest.raises(InputError, match=r"expected FrameOfReferenceUID in the header for results as DICOM, got none"):
        write_dicom(folder, mri)


def test_an_earlier_run_s_files_are_replaced_whole(tmp_path: Path) -> None:
    mri = mr_series(tmp_path / "mr")
    folder = results_of(tmp_path / "case", mri)
    (folder / "dicom" / "fused").mkdir(parents=True)
    (folder / "dicom" / "fused" / "0099.dcm").touch()
    (folder / ".dicom.partial").mkdir()
    write_dicom(folder, mri)
    assert len(list((folder / "dicom" / "fused").iterdir())) == 5
    assert not (folder / ".dicom.partial").exists()
    assert json.loads((folder / "result.json").read_text())["case"] == "case"
