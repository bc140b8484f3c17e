# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""From the scanner to the case folder: read, check, register, resample, mask, measure, write; resumable, in parallel."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from roi_fusion.core.masks import cranial_masks, head_mask
from roi_fusion.data.grids import resample, respaced, same_grid, spacing_mm, thick_axis_order
from roi_fusion.data.io import Volume, check_pair, read_volume
from roi_fusion.data.itk_bridge import write_transform
from roi_fusion.data.registration import Registration, measure, register
from roi_fusion.data.results import versions
from roi_fusion.errors import InputError
from roi_fusion.values import write_json

from .layouts import CaseSource, Found, find_pairs
from .prepare_page import contour_shift, overlay_figure, quality_flags, write_prepare_page

__all__ = ["PrepareOptions", "prepare_case", "prepare_dataset"]

logger = logging.getLogger(__name__)


#: Part of every fingerprint: a change of what is written makes finished cases old.
_FORMAT = 1


_AIR_HU = -1024


@dataclass(frozen=True)
class PrepareOptions:
    """What the outcome depends on, beside the input files.

    Attributes:
        reference: ``"mri"`` or ``"ct"``: whose grid the case is written on.
        spacing_mm: voxel size of that grid; the reference's own when None.
        register: find the pose; false trusts the headers.
        affine: allow scaling and shear after the rigid pose.
    """

    reference: str = "mri"
    spacing_mm: tuple[float, float, float] | None = None
    register: bool = True
    affine: bool = False

    def __post_init__(self) -> None:
        if self.reference not in ("mri", "ct"):
            raise InputError(f"reference: expected mri or ct, got {self.reference!r}")
        spacing = self.spacing_mm
        if spacing is not None and (len(spacing) != 3 or not all(isinstance(s, (int, float)) and s > 0 for s in spacing)):
            raise InputError(f"spacing_mm: expected three positive lengths such as 0.9,0.9,6, got {spacing}")


def fingerprint(source: CaseSource, options: PrepareOptions) -> str:
    """A hash of the contents of all input files, their roles and the options; names and times do not count."""
    digest = hashlib.blake2b(json.dumps([_FORMAT, asdict(options)]).encode(), digest_size=16)
    for role, path in source.files():
        digest.update(role.encode())
        with path.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()


def _read_mask(path: Path, what: str, mri: Volume, ct: Volume) -> tuple[Volume, str]:
    """A mask and the image that it lies on, ``"mri"`` or ``"ct"``."""
    mask = read_volume(path)
    top = 255.0 if float(mask.array.max()) == 255 else 1.0
    if not mask.notes and not np.isin(mask.array, (0.0, top)).all():
        came = ", ".join(f"{v:g}" for v in np.unique(mask.array)[:5])
        raise InputError(f"{path}: expected a {what} of 0 and 1, got values {came}")
    mask.array = mask.array / top
    for image, name in ((mri, "mri"), (ct, "ct")):
        if same_grid(mask.array.shape, mask.affine, image.array.shape, image.affine, tolerance_mm=0.2):
            mask.affine = image.affine  # headers of one grid differ by rounding
            return mask, name
    raise InputError(
        f"{path}: expected a {what} on the grid of the MRI {list(mri.array.shape)} or the CT {list(ct.array.shape)}, "
        f"got another grid {list(mask.array.shape)}"
    )


def _roi_masks(ct: np.ndarray, affine: np.ndarray, given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Brain and bone on the outcome's grid, boolean and disjoint; those given stay."""
    order = thick_axis_order(affine)
    array, back = ct.transpose(order), np.argsort(order)
    spacing = spacing_mm(affine)[order].tolist()
    head = head_mask(array, spacing)
    turned = {name.removesuffix("_mask"): mask.transpose(order) for name, mask in given.items()}
    bone, brain = cranial_masks(array, head, spacing, **turned)
    return brain.transpose(back), bone.transpose(back)


def _save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def prepare_case(
    source: CaseSource, output_dir: str | Path, options: PrepareOptions, mark: str | None = None
) -> dict[str, Any]:
    """Prepare one pair and write ``<output_dir>/<case>/``, all of it or nothing.

    The folder holds ``mri``, ``ct``, ``brain_mask``, ``bone_mask`` and, where known, ``lesion_mask`` (``.nii.gz``, one grid),
    ``transform.tfm``, ``overlay.png`` and ``case.json``.

    Args:
        source: where the parts lie.
        output_dir: folder of cases.
        options: what to do.
        mark: :func:`fingerprint` of the inputs, where it is known.

    Returns:
        The content of ``case.json``.

    Raises:
        InputError: when the pair cannot be used.
    """
    start = time.perf_counter()
    if source.refused is not None or source.mri is None or source.ct is None:
        raise InputError(source.refused or f"{source.case}: expected an MRI and a CT, got one of them")
    mri, ct = read_volume(source.mri), read_volume(source.ct)
    check_pair(mri, ct)
    paths = {r: p for r in ("lesion_mask", "brain_mask", "bone_mask") if (p := getattr(source, r)) is not None}
    given = {r: _read_mask(p, r.replace("_", " "), mri, ct) for r, p in paths.items()}
    found = _pose(source.case, mri, ct, options)

    # Millimetres of the outcome → of each image.
    to_image = {"mri": np.eye(4), "ct": found.matrix}
    if options.reference == "ct":
        to_image = {"mri": np.linalg.inv(found.matrix), "ct": np.eye(4)}
    reference = mri if options.reference == "mri" else ct
    shape, affine = reference.array.shape, reference.affine
    if options.spacing_mm is not None:
        shape, affine = respaced(shape, affine, options.spacing_mm)

    def placed(volume: Volume, on: str, outside: float, matrix: np.ndarray | None = None) -> np.ndarray:
        matrix = to_image[on] if matrix is None else matrix
        if np.array_equal(matrix, np.eye(4)) and same_grid(volume.array.shape, volume.affine, shape, affine):
            return volume.array
        return resample(volume.array, volume.affine, shape, affine, matrix, outside=outside)

    out_mri = placed(mri, "mri", min(0.0, float(mri.array.min())))
    out_ct = placed(ct, "ct", _AIR_HU)
    masks = {r: placed(m, on, 0.0) >= 0.5 for r, (m, on) in given.items()}
    brain, bone = _roi_masks(out_ct, affine, {r: m for r, m in masks.items() if r != "lesion_mask"})
    if not brain.any():
        raise InputError(f"{ct.source}: expected a brain inside the skull, found none in the CT")
    before_mri, before_ct = (
        (out_mri, placed(ct, "ct", _AIR_HU, np.eye(4)))
        if options.reference == "mri"
        else (placed(mri, "mri", 0.0, np.eye(4)), out_ct)
    )
    voxel_ml = float(np.prod(spacing_mm(affine))) / 1000
    quality = {
        **{k: v for k, v in found.facts().items() if k not in ("mri_to_ct", "kind")},
        "contour_shift_mm": contour_shift(out_mri, out_ct, affine),
        "brain_ml": round(float(brain.sum()) * voxel_ml, 1),
        "bone_ml": round(float(bone.sum()) * voxel_ml, 1),
    }
    notes = [*source.notes, *mri.notes, *ct.notes]
    if "lesion_mask" in masks:
        quality["lesion_ml"] = round(float(masks["lesion_mask"].sum()) * voxel_ml, 3)
        if given["lesion_mask"][0].array.any() and not masks["lesion_mask"].any():
            notes.append("the lesion is smaller than a voxel of the outcome and was lost")
    facts = {
        "case": source.case,
        "fingerprint": mark or fingerprint(source, options),
        "inputs": {"mri": mri.source, "ct": ct.source, **{r: str(p) for r, p in paths.items()}},
        "contrast": source.contrast or None,
        "options": asdict(options),
        "registration": found.facts(),
        "masks": {
            **{r: f"{on}: {paths[r]}" for r, (_, on) in given.items()},
            **{r: "thresholds of the CT" for r in ("brain_mask", "bone_mask") if r not in given},
        },
        "quality": quality,
        "flags": quality_flags(quality, registered=options.register),
        "notes": notes,
        "shape": [int(n) for n in shape],
        "spacing_mm": [round(float(s), 4) for s in spacing_mm(affine)],
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {**versions(), "itk": _itk_version()},
    }
    figure = overlay_figure((before_mri, before_ct), (out_mri, out_ct), brain, bone, affine)
    with _WholeFolder(Path(output_dir), source.case) as folder:
        _save(folder / "mri.nii.gz", out_mri.astype(np.float32), affine)
        _save(folder / "ct.nii.gz", np.clip(np.round(out_ct), -32768, 32767).astype(np.int16), affine)
        for role, mask in {**masks, "brain_mask": brain, "bone_mask": bone}.items():
            _save(folder / f"{role}.nii.gz", mask.astype(np.uint8), affine)
        centre = found.centre_mm
        if options.reference == "ct":
            centre = (found.matrix @ [*centre, 1.0])[:3]
        moved = to_image["ct" if options.reference == "mri" else "mri"]
        write_transform(folder / "transform.tfm", moved, centre, kind=found.kind)
        figure.savefig(folder / "overlay.png", dpi=80, facecolor="black")
        write_json(folder / "case.json", facts)
    return facts


def _pose(case: str, mri: Volume, ct: Volume, options: PrepareOptions) -> Registration:
    volumes = (mri.array, mri.affine, ct.array, ct.affine)
    try:
        found = register(*volumes, affine=options.affine) if options.register else measure(*volumes)
    except InputError as e:
        raise InputError(f"{case}: {e}") from None
    if found.overlap < 0.1:
        raise InputError(
            f"{case}: expected a CT that shows the MRI's head, got {100 * found.overlap:.0f} % of it inside the field of view"
        )
    return found


def _itk_version() -> str:
    import itk

    return str(itk.Version.GetITKVersion())


class _WholeFolder:
    """Write a case's folder beside its place and move it there when it is whole; a killed run leaves no half case."""

    def __init__(self, root: Path, case: str) -> None:
        self.scratch, self.folder = root / f".{case}.partial", root / case

    def __enter__(self) -> Path:
        if self.folder.exists() and not (self.folder / "case.json").is_file():
            raise InputError(f"{self.folder}: expected a new folder or one that was prepared before, got another one")
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        return self.scratch

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.replace(self.scratch, self.folder)
        else:
            shutil.rmtree(self.scratch, ignore_errors=True)


def _finished(folder: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads((folder / "case.json").read_text())
    except (OSError, ValueError):
        return None
    whole = all((folder / f"{n}.nii.gz").is_file() for n in ("mri", "ct", "brain_mask", "bone_mask"))
    return facts if whole and isinstance(facts, dict) else None


def _attempt(source: CaseSource, output_dir: Path, options: PrepareOptions) -> dict[str, Any]:
    """One case: ``{"case", "status": "prepared" | "refused", "facts" | "error"}``."""
    folder = output_dir / source.case
    try:
        if source.refused is not None:
            raise InputError(source.refused)
        mark = fingerprint(source, options)
        return {"case": source.case, "status": "prepared", "facts": prepare_case(source, output_dir, options, mark)}
    except InputError as e:
        sentence = str(e)
    except Exception as e:  # one bad case never stops the others
        logger.debug("%s", source.case, exc_info=True)
        first_line = str(e).strip().splitlines()[0][:200] if str(e).strip() else ""
        sentence = f"{source.case}: expected a usable case, got {type(e).__name__}: {first_line}"
    if (folder / "case.json").is_file():  # of other inputs or options: a training must not take it for this case
        shutil.rmtree(folder, ignore_errors=True)
    return {"case": source.case, "status": "refused", "error": sentence}


def _kept(source: CaseSource, output_dir: Path, options: PrepareOptions) -> dict[str, Any] | None:
    """The outcome of a case that an earlier run finished from the same inputs; None where it has to be prepared."""
    facts = _finished(output_dir / source.case)
    if source.refused is not None or facts is None:
        return None
    try:
        same = facts.get("fingerprint") == fingerprint(source, options)
    except OSError:  # said when the case is attempted
        return None
    return {"case": source.case, "status": "kept", "facts": facts} if same else None


def _start_worker() -> None:
    """One thread a worker, and an end with its parent: a killed run must leave nobody who writes on."""
    import itk
    import torch

    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (connection.wait([sentinel]), os._exit(1)), daemon=True).start()
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
    torch.set_num_threads(1)


def _attempts(cases: Sequence[CaseSource], output_dir: Path, options: PrepareOptions, workers: int) -> Iterator[dict[str, Any]]:
    left = []
    for case in cases:
        kept = _kept(case, output_dir, options)
        if kept is not None:
            yield kept
        else:
            left.append(case)
    if min(workers, len(left)) < 2:
        for case in left:
            yield _attempt(case, output_dir, options)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process that has run torch or ITK threads may hang
    with ProcessPoolExecutor(min(workers, len(left)), context, _start_worker) as pool:
        pending = {pool.submit(_attempt, case, output_dir, options): case for case in left}
        try:
            for future in as_completed(pending):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    name = pending[future].case
                    sentence = f"{name}: expected a worker that lives, got one that was killed (out of memory?); start again"
                    yield {"case": name, "status": "refused", "error": sentence}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def prepare_dataset(
    input_dir: str | Path,
    output_dir: str | Path,
    *,
    layout: str = "auto",
    contrast: str = "auto",
    masks_dir: str | Path | None = None,
    num_workers: int = 2,
    options: PrepareOptions | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Find the pairs of a folder and write them as cases; those finished before are kept while their inputs stay the same.

    Args:
        input_dir: where the data lies; never written to.
        output_dir: folder of cases; ``prepare.json``, ``prepare.html`` and ``errors.json`` lie in it.
        layout, contrast, masks_dir: see :func:`~roi_fusion_tools.layouts.find_pairs`.
        num_workers: processes; 0 or 1 works in this one.
        options: of every case.
        progress: show a bar.

    Returns:
        The content of ``prepare.json``.

    Raises:
        InputError: when there is no pair, or every one was refused.
    """
    options = options or PrepareOptions()
    if not isinstance(num_workers, int) or isinstance(num_workers, bool) or num_workers < 0:
        raise InputError(f"num_workers: expected a whole number of 0 or more, got {num_workers!r}")
    source, root = Path(input_dir).resolve(), Path(output_dir).resolve()
    if root == source or source in root.parents:
        raise InputError(f"output_dir: expected a folder outside of input_dir {input_dir}, got {output_dir}")
    found = find_pairs(input_dir, layout, contrast=contrast, masks_dir=masks_dir)
    logger.info("%s", found.summary())
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(".*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    if found.splits is not None:
        if found.splits.is_dir():
            shutil.copytree(found.splits, root / found.splits.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(found.splits, root / found.splits.name)
    done: dict[str, dict[str, Any]] = {}
    bar = tqdm(total=len(found.cases), desc="cases", unit="case", disable=not progress)
    for outcome in _attempts(found.cases, root, options, num_workers):
        done[outcome["case"]] = outcome
        if outcome["status"] == "refused":
            logger.warning("refused case %s: %s", outcome["case"], outcome["error"])
        _write_record(root, found, options, done)
        bar.update()
    bar.close()
    record = _write_record(root, found, options, done)
    write_prepare_page(root, record)
    if not record["counts"]["prepared"] + record["counts"]["kept"]:
        first = next(iter(record["errors"].values()))
        raise InputError(f"{input_dir}: expected at least one usable pair, got none of {len(found.cases)} ({first})")
    return record


def _write_record(root: Path, found: Found, options: PrepareOptions, done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """``prepare.json`` and ``errors.json`` of what is done so far."""
    rows = [done[name] for name in sorted(done)]
    errors = {r["case"]: r["error"] for r in rows if r["status"] == "refused"}
    record = {
        "layout": found.layout,
        "options": asdict(options),
        "counts": {s: sum(r["status"] == s for r in rows) for s in ("prepared", "kept", "refused")},
        "cases": [
            {"case": r["case"], "status": r["status"], **{k: r["facts"][k] for k in ("quality", "flags", "notes", "seconds")}}
            for r in rows
            if "facts" in r
        ],
        "errors": errors,
        "versions": versions(),
    }
    write_json(root / "errors.json", errors)
    write_json(root / "prepare.json", record)
    return record
