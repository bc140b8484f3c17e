# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""From the inferer's channels to the result files of a case, on the MRI's grid and in its units."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from ..values import read_json, write_json
from .naming import is_named

__all__ = [
    "CASE_TABLE",
    "RESULT_FILES",
    "mark_stale",
    "read_case_table",
    "read_result",
    "result_folders",
    "save_case",
    "versions",
    "write_case_table",
    "write_volume",
]

#: File of a case's folder with its rows of the table, exact, and what they were made of. Written last of all.
CASE_TABLE = "metrics.json"

#: Keys of ``result.json`` that are paths, written as seen from its folder.
_PATHS = ("mri", "ct")

#: Key after postprocessing → (file stem, type on disk).
RESULT_FILES = {
    "pred": ("lesion", np.uint8),
    "fused": ("fused", np.float32),
    "lesion_prob": ("lesion_prob", np.float32),
    "uncertainty": ("uncertainty", np.float32),
    "provenance": ("provenance", np.float32),
    "residual": ("residual", np.float32),
    "conflict": ("conflict", np.uint8),
}


def write_volume(path: str | Path, volume: MetaTensor, dtype: Any) -> None:
    """Write a volume ``[1, X, Y, Z]`` of a result as NIfTI, with sform, qform and codes that the MRI came with.

    So every program puts a result where it puts the MRI: nibabel, FSL and Slicer by the sform where its code is above 0, ITK by
    the one of both that it can hold. A qform cannot hold a shear: of a sheared MRI without one, the result has none either.
    ``cal_min`` and ``cal_max`` of the meta data become the header's display range, which viewers start with.
    """
    affine = np.asarray(volume.affine, dtype=np.float64)
    forms = {n: np.asarray(volume.meta[n], dtype=np.float64) for n in ("sform", "qform") if n in volume.meta}
    codes = {n: int(volume.meta.get(f"{n}_code", 1)) for n in ("sform", "qform")}
    best = forms.get("sform" if codes["sform"] else "qform")
    if best is None or (any(codes.values()) and np.abs(best - affine).max() > 1e-2):  # not on the grid of the file read
        forms, codes = {}, dict.fromkeys(codes, 1)
    image = nib.Nifti1Image(np.asarray(volume[0]).astype(dtype), affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(forms.get("qform", affine), codes["qform"])  # sets the voxel sizes too
    image.set_sform(forms.get("sform", affine), codes["sform"])
    low, high = (float(volume.meta.get(n, 0.0)) for n in ("cal_min", "cal_max"))
    if high > low:
        image.header["cal_min"], image.header["cal_max"] = low, high
    nib.save(image, path)


def save_case(output_dir: str | Path, case: str, result: Mapping[str, Any], facts: Mapping[str, Any]) -> Path:
    """Write the volumes of :data:`RESULT_FILES` and ``result.json`` to ``<output_dir>/<case>/``, so that nothing is ever half.

    All are written to ``<output_dir>/.<case>.partial/`` and moved when they are whole; ``result.json`` goes first and comes
    last: a folder that has one holds the volumes that it describes. Other files in the folder stay.

    Args:
        output_dir: folder of results.
        case: name of the case; files are named by it, not by the input's file name.
        result: after postprocessing, on the MRI's grid.
        facts: for ``result.json``; ``mri`` and ``ct`` are written as paths from the case's folder, so that results and inputs
            can be moved together and no name of the machine goes with them; names of DICOM stay as they are.

    Returns:
        The case's folder.
    """
    folder, scratch = Path(output_dir) / case, Path(output_dir) / f".{case}.partial"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir(parents=True)
    for key, (stem, dtype) in RESULT_FILES.items():
        write_volume(scratch / f"{stem}.nii.gz", result[key], dtype)
    write_json(scratch / "result.json", {**facts, **_paths(facts, lambda path: _from_folder(path, folder))})
    folder.mkdir(exist_ok=True)
    for name in (CASE_TABLE, "result.json"):
        (folder / name).unlink(missing_ok=True)
    for name in (*(f"{stem}.nii.gz" for stem, _ in RESULT_FILES.values()), "result.json"):
        os.replace(scratch / name, folder / name)
    scratch.rmdir()
    return folder


def result_folders(output_dir: str | Path) -> list[Path]:
    """The folders of finished cases, sorted by name: those with a ``result.json``, without what a killed run left half."""
    found = (path.parent for path in Path(output_dir).glob("*/result.json"))
    return sorted(folder for folder in found if not (folder.name.startswith(".") and folder.name.endswith(".partial")))


def _paths(facts: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, str]:
    return {k: change(facts[k]) for k in _PATHS if isinstance(facts.get(k), str) and facts[k] and not is_named(facts[k])}


def _from_folder(path: str, folder: Path) -> str:
    try:
        return Path(os.path.relpath(os.path.abspath(path), os.path.realpath(folder))).as_posix()
    except ValueError:  # on another drive
        return os.path.abspath(path)


def _read(folder: str | Path) -> dict[str, Any] | None:
    try:
        facts = read_json(Path(folder) / "result.json")
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def read_result(folder: str | Path) -> dict[str, Any] | None:
    """``result.json`` of a case's folder, ``mri`` and ``ct`` as absolute paths; None where there is none that can be read."""
    facts, here = _read(folder), os.path.realpath(folder)
    return None if facts is None else {**facts, **_paths(facts, lambda path: os.path.normpath(os.path.join(here, path)))}


def write_case_table(
    folder: str | Path, rows: Sequence[Mapping[str, Any]], made_of: Mapping[str, Any] | None, seconds: float | None = None
) -> None:
    """Write :data:`CASE_TABLE`. Numbers that are not finite, which JSON lacks, become ``{"number": "nan"}``.

    Args:
        folder: of the case.
        rows: of the table.
        made_of: what the result was made of.
        seconds: that the case took.
    """
    exact = [
        {k: {"number": str(v)} if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()} for r in rows
    ]
    write_json(Path(folder) / CASE_TABLE, {"made_of": made_of, "rows": exact, "seconds": seconds})


def read_case_table(folder: str | Path) -> dict[str, Any] | None:
    """``{"made_of", "rows", "seconds"}`` as :func:`write_case_table` was given them; None where none can be read."""
    try:
        found = read_json(Path(folder) / CASE_TABLE)
        rows = [{k: float(v["number"]) if isinstance(v, dict) else v for k, v in r.items()} for r in found["rows"]]
        whole = all({"case", "method"} <= set(r) for r in rows)
        return {"made_of": found["made_of"], "rows": rows, "seconds": found.get("seconds")} if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def mark_stale(folder: str | Path, why: str) -> None:
    """Note in a case's ``result.json`` that its results are of an earlier run, because the last one refused the case."""
    facts = _read(folder)
    if facts is not None:
        write_json(Path(folder) / "result.json", {**facts, "stale": f"of an earlier run; the last one refused the case: {why}"})


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    from .. import __version__

    return {"roi_fusion": __version__, "monai": monai.__version__, "torch": torch.__version__, "nibabel": nib.__version__}
