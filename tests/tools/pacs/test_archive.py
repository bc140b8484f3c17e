# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless

from dicom_study import complete
from orthanc import Orthanc
from raw_layouts import dicom_series
from roi_fusion.errors import InputError
from roi_fusion_tools.pacs.archive import Archive, ArchiveAwayError, Offer

pytest.importorskip("dicomweb_client")

AFFINE = np.diag([1.0, 1.0, 5.0, 1.0])
ARRAY = np.random.default_rng(0).integers(0, 900, (64, 72, 4))


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    server = Orthanc(tmp_path / "orthanc").start()
    yield server
    server.kill()


def test_what_is_there_is_listed_fetched_and_stored(orthanc: Orthanc, tmp_path: Path) -> None:
    files = complete(dicom_series(tmp_path / "mr", ARRAY, AFFINE, "MR"))
    other = complete(dicom_series(tmp_path / "other", ARRAY, AFFINE, "MR", study="1.2.9"), StudyInstanceUID="1.2.9")
    orthanc.put([*files, *other])
    archive = Archive(orthanc.url)
    assert archive.studies() == []  # none with both
    (offer,) = archive.series("1.2.3.4")
    assert (offer.modality, offer.images) == ("MR", 4)
    archive.fetch("1.2.3.4", offer, tmp_path / "fetched")
    got = {h.SOPInstanceUID: h.pixel_array for h in map(pydicom.dcmread, (tmp_path / "fetched").iterdir())}
    for file in files:
        header = pydicom.dcmread(file)
        np.testing.assert_array_equal(got[header.SOPInstanceUID], header.pixel_array)
    assert archive.stored("1.2.3.4", offer.uid) == set(got)
    assert archive.stored("1.2.3.4", "1.9") == set()
    assert archive.series("1.9") == []
    ct = complete(dicom_series(tmp_path / "ct", ARRAY, AFFINE, "CT"))
    archive.store("1.2.3.4", ct)
    archive.store("1.2.3.4", ct)
    assert len(orthanc.images()) == 4 + 4 + 4
    assert archive.studies() == ["1.2.3.4"]


def test_compressed_images_come_as_they_are_stored(orthanc: Orthanc, tmp_path: Path) -> None:
    files = dicom_series(tmp_path / "mr", ARRAY, AFFINE, "MR")
    for file in files:
        header = pydicom.dcmread(file)
        header.compress(JPEG2000Lossless, generate_instance_uid=False)
        header.save_as(file)
    orthanc.put(files)
    archive = Archive(orthanc.url)
    archive.fetch("1.2.3.4", archive.series("1.2.3.4")[0], tmp_path / "fetched")
    got = pydicom.dcmread(next((tmp_path / "fetched").iterdir()))
    assert got.file_meta.TransferSyntaxUID == JPEG2000Lossless


def test_images_that_do_not_come_are_told(orthanc: Orthanc, tmp_path: Path) -> None:
    orthanc.put(dicom_series(tmp_path / "mr", ARRAY, AFFINE, "MR"))
    archive = Archive(orthanc.url)
    (offer,) = archive.series("1.2.3.4")
    with pytest.raises(InputError, match=r"expected 5 images of series .*, got 4"):
        archive.fetch("1.2.3.4", Offer(offer.uid, "MR", 5), tmp_path / "fetched")


def test_results_of_another_study_are_refused(orthanc: Orthanc, tmp_path: Path) -> None:
    files = complete(dicom_series(tmp_path / "mr", ARRAY, AFFINE, "MR"))
    with pytest.raises(InputError, match=r"expected a server to store results, got 409|refused"):
        Archive(orthanc.url).store("1.2.9", files)


def test_a_server_that_comes_back_is_asked_again(orthanc: Orthanc, tmp_path: Path) -> None:
    orthanc.put(dicom_series(tmp_path / "mr", ARRAY, AFFINE, "MR"))
    orthanc.kill()
    back = threading.Timer(2.0, orthanc.start)
    back.start()
    try:
        assert len(Archive(orthanc.url).series("1.2.3.4")) == 1
    finally:
        back.join()


def test_a_server_that_stays_away_is_one_sentence() -> None:
    with pytest.raises(ArchiveAwayError, match=r"expected a server to list series, got no connection for 1 s"):
        Archive("http://127.0.0.1:1/dicom-web", patience_s=1).series("1.2")


@pytest.mark.parametrize("url", ["foo", "", "http://127.0.0.1:99999/x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"expected an address as http|expected a server to list studies, got"):
        Archive(url, patience_s=1).studies()


def test_a_user_and_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Orthanc(tmp_path / "orthanc", AuthenticationEnabled=True, RegisteredUsers={"anna": "pass-1"}).start()
    try:
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        with pytest.raises(InputError, match=r"expected the right to list studies, got 401 .*the file .netrc"):
            Archive(server.url).studies()
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password pass-1\n")
        assert Archive(server.url).studies() == []
    finally:
        server.kill()


class Odd(BaseHTTPRequestHandler):
    """Answers as no archive does."""

    answer: tuple[int, str, bytes, float] = (200, "text/html", b"", 0.0)

    def do_GET(self) -> None:
        status, kind, body, wait = self.answer
        time.sleep(wait)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((200, "text/html", b"<html>a page</html>", 0), "expected a DICOMweb server, got an answer"),
        ((200, "application/json", b'["a", "b"]', 0), "expected a DICOMweb server, got an answer of another kind"),
        ((404, "text/html", b"", 0), "got 404 Not Found; the address ends as that of its DICOMweb root does"),
        ((503, "text/html", b"", 0), "got 503 Service Unavailable for 1 s"),
        ((200, "application/dicom+json", b"[]", 3), "got no answer within 0.3 s for 1 s"),
    ],
)
def test_odd_answers(answer: tuple[int, str, bytes, float], sentence: str) -> None:
    handler = type("Handler", (Odd,), {"answer": answer})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.raises(InputError, match=sentence):
            Archive(f"http://127.0.0.1:{server.server_port}/dicom-web", timeout_s=0.3, patience_s=1).studies()
    finally:
        server.shutdown()
        server.server_close()
