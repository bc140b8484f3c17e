# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Writes painted heads as ordinary case folders with truth: validation and tests on heads that no training saw."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from ...errors import InputError
from ...values import write_json
from ..augment import rigid_resample
from ..lesions import PackedLesions
from .anatomy import Anatomy, draw_anatomy
from .contrast import draw_age, draw_contrast
from .ct import paint_ct
from .geometry import Grid, draw_geometry, draw_grid
from .heads import Head, HeadMaps, choose_ids
from .mri import paint_mri, stripped_brain
from .transforms import choose_lesions

__all__ = ["draw_case", "paint_case", "prepare_validation", "save_volumes", "write_cases"]

_CONTRASTS = ("dwi", "adc", "flair", "t2", "t1", "free")


def draw_case(
    maps: HeadMaps,
    ids: Sequence[str],
    lesions: PackedLesions | None,
    number: int,
    seed: int = 0,
    misregistration_mm: float = 2.0,
    largest_voxels: int = 900_000,
) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, Any]]:
    """One pair with its masks.

    Heads, contrasts and lesions take turns, so that any number of cases is spread over all of them. One case in six has no
    lesion, one MRI in three shows the brain alone.

    Args:
        maps: label maps.
        ids: heads to take.
        lesions: to take; procedural ones when None.
        number: of the case.
        seed: of the set.
        misregistration_mm: the CT is moved by up to this along each axis, and turned by up to half as many degrees.
        largest_voxels: of the grid.

    Returns:
        Volumes by file stem ``[X, Y, Z]``, affine, and what was drawn.
    """
    rng = np.random.default_rng([seed, number])
    name = _CONTRASTS[number % len(_CONTRASTS)]
    free = 1.0 if number % 6 == 5 - number // 6 % 6 else 0.0
    anatomy = _anatomy(rng, maps[ids[number // len(_CONTRASTS) % len(ids)]], lesions, number, seed, free)
    return paint_case(rng, anatomy, draw_grid(rng, anatomy, largest_voxels), name, misregistration_mm)


def paint_case(
    rng: np.random.Generator,
    anatomy: Anatomy,
    grid: Grid,
    contrast: str,
    misregistration_mm: float = 2.0,
    stripped: bool | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, Any]]:
    """A varied head on a scanner's grid, as a pair with its masks.

    Args:
        rng: source of randomness.
        anatomy: the head with its lesion.
        grid: of both images.
        contrast: dwi, adc, flair, t2, t1 or free.
        misregistration_mm: see :func:`draw_case`.
        stripped: whether the MRI shows the brain alone; drawn, one in three, when None.

    Returns:
        As :func:`draw_case`.
    """
    g = draw_geometry(rng, anatomy, grid)
    age = draw_age(rng)
    image, notes, distortion = paint_mri(rng, g, draw_contrast(rng, age, name=contrast, ct_seen=False), age)
    label = distortion.apply(g.truth)
    if rng.random() < 1 / 3 if stripped is None else stripped:
        kept = stripped_brain(rng, g, distortion)
        image, label, notes["stripped"] = image * kept, label * kept, True
    ct, ct_notes = paint_ct(rng, g, age)
    bone = g.bone.float()
    if misregistration_mm:
        shift = rng.uniform(-1, 1, 3) * misregistration_mm
        angles = np.deg2rad(rng.uniform(-1, 1, 3) * misregistration_mm / 2)
        ct, bone = rigid_resample(torch.stack([ct, bone]), g.grid.spacing_mm, angles, shift)
        notes["ct_shift_mm"] = [round(float(s), 2) for s in shift]
    volumes: dict[str, np.ndarray] = {
        "mri": image.numpy().astype(np.float32),
        "ct": ct.round().numpy().astype(np.int16),
        "lesion_mask": label.numpy().astype(np.uint8),
        "brain_mask": g.brain.numpy().astype(np.uint8),
        "bone_mask": (bone > 0.5).numpy().astype(np.uint8),
    }
    lesion_ml = float(label.sum()) * float(np.prod(g.grid.spacing_mm)) / 1000
    notes = {**g.notes, **notes, **ct_notes, "lesion_ml": round(lesion_ml, 3), "spacing_mm": list(g.grid.spacing_mm)}
    return volumes, g.grid.affine, notes


def save_volumes(folder: str | Path, volumes: Mapping[str, np.ndarray], affine: np.ndarray) -> None:
    """Write the volumes of a case as ``<folder>/<stem>.nii.gz``."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for stem, volume in volumes.items():
        image = nib.Nifti1Image(volume, affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, Path(folder) / f"{stem}.nii.gz")


def _anatomy(
    rng: np.random.Generator, head: Head, lesions: PackedLesions | None, number: int, seed: int, lesion_free_share: float
) -> Anatomy:
    """A varied head with the lesion whose turn it is; the next one where that lies outside this head's brain."""
    if lesions is None:
        return draw_anatomy(rng, head, None, lesion_free_share)
    order = np.random.default_rng(seed).permutation(len(lesions))
    for later in range(len(order)):
        own = _only(lesions, int(lesions.positions[int(order[(number + later) % len(order)])]))
        try:
            return draw_anatomy(rng, head, own, lesion_free_share)
        except InputError:
            if later == len(order) - 1:
                raise
    raise InputError("lesions: expected at least one, got none")


def _only(lesions: PackedLesions, position: int) -> PackedLesions:
    """The same file, with one lesion alone."""
    import copy

    one = copy.copy(lesions)
    one.positions = np.array([position])
    return one


def write_cases(
    output_dir: str | Path,
    num_cases: int,
    *,
    label_maps: str | Path | None = None,
    lesions: str | Path | None = None,
    heads: str | Sequence[str] | None = None,
    lesion_ids: str | None = None,
    seed: int = 0,
    misregistration_mm: float = 2.0,
) -> Iterator[str]:
    """Write cases as ``<output_dir>/<case>/{mri,ct,lesion_mask,brain_mask,bone_mask}.nii.gz`` and ``dataset.json``.

    Args:
        output_dir: folder to write to; cases that an earlier call with the same arguments wrote are kept.
        num_cases: number of cases.
        label_maps, lesions: files; the MNI atlas and procedural lesions when None.
        heads, lesion_ids: which of them; those that validate when None.
        seed: of the set.
        misregistration_mm: see :func:`draw_case`.

    Yields:
        The name of each case once it is written.

    Raises:
        InputError: for unusable files, or fewer than one case.
    """
    if int(num_cases) != num_cases or num_cases < 1:
        raise InputError(f"num_cases: expected a whole number of 1 or more, got {num_cases}")
    maps = HeadMaps(label_maps)
    ids = choose_ids(maps, heads, "val")
    packed = choose_lesions(lesions, lesion_ids, "val")
    root = Path(output_dir)
    root.mkdir(parents=True, exist_ok=True)
    listing = root / "dataset.json"
    shapes = None if packed is None else f"{packed.positions[0]}:{packed.positions[-1] + 1}"
    record: dict[str, Any] = {
        "generator": "roi_fusion.data.synthesis.unseen",
        "seed": int(seed),
        "heads": list(ids),
        "lesions": shapes,
        "misregistration_mm": float(misregistration_mm),
        "cases": {},
    }
    if listing.is_file():
        found = json.loads(listing.read_text())
        if {k: v for k, v in found.items() if k != "cases"} == {k: v for k, v in record.items() if k != "cases"}:
            record["cases"] = found["cases"]
    for n in range(int(num_cases)):
        name = f"head_{n:03d}"
        folder = root / name
        if name not in record["cases"] or not (folder / "bone_mask.nii.gz").is_file():
            volumes, affine, notes = draw_case(maps, ids, packed, n, int(seed), misregistration_mm)
            save_volumes(folder, volumes, affine)
            record["cases"][name] = notes
            write_json(listing, record)
        yield name


def prepare_validation(dataset_dir: str | Path, num_cases: int, **how: Any) -> str:
    """:func:`write_cases` to its end, with all cases in the ``val`` split. For the validation of a training.

    Returns:
        `dataset_dir`.
    """
    root = Path(dataset_dir)
    names = list(write_cases(root, num_cases, **how))
    write_json(root / "splits.json", {"train": [], "val": names, "test": []})
    return str(root)
