# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A study as a scanner writes it: headers that results take over, and others that must not leave it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom

from raw_layouts import dicom_series
from roi_fusion.data.grids import spacing_mm
from roi_fusion.data.io import read_volume

FRAME = "1.2.826.0.1.3680043.8.498.7"

#: Attributes of patient and study, which results keep.
KEPT = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientName": "Müller^Anna",
    "PatientID": "KEEP-4711",
    "PatientBirthDate": "19500102",
    "PatientSex": "F",
    "StudyDate": "20260301",
    "StudyTime": "101112",
    "StudyID": "77",
    "StudyDescription": "Stroke",
    "AccessionNumber": "ACC-9",
    "ReferringPhysicianName": "Ref^Doctor",
}

#: Attributes that nothing may take over.
SECRET = {
    "InstitutionName": "SECRET hospital",
    "InstitutionAddress": "SECRET street",
    "StationName": "SECRETSTATION",
    "OperatorsName": "SECRET^Operator",
    "PerformingPhysicianName": "SECRET^Performer",
    "PhysiciansOfRecord": "SECRET^Record",
    "ProtocolName": "SECRET protocol",
    "SeriesDescription": "SECRET description",
    "DeviceSerialNumber": "SECRETSERIAL",
    "PatientAddress": "SECRET home",
    "PatientComments": "SECRET comment",
    "ImageComments": "SECRET image comment",
    "RequestingPhysician": "SECRET^Requesting",
    "Manufacturer": "SECRETMAKER",
}


def oblique(spacing: tuple[float, float, float] = (0.9, 1.1, 5.0)) -> np.ndarray:
    """An affine to RAS millimetres that is turned about two axes."""
    a, b = np.radians(17), np.radians(-9)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing @ np.diag([-1, -1, 1])
    affine[:3, 3] = (40, 55, -30)
    return affine


def complete(files: list[Path], **fields: Any) -> list[Path]:
    """Give the files of a series all that a scanner writes, and `fields`."""
    for file in files:
        header = pydicom.dcmread(file)
        for name, value in {**KEPT, **SECRET, **fields}.items():
            setattr(header, name, value)
        header.FrameOfReferenceUID = fields.get("FrameOfReferenceUID", FRAME)
        header.add_new(0x00091001, "LO", "SECRET private")
        if header.Modality == "MR":
            header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "EP", "SK", ""
            header.MRAcquisitionType, header.EchoTime, header.RepetitionTime = "2D", 80, 4000
            header.EchoTrainLength, header.PatientPosition = 1, "HFS"
        header.save_as(file)
    return files


def results_of(folder: Path, mri: Path, **facts: Any) -> Path:
    """Results on a series' grid, as a prediction writes them: random numbers, a lesion of known place."""
    volume = read_volume(mri)
    rng, shape = np.random.default_rng(1), volume.array.shape
    lesion = np.zeros(shape, np.uint8)
    lesion[3:7, 4:9, 1:3] = 1
    lesion[-2, 1, -1] = 1  # where no flip and no turn leaves it
    provenance = rng.random(shape).astype(np.float32)
    provenance[:2] = np.nan
    arrays = {
        "fused": (volume.array * 0.9 + rng.normal(0, 3, shape)).astype(np.float32),
        "lesion": lesion,
        "lesion_prob": (0.8 * lesion + 0.1 * rng.random(shape)).astype(np.float32),
        "uncertainty": rng.random(shape).astype(np.float32),
        "provenance": provenance,
    }
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, volume.affine), folder / f"{name}.nii.gz")
    content = {
        "case": folder.name,
        "mri": str(mri),
        "lesion_ml": round(float(lesion.sum() * np.prod(spacing_mm(volume.affine)) / 1000), 4),
        "lesion_ml_interval": [0.05, 0.9],
        "lesion_ml_interval_note": None,
        "lesion_ml_is_lower_bound": False,
        "lesion_threshold": 0.45,
        "seed": 0,
        "num_inference_steps": 4,
        "num_samples": 2,
        "guidance": {"mode": "off"},
        "guidance_masks": [],
        "weights": {"sha256": "ab" * 32},
        "versions": {"roi_fusion": "0.2.0"},
    }
    (folder / "result.json").write_text(json.dumps({**content, **facts}))
    return folder


def mr_series(folder: Path, affine: np.ndarray | None = None, shape: tuple[int, int, int] = (12, 14, 5), **fields: Any) -> Path:
    """An MR series of noise with complete headers."""
    array = np.random.default_rng(0).integers(0, 1500, shape)
    complete(dicom_series(folder, array, oblique() if affine is None else affine, "MR", number=3), **fields)
    return folder


def dciodvfy(path: Path) -> list[str]:
    """The errors that dicom3tools finds in a file."""
    tool = Path(sys.executable).with_name("dciodvfy")
    done = subprocess.run([str(tool), str(path)], capture_output=True, text=True, timeout=60)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
