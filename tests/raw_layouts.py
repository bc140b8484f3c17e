# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Unregistered phantom pairs on disk as challenges, archives and scanners lay them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from unregistered import Pair


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = np.uint8 if array.dtype == bool else np.int16 if array.dtype.kind == "i" else np.float32
    nib.save(nib.Nifti1Image(array.astype(kind), affine), path)
    return path


def _cases(root: Path, pair: Pair) -> None:
    folder = root / "preproc" / "train_000"
    save(folder / "ct.nii.gz", pair.ct, pair.ct_affine)
    save(folder / "adc.nii.gz", pair.mri, pair.mri_affine)
    save(folder / "lesion_mask.nii.gz", pair.lesion, pair.mri_affine)
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text("train_000\n")


def _pairs(root: Path, pair: Pair) -> None:
    save(root / "x_ct.nii.gz", pair.ct, pair.ct_affine)
    save(root / "x_mri.nii.gz", pair.mri, pair.mri_affine)
    save(root / "x_lesion_mask.nii.gz", pair.lesion, pair.mri_affine)


def _bids(root: Path, pair: Pair) -> None:
    save(root / "sub-01" / "ses-a" / "ct" / "sub-01_ses-a_ct.nii.gz", pair.ct, pair.ct_affine)
    save(root / "sub-01" / "ses-a" / "dwi" / "sub-01_ses-a_dwi.nii.gz", pair.mri, pair.mri_affine)
    save(root / "sub-01" / "ses-a" / "anat" / "sub-01_ses-a_FLAIR.nii.gz", pair.mri, pair.mri_affine)
    save(root / "derivatives" / "sub-01" / "ses-a" / "sub-01_ses-a_label-lesion_mask.nii.gz", pair.lesion, pair.mri_affine)
    save(root / "sub-02" / "anat" / "sub-02_T1w.nii.gz", pair.mri, pair.mri_affine)  # no CT


def _isles24(root: Path, pair: Pair) -> None:
    subject = root / "rawdata" / "sub-stroke0001"
    save(subject / "ses-01" / "sub-stroke0001_ses-01_ncct.nii.gz", pair.ct, pair.ct_affine)
    save(subject / "ses-01" / "sub-stroke0001_ses-01_cta.nii.gz", pair.ct, pair.ct_affine)
    save(subject / "ses-02" / "sub-stroke0001_ses-02_dwi.nii.gz", pair.mri, pair.mri_affine)
    save(subject / "ses-02" / "sub-stroke0001_ses-02_adc.nii.gz", pair.mri, pair.mri_affine)
    mask = root / "derivatives" / "sub-stroke0001" / "ses-02" / "sub-stroke0001_ses-02_lesion-msk.nii.gz"
    save(mask, pair.lesion, pair.mri_affine)


def _apis(root: Path, pair: Pair) -> None:
    save(root / "raw" / "ct" / "train_000" / "train_000_ct.nii.gz", pair.ct, pair.ct_affine)
    save(root / "raw" / "adc" / "train_000" / "train_000_adc.nii.gz", pair.mri, pair.mri_affine)
    save(root / "raw" / "lesion_masks" / "train_000" / "train_000_r1.nii.gz", pair.lesion, pair.mri_affine)


def _dicom(root: Path, pair: Pair) -> None:
    dicom_series(root / "patient1" / "a", pair.ct, pair.ct_affine, "CT", description="Head 5mm", number=2)
    dicom_series(root / "patient1" / "a", pair.ct[:, :, :1], pair.ct_affine, "CT", description="Topogram", number=1)
    dicom_series(root / "patient1" / "b", pair.mri, pair.mri_affine, "MR", description="ep2d_diff ADC", number=5)
    save(root / "patient1" / "lesion_mask.nii.gz", pair.lesion, pair.mri_affine)


#: Layout → writer of one pair, and the name of the case that comes out.
LAYOUT_WRITERS: dict[str, tuple[Callable[[Path, Pair], None], str]] = {
    "cases": (_cases, "train_000"),
    "pairs": (_pairs, "x"),
    "bids": (_bids, "sub-01"),
    "isles24": (_isles24, "sub-stroke0001"),
    "apis": (_apis, "train_000"),
    "dicom": (_dicom, "patient1"),
}


def dicom_series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray,
    modality: str,
    *,
    description: str = "",
    number: int = 1,
    tilt_mm: float = 0.0,
    patient: str = "P1",
    study: str = "1.2.3.4",
    slope: float = 1.0,
    intercept: float | None = None,
) -> list[Path]:
    """Write one file a slice, named at random so that only headers tell the order.

    Args:
        folder: gets the files.
        array: ``[X, Y, Z]``.
        affine: index to RAS millimetres.
        modality: CT or MR.
        description, number, patient, study: of the series.
        tilt_mm: shift of each slice against the last along the second axis: a tilted gantry.
        slope, intercept: of the stored numbers; a CT's intercept is -1024 where none is given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    unit = lps[:3, :3] / spacing
    intercept = (-1024.0 if modality == "CT" else 0.0) if intercept is None else intercept
    stored = np.clip(np.round((array - intercept) / slope), 0, 65535).astype(np.uint16)
    uid, rng, written = generate_uid(), np.random.default_rng(number), []
    for k, name in enumerate(rng.permutation(array.shape[2])):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"s{number}_{name:04d}"
        d = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        d.SOPClassUID, d.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        d.StudyInstanceUID, d.SeriesInstanceUID = study, uid
        d.PatientID, d.PatientName, d.Modality = patient, "phantom", modality
        d.SeriesDescription, d.SeriesNumber, d.InstanceNumber = description, number, k + 1
        d.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if "opogram" in description else "AXIAL"]
        position = lps[:3, 3] + k * lps[:3, 2] + k * tilt_mm * unit[:, 1]
        d.ImagePositionPatient = [f"{v:.6f}" for v in position]
        d.ImageOrientationPatient = [f"{v:.6f}" for v in (*unit[:, 0], *unit[:, 1])]
        d.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
        d.SliceThickness = f"{spacing[2]:.6f}"
        d.Columns, d.Rows = array.shape[0], array.shape[1]
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
        d.RescaleSlope, d.RescaleIntercept = slope, intercept
        d.PixelData = np.ascontiguousarray(stored[..., k].T).tobytes()  # rows first
        pydicom.dcmwrite(path, d, enforce_file_format=True)
        written.append(path)
    return written
