# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""One study from the archive through the network and back, so that no result is there twice or half."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from roi_fusion.data.dicom_choice import choose_series
from roi_fusion.data.dicom_out.source import identities, result_key, uid_of
from roi_fusion.data.dicom_out.write import written_files
from roi_fusion.data.io import DicomSeries, scan_dicom
from roi_fusion.data.naming import Naming
from roi_fusion.data.results import read_result
from roi_fusion.errors import InputError

from ..layouts.names import short_hash
from .archive import Archive

__all__ = ["Outcome", "Wanted", "process_study"]

logger = logging.getLogger(__name__)


class Predicts(Protocol):
    """What of a :class:`~roi_fusion.engine.prediction.Predictor` is needed here."""

    def settings(self) -> dict[str, Any]:
        """What results depend on beside the images: the weights and the knobs."""

    def __call__(self, mri_path: str | Path | None, ct_path: str | Path | None, output_dir: str | Path | None) -> Any: ...


@dataclass(frozen=True)
class Wanted:
    """Which images of an archive to take.

    Attributes:
        study: UID of the study with the MRI, which gets the results.
        ct_study: UID of the CT's study, where it is another one.
        mri_series, ct_series: UIDs, where the rule of :func:`~roi_fusion.data.dicom_choice.choose_series` is not to choose.
    """

    study: str
    ct_study: str | None = None
    mri_series: str | None = None
    ct_series: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a study.

    Attributes:
        folder: its results; None where the archive had them already.
        sent: how many files the archive got.
        lesion_ml: volume of the lesion; None where none is known.
    """

    folder: Path | None
    sent: int
    lesion_ml: float | None = None


def process_study(
    archive: Archive, wanted: Wanted, output_dir: str | Path, predict: Predicts, naming: Naming | None = None
) -> Outcome:
    """Fetch MRI and CT of a study, fuse them, and store the results in the study.

    Results have UIDs of their images, weights and settings: where the archive has the report, which comes last, nothing is
    done; where it has a part, the rest is sent. Results that an earlier try left in `output_dir` are not computed again.

    Args:
        archive: that has the study.
        wanted: the images to take.
        output_dir: gets a folder of results named by a keyed hash of the study's UID.
        predict: the network, which also writes DICOM and calls a case as the folder of its images.
        naming: gives the study its name; None: by the default key.

    Raises:
        InputError: when the images cannot be used, or the archive is away or refuses.
    """
    with TemporaryDirectory(prefix="roi_fusion_pacs_") as scratch:
        naming = naming or Naming(output_dir=output_dir)
        name = naming.noted(naming.name(wanted.study, "study"), wanted.study) if naming.hashed else wanted.study
        mri, ct = _fetched(archive, wanted, Path(scratch) / name)
        key = result_key(identities(mri, "mr"), identities(ct, "ct"), predict.settings())
        report = uid_of(key, "report", 1)
        if archive.stored(wanted.study, uid_of(key, "report")):
            return Outcome(None, 0)
        folder = Path(output_dir) / name
        if report not in written_files(folder).get("report", {}):
            predict(mri, ct, output_dir)
    files = written_files(folder)
    if report not in files.get("report", {}):
        raise InputError(f"{folder}: expected the results of this study as DICOM, got those of another")
    sent = 0
    for result, by_uid in files.items():
        there = archive.stored(wanted.study, uid_of(key, result))
        missing = [path for uid, path in by_uid.items() if uid not in there]
        archive.store(wanted.study, missing)
        sent += len(missing)
    return Outcome(folder, sent, (read_result(folder) or {}).get("lesion_ml"))


def _fetched(archive: Archive, wanted: Wanted, folder: Path) -> tuple[Path, Path]:
    """Folders with the MRI and the CT, named ``mri`` and ``ct``."""
    mri = _one(archive, wanted.study, wanted.mri_series, "mr", folder)
    ct = _one(archive, wanted.ct_study or wanted.study, wanted.ct_series, "ct", folder)
    if mri.patient_id != ct.patient_id:
        raise InputError(f"study {wanted.study}: expected MRI and CT of one patient, got two PatientIDs")
    paths = []
    for series, name in ((mri, "mri"), (ct, "ct")):
        for note in series.notes:
            logger.info("study %s: %s", wanted.study, note)
        os.rename(series.files[0].parent, folder / name)
        paths.append(folder / name)
    return paths[0], paths[1]


def _one(archive: Archive, study: str, chosen: str | None, role: str, folder: Path) -> DicomSeries:
    """The MRI or the CT of a study, fetched."""
    offers = archive.series(study)
    if not offers:
        raise InputError(f"{archive.url}: expected the study {study}, found none")
    fitting = [o for o in offers if o.modality.lower() == role and chosen in (None, o.uid)]
    if not fitting:
        option = {"mr": "mri_series", "ct": "ct_study or --ct_series"}[role]
        what = f"the series {chosen}" if chosen else {"mr": "an MRI", "ct": "a CT"}[role]
        there = ", ".join(sorted({o.modality for o in offers}))
        raise InputError(f"study {study}: expected {what} in it, found only {there}; --{option} names another")
    for offer in fitting:
        archive.fetch(study, offer, folder / "fetched" / role / short_hash(offer.uid))
    found = scan_dicom(p for p in sorted((folder / "fetched" / role).rglob("*.dcm")))
    return choose_series(f"study {study}", found, role)
