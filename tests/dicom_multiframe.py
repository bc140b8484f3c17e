# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""DICOM files that hold several images: enhanced multi-frame CT and MR, and the mosaics of Siemens."""

from __future__ import annotations

import struct
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from dicom_study import FRAME, KEPT


def _group(**items: Any) -> Dataset:
    out = Dataset()
    for name, value in items.items():
        setattr(out, name, value)
    return out


def _file(path: Path, sop_class: str, modality: str, shape: tuple[int, ...]) -> FileDataset:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = "1.2.3.4", generate_uid(), FRAME
    d.Modality, d.SeriesNumber, d.InstanceNumber = modality, 5, 1
    for name, value in KEPT.items():
        setattr(d, name, value)
    d.ImageType = ["ORIGINAL", "PRIMARY", "HEAD", "NONE"]
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
    d.Columns, d.Rows = shape[:2]
    return d


def enhanced(
    path: Path,
    arrays: Items[np.ndarray],
    affine: np.ndarray,
    modality: str,
    *,
    b_values: Items[float] = (),
    frame_types: Items[str] = (),
    scaling: tuple[float, float] = (1.0, 0.0),
    syntax: str | None = None,
) -> Path:
    """Write volumes ``[X, Y, Z]`` on one grid as one multi-frame file, its frames in random order.

    Args:
        path: file.
        arrays: the volumes.
        affine: index to RAS millimetres.
        modality: CT or MR.
        b_values, frame_types: of the volumes.
        scaling: slope and intercept, which stand in each frame.
        syntax: transfer syntax to compress to.
    """
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    unit = lps[:3, :3] / spacing
    d = _file(path, EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage, modality, arrays[0].shape)
    measures = _group(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=spacing[2])
    orientation = _group(ImageOrientationPatient=[round(float(v), 8) for v in (*unit[:, 0], *unit[:, 1])])
    d.SharedFunctionalGroupsSequence = Sequence(
        [_group(PixelMeasuresSequence=Sequence([measures]), PlaneOrientationSequence=Sequence([orientation]))]
    )
    places = [(n, k) for n, array in enumerate(arrays) for k in range(array.shape[2])]
    frames, planes = [], []
    for at in np.random.default_rng(2).permutation(len(places)):
        n, k = places[at]
        position = _group(ImagePositionPatient=[round(float(v), 6) for v in lps[:3, 3] + k * lps[:3, 2]])
        values = _group(RescaleSlope=scaling[0], RescaleIntercept=scaling[1], RescaleType="HU" if modality == "CT" else "US")
        frame = _group(PlanePositionSequence=Sequence([position]), PixelValueTransformationSequence=Sequence([values]))
        if b_values:
            frame.MRDiffusionSequence = Sequence([_group(DiffusionBValue=float(b_values[n]))])
        if frame_types:
            frame.MRImageFrameTypeSequence = Sequence([_group(FrameType=frame_types[n].split("\\"))])
        frames.append(frame)
        planes.append(np.round((arrays[n][..., k].T - scaling[1]) / scaling[0]).astype(np.uint16))
    d.NumberOfFrames, d.PerFrameFunctionalGroupsSequence = len(frames), Sequence(frames)
    d.PixelData = np.stack(planes).tobytes()
    if syntax is not None:
        d.compress(syntax, generate_instance_uid=False)
    pydicom.dcmwrite(path, d, enforce_file_format=True)
    return path


def _csa(tags: dict[str, list[str]]) -> bytes:
    """Siemens' private header, second version, as nibabel.nicom.csareader reads it."""
    out = b"SV10\4\3\2\1" + struct.pack("<2I", len(tags), 77)
    for name, values in tags.items():
        out += struct.pack("<64si4s3i", name.encode(), len(values), b"FD", 3, 6, 77)
        for value in [*values, *[""] * (6 - len(values))]:
            data = value.encode()
            out += struct.pack("<4i", len(data), len(data), 77, len(data)) + data + b"\0" * (-len(data) % 4)
    return out


def mosaic(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Write a volume as the square that Siemens' echo-planar images come in."""
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    unit = lps[:3, :3] / spacing
    columns, rows, count = array.shape
    across = int(np.ceil(np.sqrt(count)))
    square = np.zeros((across * rows, across * columns), np.uint16)
    for k in range(count):
        down, right = divmod(k, across)
        square[down * rows : (down + 1) * rows, right * columns : (right + 1) * columns] = array[..., k].T
    d = _file(path, MRImageStorage, "MR", square.T.shape)
    d.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    corner = (
        lps[:3, 3] - unit[:, 0] * spacing[0] * (across - 1) * columns / 2 - unit[:, 1] * spacing[1] * (across - 1) * rows / 2
    )
    d.ImagePositionPatient = [f"{v:.6f}" for v in corner]
    d.ImageOrientationPatient = [f"{v:.8f}" for v in (*unit[:, 0], *unit[:, 1])]
    d.PixelSpacing, d.SliceThickness = [spacing[1], spacing[0]], spacing[2]
    d.SpacingBetweenSlices = spacing[2]
    block = d.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    header = {"NumberOfImagesInMosaic": [str(count)], "SliceNormalVector": [f"{v:.8f}" for v in unit[:, 2]]}
    block.add_new(0x10, "OB", _csa(header))
    d.PixelData = square.tobytes()
    pydicom.dcmwrite(path, d, enforce_file_format=True)
    return path
