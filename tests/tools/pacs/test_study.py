# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from dicom_study import FRAME, complete, dciodvfy, mr_series, results_of
from orthanc import Orthanc
from raw_layouts import dicom_series
from roi_fusion.data.dicom_out.write import write_dicom
from roi_fusion.errors import InputError
from roi_fusion_tools.pacs.archive import Archive, ArchiveAwayError
from roi_fusion_tools.pacs.study import Wanted, process_study

hd = pytest.importorskip("highdicom")
pytest.importorskip("dicomweb_client")
pytest.importorskip("itk")

STUDY = "1.2.3.4"


class Network:
    """Results without a network: random numbers, a lesion of known place."""

    def __init__(self) -> None:
        self.calls = 0

    def settings(self) -> dict[str, Any]:
        shared = {"seed": 0, "num_inference_steps": 4, "num_samples": 2, "guidance": {"mode": "off"}, "guidance_masks": []}
        return {**shared, "weights": {"sha256": "ab" * 32}, "versions": {"roi_fusion": "0.2.0"}}

    def __call__(self, mri: Any, ct: Any, output_dir: Any) -> None:
        self.calls += 1
        folder = Path(output_dir) / Path(mri).parent.name
        shutil.rmtree(folder, ignore_errors=True)
        write_dicom(results_of(folder, Path(mri)), mri, ct)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    server = Orthanc(tmp_path / "orthanc").start()
    yield server
    server.kill()


def ct_series(folder: Path, number: int = 2, **fields: Any) -> list[Path]:
    array = np.random.default_rng(number).integers(-1000, 900, (10, 11, 6))
    files = dicom_series(folder, array, np.diag([1.0, 1.0, 5.0, 1.0]), "CT", number=number)
    return complete(files, FrameOfReferenceUID=f"{FRAME}.{number}", **fields)


@pytest.fixture
def study(orthanc: Orthanc, tmp_path: Path) -> Orthanc:
    """An archive with one study: an MRI and a CT."""
    orthanc.put([*mr_series(tmp_path / "mr").iterdir(), *ct_series(tmp_path / "ct")])
    return orthanc


def results_in(server: Orthanc) -> dict[str, list[pydicom.Dataset]]:
    """The results in an archive by their series' description."""
    found: dict[str, list[pydicom.Dataset]] = {}
    for image in server.images():
        if image.get("ManufacturerModelName") == "ROI Fusion":
            found.setdefault(image.SeriesDescription.split(",")[0].removeprefix("ROI Fusion "), []).append(image)
    return found


def test_results_come_back_as_highdicom_reads_them(study: Orthanc, tmp_path: Path) -> None:
    network = Network()
    outcome = process_study(Archive(study.url), Wanted(STUDY), tmp_path / "out", network)
    assert outcome.folder is not None
    results = results_in(study)
    counts = {name: len(images) for name, images in results.items()}
    names = ("lesion", "lesion probability", "provenance", "report", "uncertainty")
    assert counts == {"volume": 5, **dict.fromkeys(names, 1)}
    assert outcome.sent == sum(counts.values())
    seg = hd.seg.Segmentation.from_dataset(results["lesion"][0])
    lesion = np.asarray(nib.load(outcome.folder / "lesion.nii.gz").dataobj)
    sources = {h.SOPInstanceUID: h for h in map(pydicom.dcmread, (tmp_path / "mr").iterdir())}
    ordered = sorted(sources.values(), key=lambda h: float(h.ImagePositionPatient[2]))
    frames = seg.get_pixels_by_source_instance([h.SOPInstanceUID for h in ordered])[..., 0]  # in another order than files
    np.testing.assert_array_equal(frames.transpose(2, 1, 0), lesion)
    report = hd.sr.Comprehensive3DSR.from_dataset(results["report"][0])
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    assert group.referenced_segment.referenced_sop_instance_uid == seg.SOPInstanceUID
    assert group.get_measurements()[0].value == outcome.lesion_ml
    for images in results.values():
        for number, image in enumerate(images):
            assert image.StudyInstanceUID == STUDY
            image.save_as(tmp_path / f"back_{number}.dcm")
            assert dciodvfy(tmp_path / f"back_{number}.dcm") == []


def test_a_result_is_there_once(study: Orthanc, tmp_path: Path) -> None:
    network, archive = Network(), Archive(study.url)
    process_study(archive, Wanted(STUDY), tmp_path / "out", network)
    before = len(study.images())
    for out in ("out", "another folder"):
        again = process_study(archive, Wanted(STUDY), tmp_path / out, network)
        assert (again.folder, again.sent) == (None, 0)
    assert network.calls == 1
    assert len(study.images()) == before


def test_a_server_that_dies_in_between_gets_the_rest(study: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends when the fused series is stored, stays away, and a second call sends what is missing without the network."""
    network, archive = Network(), Archive(study.url, patience_s=1)
    store = Archive.store

    def store_and_die(self: Archive, study_uid: str, files: Any) -> None:
        store(self, study_uid, files)
        study.kill()

    monkeypatch.setattr(Archive, "store", store_and_die)
    with pytest.raises(ArchiveAwayError, match="got no connection for 1 s"):
        process_study(archive, Wanted(STUDY), tmp_path / "out", network)
    monkeypatch.undo()
    study.start()
    assert set(results_in(study)) == {"volume"}
    outcome = process_study(archive, Wanted(STUDY), tmp_path / "out", network)
    assert (outcome.sent, network.calls) == (5, 1)
    assert len(results_in(study)) == 6


def test_a_server_that_comes_back_in_time_gets_everything(
    study: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, timers = Archive.store, []

    def die_and_store(self: Archive, study_uid: str, files: Any) -> None:
        if not timers:
            study.kill()
            timers.append(threading.Timer(1.0, study.start))
            timers[0].start()
        store(self, study_uid, files)

    monkeypatch.setattr(Archive, "store", die_and_store)
    outcome = process_study(Archive(study.url), Wanted(STUDY), tmp_path / "out", Network())
    timers[0].join()
    assert outcome.sent == 10
    assert sum(map(len, results_in(study).values())) == 10


def test_other_images_or_weights_are_another_result(study: Orthanc, tmp_path: Path) -> None:
    network, archive = Network(), Archive(study.url)
    process_study(archive, Wanted(STUDY), tmp_path / "out", network)
    study.put(list(mr_series(tmp_path / "flair", ProtocolName="FLAIR").iterdir()))
    flair = str(pydicom.dcmread(next((tmp_path / "flair").iterdir())).SeriesInstanceUID)
    process_study(archive, Wanted(STUDY, mri_series=flair), tmp_path / "out", network)
    assert network.calls == 2
    assert len(results_in(study)["report"]) == 2


@pytest.mark.parametrize("what", ["two CTs", "no CT", "no MRI", "no study", "no such series", "two patients"])
def test_studies_that_cannot_be_used_are_one_sentence_and_nothing_is_sent(what: str, orthanc: Orthanc, tmp_path: Path) -> None:
    sentence = {
        "two CTs": r"study 1.2.3.4: expected one DICOM series with a CT volume, got 2",
        "no CT": r"study 1.2.3.4: expected a CT in it, found only MR; --ct_study or --ct_series names another",
        "no MRI": r"study 1.2.3.4: expected an MRI in it, found only CT; --mri_series names another",
        "no study": r"expected the study 1.2.3.4, found none",
        "no such series": r"study 1.2.3.4: expected the series 1.9 in it, found only CT, MR",
        "two patients": r"study 1.2.3.4: expected MRI and CT of one patient, got two PatientIDs",
    }[what]
    wanted = Wanted(STUDY, mri_series="1.9" if what == "no such series" else None)
    if what not in ("no MRI", "no study"):
        orthanc.put(list(mr_series(tmp_path / "mr").iterdir()))
    if what not in ("no CT", "no study", "two patients"):
        orthanc.put(ct_series(tmp_path / "ct"))
    if what == "two CTs":
        orthanc.put(ct_series(tmp_path / "ct2", 7))
    if what == "two patients":
        orthanc.put(ct_series(tmp_path / "ct", PatientID="other", StudyInstanceUID="1.2.5"))
        wanted = Wanted(STUDY, ct_study="1.2.5")
    network = Network()
    with pytest.raises(InputError, match=sentence):
        process_study(Archive(orthanc.url), wanted, tmp_path / "out", network)
    assert network.calls == 0
    assert results_in(orthanc) == {}


def test_a_ct_of_another_study(orthanc: Orthanc, tmp_path: Path) -> None:
    orthanc.put([*mr_series(tmp_path / "mr").iterdir(), *ct_series(tmp_path / "ct", StudyInstanceUID="1.2.5")])
    outcome = process_study(Archive(orthanc.url), Wanted(STUDY, ct_study="1.2.5"), tmp_path / "out", Network())
    assert outcome.sent == 10
    assert {str(i.StudyInstanceUID) for images in results_in(orthanc).values() for i in images} == {STUDY}
