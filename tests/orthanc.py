# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A real archive on this machine: Orthanc with its DICOMweb plugin, on loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests

_PLUGINS = ("/usr/share/orthanc/plugins/libOrthancDicomWeb.so", "/usr/lib/orthanc/libOrthancDicomWeb.so")


class Orthanc:
    """An archive with a folder of its own; the test that asks for one skips where Orthanc is not installed."""

    def __init__(self, folder: Path, **config: Any) -> None:
        program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
        plugin = next((p for p in _PLUGINS if Path(p).is_file()), None)
        if program is None or plugin is None:
            pytest.skip("Orthanc with DICOMweb is not installed (apt-get install orthanc orthanc-dicomweb)")
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = {
            "Name": "tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "HttpPort": self.port,
            "HttpBindAddresses": ["127.0.0.1"],
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [plugin],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "StableAge": 1,
            **config,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self._command = [program, str(folder / "orthanc.json")]
        self._log = folder / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self.port}/dicom-web"

    def start(self) -> Orthanc:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        for _ in range(600):
            try:
                requests.get(f"http://127.0.0.1:{self.port}/system", timeout=5)
                return self
            except requests.ConnectionError:
                time.sleep(0.1)
        raise AssertionError(self._log.read_text()[-2000:])

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def get(self, path: str) -> Any:
        """An answer of Orthanc's own interface, which the code under test does not use."""
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=30).json()

    def put(self, files: list[Path]) -> None:
        """Store files by Orthanc's own interface."""
        for file in files:
            answer = requests.post(f"http://127.0.0.1:{self.port}/instances", data=file.read_bytes(), timeout=30)
            answer.raise_for_status()

    def images(self) -> list[pydicom.Dataset]:
        """All that it holds."""
        from io import BytesIO

        address = f"http://127.0.0.1:{self.port}/instances"
        return [
            pydicom.dcmread(BytesIO(requests.get(f"{address}/{i}/file", timeout=30).content)) for i in self.get("/instances")
        ]
