# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Names of cases that came as DICOM: keyed hashes of what the headers say, so that results carry no patient's name or number.

A name is HMAC-SHA256 of the PatientID (or a UID) with a key that stays with the user: who has no key can neither go back nor
check a guess. Beside the key lies ``names.csv``, which maps each name back. Both lie outside of every output.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import InputError
from ..values import listed_files
from .io import DicomSeries, dicom_files, scan_dicom

__all__ = ["NAMES", "Naming", "default_key", "hidden", "is_named", "original_of", "tells_a_patient"]

#: What the knob `names` takes.
NAMES = ("hash", "keep")

#: How a file of DICOM is called in results: this, the case's name, and ``mri`` or ``ct``.
PREFIX = "dicom:"

_TABLE = "names.csv"
_KEY_BYTES = 32

#: Ids that programs for de-identification write for everyone: they tell no patient.
_NO_ID = {"", "anonymous", "anonymized", "anonymised", "anon", "unknown", "none", "n/a", "na", "0"}

#: Name → path, of what this process named; a key elsewhere than the default one has its table elsewhere.
_named: dict[str, str] = {}


def tells_a_patient(patient_id: str) -> bool:
    """Whether a PatientID is one of its own, and not what a program for de-identification gives to everyone."""
    return patient_id.strip().lower() not in _NO_ID


def default_key() -> Path:
    """Where the key lies unless the knob `name_key` says otherwise: ``roi_fusion/name_key`` in the user's folder of settings.

    The environment variable ``ROI_FUSION_NAME_KEY`` names another file.
    """
    given = os.environ.get("ROI_FUSION_NAME_KEY")
    settings = os.environ.get("XDG_CONFIG_HOME")
    return Path(given) if given else Path(settings or Path.home() / ".config") / "roi_fusion" / "name_key"


def is_named(path: str) -> bool:
    """Whether a text is a name of :meth:`Naming.shown`, and no path."""
    return path.startswith(PREFIX)


def original_of(path: str) -> str:
    """The path behind a name such as ``dicom:patient-…/mri``, where this user has named it; other texts as they are."""
    if not is_named(path):
        return path
    return _named.get(path) or _rows(default_key().with_name(_TABLE)).get(path, path)


def _rows(table: Path) -> dict[str, str]:
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {r["name"]: r["original"] for r in csv.DictReader(file) if r.get("name") and r.get("original")}


class Naming:
    """Gives cases of DICOM their names.

    Args:
        names: ``"hash"``, or ``"keep"``, which leaves the names of patients and folders as they are.
        name_key: file of the key; that of :func:`default_key` when it is None. A new one is made at the first use.
        output_dir: where results will lie, which must not hold the key.

    Raises:
        InputError: when `names` is neither, or the key would lie in the output.
    """

    def __init__(self, names: str = "hash", name_key: str | Path | None = None, output_dir: str | Path | None = None) -> None:
        if names not in NAMES:
            raise InputError(f"names: expected one of {', '.join(NAMES)}, got {names!r}")
        self.hashed = names == "hash"
        self.key_file = default_key() if name_key is None else Path(name_key)
        if self.hashed and output_dir is not None and Path(output_dir).resolve() in self.key_file.resolve().parents:
            raise InputError(f"name_key: expected a file outside of the output {output_dir}, got {self.key_file}")
        self._key: bytes | None = None

    def name(self, text: str, prefix: str, digits: int = 12) -> str:
        """``<prefix>-<hash>`` of a text: the same for the same key, prefix and text."""
        if self._key is None:
            self._key = self._read_key()
        message = f"{prefix}\0{text}".encode("utf-8", "surrogateescape")
        return f"{prefix}-{hmac.new(self._key, message, hashlib.sha256).hexdigest()[:digits]}"

    def patient(self, patient_id: str, study_uid: str) -> str:
        """The name of a patient, or of a study where the header tells no patient."""
        if tells_a_patient(patient_id):
            return self.noted(self.name(patient_id.strip(), "patient"), patient_id.strip())
        return self.noted(self.name(study_uid, "unnamed"), study_uid)

    def series(self, series: DicomSeries) -> str:
        """The name of a case whose first image is a series: its patient's, and a hash of the series."""
        return f"{self.patient(series.patient_id, series.study_uid)}_{self.name(series.uid, 'series', 8)}"

    def entry(self, given: Mapping[str, str]) -> dict[str, str]:
        """What a pair that was given by its files is called: ``case`` and, of each image, ``<key>_shown`` in place of its path.

        Args:
            given: ``image`` and ``ct``, or one of them → path; empty for files that are no DICOM.
        """
        found: dict[str, str] = {}
        for key, role in (("image", "mri"), ("ct", "ct")):
            first = _first_series(given[key]) if key in given and self.hashed else None
            if first is None:
                continue
            name = self.series(first)
            if key == "image" or "image" not in given:
                found["case"] = name
            found[f"{key}_shown"] = self.shown(name, role, given[key])
        return found

    def shown(self, case: str, role: str, path: str | Path) -> str:
        """What stands in results in place of the path of a case's file; :func:`original_of` leads back."""
        name = f"{PREFIX}{case}/{role}"
        _named[name] = ",".join(os.path.abspath(p) for p in listed_files(path) or [Path(path)])
        return self.noted(name, _named[name])

    def noted(self, name: str, original: str) -> str:
        """Write a name and what it stands for to ``names.csv`` beside the key; returns the name."""
        table = self.key_file.with_name(_TABLE)
        try:
            lock = FileLock(table.with_suffix(".lock"), mode=0o600)
            with lock, os.fdopen(os.open(table, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a", newline="") as file:
                if _rows(table).get(name) != original:
                    writer = csv.writer(file)
                    if not table.stat().st_size:
                        writer.writerow(["name", "original"])
                    writer.writerow([name, original.encode("utf-8", "backslashreplace").decode()])
        except OSError as e:
            raise self._no_place(e) from None
        return name

    def _read_key(self) -> bytes:
        try:
            self.key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            scratch = self.key_file.with_name(f".{self.key_file.name}.{os.getpid()}")
            if not self.key_file.exists():
                with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                    file.write(secrets.token_hex(_KEY_BYTES) + "\n")
                try:
                    os.link(scratch, self.key_file)  # whole, and of two runs the first
                except FileExistsError:
                    pass
                finally:
                    scratch.unlink()
            key = self.key_file.read_bytes().strip()
        except OSError as e:
            raise self._no_place(e) from None
        if len(key) < _KEY_BYTES:
            raise InputError(f"name_key: expected a key of {_KEY_BYTES} characters or more, got {len(key)} in {self.key_file}")
        return key

    def _no_place(self, error: OSError) -> InputError:
        return InputError(
            f"name_key: expected a place for the key of case names, got {self.key_file} ({error.strerror}); "
            "--name_key FILE names another, --names keep takes the names as they are"
        )


def _first_series(path: str) -> DicomSeries | None:
    """The series of the first DICOM file that a path stands for; None where it stands for no DICOM."""
    for file in dicom_files(path):
        found = scan_dicom([file])
        if found:
            return found[0]
    return None


def hidden(content: Any, names: Mapping[str, str]) -> Any:
    """Texts in a JSON-like content with some parts replaced, the longest first.

    Args:
        content: dictionaries, lists, texts and whatever else.
        names: part → what takes its place.
    """
    if isinstance(content, dict):
        return {k: hidden(v, names) for k, v in content.items()}
    if isinstance(content, (list, tuple)):
        return [hidden(v, names) for v in content]
    if isinstance(content, str):
        for part in sorted(names, key=len, reverse=True):
            content = content.replace(part, names[part])
    return content
