# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""One case of the MRI or the CT alone: read the image and its lesion masks, judge it, measure and write."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

from roi_fusion.data.ct_fill import repair_ct
from roi_fusion.data.grids import resample, respaced, same_grid, spacing_mm, thick_axis_last
from roi_fusion.data.io import Volume, read_volume
from roi_fusion.data.plausibility import Judgement, Placed, judge_pair
from roi_fusion.data.results import versions
from roi_fusion.errors import InputError
from roi_fusion.values import write_json

from ..layouts import CaseSource
from .masks import read_mask
from .options import PrepareOptions, fingerprint
from .storage import CASE_RECORD, WholeFolder

__all__ = ["prepare_single"]

#: What lies where the image shows nothing.
_OUTSIDE = {"mri": 0.0, "ct": -1024.0}


def prepare_single(
    source: CaseSource, output_dir: str | Path, options: PrepareOptions, mark: str | None = None
) -> dict[str, Any]:
    """Prepare a case of one image and write ``<output_dir>/<case>/``, all of it or nothing.

    The folder holds ``mri`` or ``ct``, ``lesion_mask`` where it is known, ``lesion_mask_r2`` of a second rater (``.nii.gz``),
    ``overlay.png`` and ``case.json``. Brain and bone are left to whoever reads the case.

    Args:
        source: where the parts lie; its ``alone`` names the image.
        output_dir: folder of cases.
        options: of which only ``spacing_mm`` counts.
        mark: :func:`~.options.fingerprint` of the inputs, where it is known.

    Returns:
        The content of ``case.json``.

    Raises:
        InputError: when the case cannot be used, or the folder holds files that a user may have made.
    """
    start, modality = time.perf_counter(), source.alone
    given = source.mri if modality == "mri" else source.ct
    if source.refused is not None or given is None:
        raise InputError(source.refused or f"{source.case}: expected {modality.upper()}, got none")
    WholeFolder(Path(output_dir), source.case).check()
    image = read_volume(given)
    judged = _judge(image, modality)
    paths = {f"lesion_mask_{rater}": path for rater, path in source.more_masks.items()}
    if source.lesion_mask is not None:
        paths = {"lesion_mask": source.lesion_mask, **paths}
    masks = {role: read_mask(path, "lesion mask", {modality: image})[0] for role, path in paths.items()}
    shape, affine = image.array.shape, image.affine
    if options.spacing_mm is not None:
        shape, affine = respaced(shape, affine, options.spacing_mm)
    arrays = {modality: _placed(image, shape, affine, min(_OUTSIDE[modality], float(image.array.min())))}
    arrays |= {role: _placed(mask, shape, affine, 0.0) >= 0.5 for role, mask in masks.items()}
    facts = {
        "case": source.case,
        "subject": source.subject or source.case,
        "fingerprint": mark or fingerprint(source, options),
        "inputs": {modality: image.source, **{role: str(path) for role, path in paths.items()}},
        "input_files": {role: str(path.resolve()) for role, path in reversed(source.files())},
        "contrast": source.contrast or None,
        "alone": modality,
        "part": source.part or None,
        "options": asdict(options),
        "masks": {role: f"{modality}: {path}" for role, path in paths.items()},
        "quality": _quality(arrays, affine),
        "plausibility": judged.facts,
        "flags": ["doubtful"] if judged.warnings else [],
        "notes": [*source.notes, *image.notes, *judged.warnings, *judged.notes],
        "shape": [int(n) for n in shape],
        "spacing_mm": [round(float(s), 4) for s in spacing_mm(affine)],
        "seconds": round(time.perf_counter() - start, 1),
        "versions": versions(),
    }
    facts = source.hide(facts)
    _write(Path(output_dir), arrays, affine, facts)
    return facts


def _judge(image: Volume, modality: str) -> Judgement:
    if modality == "mri":
        judged = judge_pair(Placed(image.array, image.affine), None, names=(image.source, ""))
    else:
        image.array, unseen, mended = repair_ct(image.array, image.source)
        image.notes += mended
        judged = judge_pair(None, Placed(image.array, image.affine), ct_unseen=unseen, names=("", image.source))
    if judged.refusals:
        raise InputError(judged.refusals[0])
    return judged


def _placed(volume: Volume, shape: tuple[int, ...], affine: np.ndarray, outside: float) -> np.ndarray:
    if same_grid(volume.array.shape, volume.affine, shape, affine):
        return volume.array
    return resample(volume.array, volume.affine, shape, affine, np.eye(4), outside=outside)


def _quality(arrays: Mapping[str, np.ndarray], affine: np.ndarray) -> dict[str, float]:
    if "lesion_mask" not in arrays:
        return {}
    return {"lesion_ml": round(float(arrays["lesion_mask"].sum()) * float(np.prod(spacing_mm(affine))) / 1000, 3)}


def _write(root: Path, arrays: Mapping[str, np.ndarray], affine: np.ndarray, facts: dict[str, Any]) -> None:
    with WholeFolder(root, facts["case"]) as folder:
        for name, array in arrays.items():
            kind = np.uint8 if array.dtype == bool else np.float32
            stored = np.clip(np.round(array), -32768, 32767).astype(np.int16) if name == "ct" else array.astype(kind)
            volume = nib.Nifti1Image(stored, affine)
            volume.header.set_xyzt_units("mm")
            nib.save(volume, folder / f"{name}.nii.gz")
        figure = _figure(arrays[facts["alone"]], arrays.get("lesion_mask"), affine, facts["alone"])
        figure.savefig(folder / "overlay.png", dpi=80, facecolor="black")
        write_json(folder / CASE_RECORD, facts)


def _figure(image: np.ndarray, lesion: np.ndarray | None, affine: np.ndarray, modality: str, num_slices: int = 4) -> Figure:
    """Slices of the image, the lesion outlined; radiological convention."""
    upright, turned = thick_axis_last(image, affine)
    mask = None if lesion is None else thick_axis_last(lesion, affine)[0]
    if mask is not None and mask.any():
        order = np.argsort(-mask.sum((0, 1)), kind="stable")[:num_slices]
        chosen = sorted(int(k) for k in order)
    else:
        chosen = [int(q * (upright.shape[-1] - 1)) for q in np.linspace(0.2, 0.8, num_slices)]
    low, high = (0.0, 80.0) if modality == "ct" else (float(image.min()), float(np.percentile(image, 99.5)))
    spacing = spacing_mm(turned)
    figure = Figure(figsize=(2.3 * num_slices, 2.8), facecolor="black")
    for ax, k in zip(figure.subplots(1, num_slices), chosen):
        ax.axis("off")
        plane = [v[..., k] for v in (upright, mask) if v is not None]
        for axis in (0, 1):  # rising index to the patient's left and to the back
            if turned[axis, axis] > 0:
                plane = [np.flip(p, axis) for p in plane]
        ax.imshow(plane[0].T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=float(spacing[1] / spacing[0]))
        if len(plane) > 1 and plane[1].any() and not plane[1].all():
            ax.contour(plane[1].T, [0.5], colors="lime", linewidths=0.7)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.01)
    return figure
