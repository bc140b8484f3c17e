# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Writes the results of one case as DICOM, beside the result files that they are made of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ...errors import InputError
from ..grids import same_grid
from ..io import read_volume
from ..results import read_result
from .objects import ResultObjects
from .report import volume_report
from .source import identities, load_highdicom, read_source, result_key

__all__ = ["DICOM_FOLDER", "write_dicom", "written_files"]

#: Folder of a case that holds its DICOM files.
DICOM_FOLDER = "dicom"


def write_dicom(case_dir: str | Path, mri: str | Path, ct: str | Path | None = None) -> dict[str, list[Path]]:
    """Write the results of a case as DICOM into ``<case_dir>/dicom/``, whole or not at all.

    The lesion becomes a binary and a fractional segmentation, its volume a structured report (TID 1500), the fused volume an MR
    series, provenance and uncertainty parametric maps. Patient, study and frame of reference are those of the MRI. The same
    images, weights and settings give the same UIDs.

    Args:
        case_dir: folder of a case's results, with ``result.json``.
        mri: folder or file of the DICOM series that they were made of.
        ct: folder or file of the CT.

    Returns:
        Name of a result → its files, in the order in which an archive should get them, the report last.

    Raises:
        InputError: when there are no results, the MRI is no DICOM series or not the one that they lie on, or highdicom is not
            installed.

    Example:
        >>> write_dicom("results/case", "study/t2", "study/ct")["lesion"]  # doctest: +SKIP
        [PosixPath('results/case/dicom/lesion.dcm')]
    """
    load_highdicom()
    folder = Path(case_dir)
    facts = read_result(folder)
    if facts is None:
        raise InputError(f"{folder}: expected the results of a case, found no result.json that can be read")
    source = read_source(mri, ct)
    volumes, affine = _volumes(folder)
    grid = read_volume(mri, as_stored=True, role="mr")
    if not same_grid(next(iter(volumes.values())).shape, affine, grid.array.shape, grid.affine):
        raise InputError(f"{source.path}: expected the series that the results in {folder} lie on, got one of another place")
    key = result_key(identities(mri, "mr"), identities(ct, "ct"), facts)
    scratch, final = folder / f".{DICOM_FOLDER}.partial", folder / DICOM_FOLDER
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    written: dict[str, list[Path]] = {}
    for name, path, dataset in _datasets(ResultObjects(source, key, affine, facts), volumes, _window(folder)):
        (scratch / path).parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(scratch / path, enforce_file_format=True)
        written.setdefault(name, []).append(final / path)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(scratch, final)
    return written


def written_files(case_dir: str | Path) -> dict[str, dict[str, Path]]:
    """The DICOM files of a case: name of a result → SOP instance UID → file, the report last; empty where there are none.

    Args:
        case_dir: folder of a case's results.
    """
    import pydicom

    found: dict[str, dict[str, Path]] = {}
    for name in ("fused", "lesion", "lesion_prob", "provenance", "uncertainty", "report"):
        at = Path(case_dir) / DICOM_FOLDER / name
        for path in sorted(at.glob("*.dcm")) if at.is_dir() else [at.with_name(f"{name}.dcm")]:
            if path.is_file():
                header = pydicom.dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
                found.setdefault(name, {})[str(header.SOPInstanceUID)] = path
    return found


def _datasets(
    objects: ResultObjects, volumes: dict[str, np.ndarray], window: tuple[float, float] | None
) -> Iterator[tuple[str, str, Any]]:
    for number, image in enumerate(objects.fused(volumes["fused"], window), start=1):
        yield "fused", f"fused/{number:04d}.dcm", image
    lesion = objects.segmentation("lesion", volumes["lesion"])
    yield "lesion", "lesion.dcm", lesion
    yield "lesion_prob", "lesion_prob.dcm", objects.segmentation("lesion_prob", volumes["lesion_prob"])
    for name in ("provenance", "uncertainty"):
        yield name, f"{name}.dcm", objects.parametric_map(name, volumes[name])
    yield "report", "report.dcm", volume_report(objects, lesion)


def _window(folder: Path) -> tuple[float, float] | None:
    """The display range in the header of the fused volume; None where it states none."""
    header: Any = nib.load(folder / "fused.nii.gz").header
    low, high = float(header["cal_min"]), float(header["cal_max"])
    return (low, high) if high > low else None


def _volumes(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    volumes, affine = {}, np.eye(4)
    for name in ("fused", "lesion", "lesion_prob", "provenance", "uncertainty"):
        path = folder / f"{name}.nii.gz"
        if not path.is_file():
            raise InputError(f"{path}: expected a result of the case, found no such file")
        image: Any = nib.load(path)
        volumes[name], affine = np.asarray(image.dataobj), np.asarray(image.affine, dtype=float)
    return volumes, affine
