# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""One case: read the pair and its masks, find the pose, put all on one grid, measure and write."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from roi_fusion.core.masks import cranial_masks, head_mask
from roi_fusion.data.ct_fill import repair_ct
from roi_fusion.data.grids import resample, respaced, same_grid, spacing_mm, thick_axis_order
from roi_fusion.data.io import Volume, check_pair, read_volume
from roi_fusion.data.itk_bridge import write_transform
from roi_fusion.data.plausibility import Judgement, Placed, judge_lesion, judge_pair
from roi_fusion.data.registration import Registration, measure, register
from roi_fusion.data.results import versions
from roi_fusion.data.transforms.loading import CheckVolumesd
from roi_fusion.errors import InputError
from roi_fusion.values import write_json

from ..layouts import CaseSource
from ..prepare_page import contour_shift, overlay_figure, quality_flags
from .masks import read_mask
from .options import PrepareOptions, fingerprint
from .single import prepare_single
from .storage import CASE_RECORD, WholeFolder

__all__ = ["prepare_case"]

_AIR_HU = -1024
#: Role of a mask → its key in the transforms.
_KEYS = {"lesion_mask": "label", "brain_mask": "brain", "bone_mask": "bone"}


@dataclass
class _Inputs:
    """The pair, and role → mask with the image, ``"mri"`` or ``"ct"``, on whose grid it lies."""

    mri: Volume
    ct: Volume
    masks: dict[str, tuple[Volume, str]]
    mask_paths: dict[str, Path]
    ct_unseen: np.ndarray


@dataclass
class _Outcome:
    """Arrays on the outcome's grid.

    Attributes:
        affine: of the grid, index to RAS millimetres.
        mri, ct: ``[X, Y, Z]``.
        before: both as the headers place them.
        masks: role → boolean mask; brain and bone always, the lesion where it is known.
        moved: millimetres of the outcome → of the image that is not the reference.
    """

    affine: np.ndarray
    mri: np.ndarray
    ct: np.ndarray
    before: tuple[np.ndarray, np.ndarray]
    masks: dict[str, np.ndarray]
    moved: np.ndarray


def prepare_case(
    source: CaseSource, output_dir: str | Path, options: PrepareOptions, mark: str | None = None
) -> dict[str, Any]:
    """Prepare one pair and write ``<output_dir>/<case>/``, all of it or nothing.

    A case of one image goes to :func:`~.single.prepare_single`.

    The folder holds ``mri``, ``ct``, ``brain_mask``, ``bone_mask`` and, where known, ``lesion_mask`` (``.nii.gz``, one grid),
    ``transform.tfm``, ``overlay.png`` and ``case.json``.

    Args:
        source: where the parts lie.
        output_dir: folder of cases.
        options: what to do.
        mark: :func:`~.options.fingerprint` of the inputs, where it is known.

    Returns:
        The content of ``case.json``.

    Raises:
        InputError: when the pair cannot be used, or the folder holds files that a user may have made.
    """
    start = time.perf_counter()
    if source.alone and source.refused is None:
        return prepare_single(source, output_dir, options, mark)
    if source.refused is not None or source.mri is None or source.ct is None:
        raise InputError(source.refused or f"{source.case}: expected an MRI and a CT, got one of them")
    WholeFolder(Path(output_dir), source.case).check()
    inputs = _read(source)
    found = _pose(source.case, inputs, options)
    judged = _judge(inputs, found)
    outcome = _place(inputs, found, options)
    _judge_outcome(judged, inputs, outcome)
    facts = {
        "case": source.case,
        "subject": source.subject or source.case,
        "fingerprint": mark or fingerprint(source, options),
        **_facts(source, inputs, found, outcome, options, judged),
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {**versions(), "itk": _itk_version()},
    }
    facts = source.hide(facts)
    _write(Path(output_dir), outcome, found, options, facts)
    return facts


def _read(source: CaseSource) -> _Inputs:
    assert source.mri is not None
    assert source.ct is not None
    mri, ct = read_volume(source.mri), read_volume(source.ct)
    ct.array, unseen, mended = repair_ct(ct.array, ct.source)
    ct.notes += mended
    check_pair(mri, ct)
    paths = {r: p for r in ("lesion_mask", "brain_mask", "bone_mask") if (p := getattr(source, r)) is not None}
    paths |= {f"lesion_mask_{rater}": path for rater, path in source.more_masks.items()}
    images = {"mri": mri, "ct": ct}
    masks = {r: read_mask(p, "_".join(r.split("_")[:2]).replace("_", " "), images) for r, p in paths.items()}
    return _Inputs(mri, ct, masks, paths, unseen)


def _pose(case: str, inputs: _Inputs, options: PrepareOptions) -> Registration:
    volumes = (inputs.mri.array, inputs.mri.affine, inputs.ct.array, inputs.ct.affine)
    try:
        found = register(*volumes, affine=options.affine) if options.register else measure(*volumes)
    except InputError as e:
        raise InputError(f"{case}: {e}") from None
    if found.overlap < 0.1:
        raise InputError(
            f"{case}: expected a CT that shows the MRI's head, got {100 * found.overlap:.0f} % of it inside the field of view"
        )
    return found


def _judge(inputs: _Inputs, found: Registration) -> Judgement:
    """The judgement that training and inference will make, with the CT where the registration puts it."""
    mri, ct = inputs.mri, inputs.ct
    moved = Placed(ct.array, np.linalg.inv(found.matrix) @ ct.affine)
    judged = judge_pair(Placed(mri.array, mri.affine), moved, ct_unseen=inputs.ct_unseen, names=(mri.source, ct.source))
    if judged.refusals:
        raise InputError(judged.refusals[0])
    return judged


def _judge_outcome(judged: Judgement, inputs: _Inputs, outcome: _Outcome) -> None:
    """Check and judge what will be written, as it will be read: what serves on its own grids need not do so on another.

    Raises:
        InputError: with the first refusal.
    """
    names = {"image": inputs.mri.source, "ct": inputs.ct.source}
    names |= {_KEYS[r]: str(inputs.mask_paths.get(r, inputs.ct.source)) for r in outcome.masks if r in _KEYS}
    arrays = {"image": outcome.mri.astype(np.float32), "ct": _stored_hu(outcome.ct).astype(np.float32)}
    arrays |= {_KEYS[r]: mask.astype(np.uint8) for r, mask in outcome.masks.items() if r in _KEYS}
    try:
        CheckVolumesd(list(arrays))(
            {k: MetaTensor(torch.from_numpy(a)[None], meta={"filename_or_obj": names[k]}) for k, a in arrays.items()}
        )
        ct, unseen, _ = repair_ct(arrays["ct"])
        mri = Placed(arrays["image"], outcome.affine)
        written = judge_pair(mri, Placed(ct, outcome.affine), ct_unseen=unseen, names=(names["image"], names["ct"]))
        if "label" in arrays:
            judge_lesion(written, arrays["label"], outcome.affine, names["label"])
        if written.refusals:
            raise InputError(written.refusals[0])
    except InputError as e:
        raise InputError(f"{e} (on the grid of the prepared case)") from None
    judged.warnings = judged.warnings or written.warnings


def _stored_hu(ct: np.ndarray) -> np.ndarray:
    """CT numbers as they are written."""
    return np.clip(np.round(ct), -32768, 32767).astype(np.int16)


def _place(inputs: _Inputs, found: Registration, options: PrepareOptions) -> _Outcome:
    """Both images and all masks on the outcome's grid."""
    mri, ct = inputs.mri, inputs.ct
    by_mri = options.reference == "mri"
    # Millimetres of the outcome → of each image.
    to_image = {"mri": np.eye(4), "ct": found.matrix} if by_mri else {"mri": np.linalg.inv(found.matrix), "ct": np.eye(4)}
    reference = mri if by_mri else ct
    shape, affine = reference.array.shape, reference.affine
    if options.spacing_mm is not None:
        shape, affine = respaced(shape, affine, options.spacing_mm)

    def placed(volume: Volume, matrix: np.ndarray, outside: float) -> np.ndarray:
        if np.array_equal(matrix, np.eye(4)) and same_grid(volume.array.shape, volume.affine, shape, affine):
            return volume.array
        return resample(volume.array, volume.affine, shape, affine, matrix, outside=outside)

    out_mri = placed(mri, to_image["mri"], min(0.0, float(mri.array.min())))
    out_ct = placed(ct, to_image["ct"], _AIR_HU)
    before = (out_mri, placed(ct, np.eye(4), _AIR_HU)) if by_mri else (placed(mri, np.eye(4), 0.0), out_ct)
    masks = {r: placed(m, to_image[on], 0.0) >= 0.5 for r, (m, on) in inputs.masks.items()}
    regions = {r: m for r, m in masks.items() if not r.startswith("lesion_mask")}
    for role, mask in regions.items():
        if not mask.any():  # brain and bone would be sought with it
            name = inputs.mask_paths.get(role, ct.source)
            what = f"expected at least one voxel in the {role.replace('_', ' ')}, got an empty one"
            raise InputError(f"{name}: {what} (on the grid of the prepared case)")
    brain, bone = _roi_masks(out_ct, affine, regions)
    if not brain.any():
        raise InputError(f"{ct.source}: expected a brain inside the skull, found none in the CT")
    masks = {**masks, "brain_mask": brain, "bone_mask": bone}
    return _Outcome(affine, out_mri, out_ct, before, masks, to_image["ct" if by_mri else "mri"])


def _roi_masks(ct: np.ndarray, affine: np.ndarray, given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Brain and bone on the outcome's grid, boolean and disjoint; those given stay."""
    order = thick_axis_order(affine)
    array, back = ct.transpose(order), np.argsort(order)
    spacing = spacing_mm(affine)[order].tolist()
    head = head_mask(array, spacing)
    turned = {name.removesuffix("_mask"): mask.transpose(order) for name, mask in given.items()}
    bone, brain = cranial_masks(array, head, spacing, **turned)
    return brain.transpose(back), bone.transpose(back)


def _facts(
    source: CaseSource,
    inputs: _Inputs,
    found: Registration,
    outcome: _Outcome,
    options: PrepareOptions,
    judged: Judgement,
) -> dict[str, Any]:
    """What ``case.json`` says of the inputs, of the registration and of the outcome."""
    voxel_ml = float(np.prod(spacing_mm(outcome.affine))) / 1000
    volume_ml = {role: float(mask.sum()) * voxel_ml for role, mask in outcome.masks.items()}
    quality = {
        **{k: v for k, v in found.facts().items() if k not in ("mri_to_ct", "kind")},
        "contour_shift_mm": contour_shift(outcome.mri, outcome.ct, outcome.affine),
        "brain_ml": round(volume_ml["brain_mask"], 1),
        "bone_ml": round(volume_ml["bone_mask"], 1),
    }
    notes = [*source.notes, *inputs.mri.notes, *inputs.ct.notes, *judged.warnings, *judged.notes]
    if "lesion_mask" in volume_ml:
        quality["lesion_ml"] = round(volume_ml["lesion_mask"], 3)
        if inputs.masks["lesion_mask"][0].array.any() and not volume_ml["lesion_mask"]:
            notes.append("the lesion is smaller than a voxel of the outcome and was lost")
    return {
        "inputs": {"mri": inputs.mri.source, "ct": inputs.ct.source, **{r: str(p) for r, p in inputs.mask_paths.items()}},
        "input_files": {role: str(path.resolve()) for role, path in reversed(source.files())},  # the first of a series
        "contrast": source.contrast or None,
        "part": source.part or None,
        "options": asdict(options),
        "registration": found.facts(),
        "masks": {
            **{r: f"{on}: {inputs.mask_paths[r]}" for r, (_, on) in inputs.masks.items()},
            **{r: "thresholds of the CT" for r in ("brain_mask", "bone_mask") if r not in inputs.masks},
        },
        "quality": quality,
        "plausibility": judged.facts,
        "flags": [*quality_flags(quality, registered=options.register), *(["doubtful"] if judged.warnings else [])],
        "notes": notes,
        "shape": [int(n) for n in outcome.mri.shape],
        "spacing_mm": [round(float(s), 4) for s in spacing_mm(outcome.affine)],
    }


def _write(root: Path, outcome: _Outcome, found: Registration, options: PrepareOptions, facts: dict[str, Any]) -> None:
    brain, bone = outcome.masks["brain_mask"], outcome.masks["bone_mask"]
    figure = overlay_figure(outcome.before, (outcome.mri, outcome.ct), brain, bone, outcome.affine)
    with WholeFolder(root, facts["case"]) as folder:
        _save(folder / "mri.nii.gz", outcome.mri.astype(np.float32), outcome.affine)
        _save(folder / "ct.nii.gz", _stored_hu(outcome.ct), outcome.affine)
        for role, mask in outcome.masks.items():
            _save(folder / f"{role}.nii.gz", mask.astype(np.uint8), outcome.affine)
        centre = found.centre_mm if options.reference == "mri" else (found.matrix @ [*found.centre_mm, 1.0])[:3]
        write_transform(folder / "transform.tfm", outcome.moved, centre, kind=found.kind)
        figure.savefig(folder / "overlay.png", dpi=80, facecolor="black")
        write_json(folder / CASE_RECORD, facts)


def _save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _itk_version() -> str:
    import itk

    return str(itk.Version.GetITKVersion())
