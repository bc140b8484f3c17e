# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Trees of public stroke data, written as their authors describe them (docs/public_data.md names the descriptions)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from raw_layouts import save
from unregistered import Pair


def _mri(path: Path, pair: Pair) -> None:
    save(path, pair.mri, pair.mri_affine)


def _lesion(path: Path, pair: Pair, shift: int = 0) -> None:
    save(path, np.roll(pair.lesion, shift, axis=0), pair.mri_affine)


def _ct(path: Path, pair: Pair) -> None:
    save(path, pair.ct, pair.ct_affine)


def isles22(root: Path, pair: Pair) -> None:
    """The download of 2022: images at the top, masks below derivatives; README of ezequieldlrosa/isles22 has rawdata/."""
    for n in (1, 9):
        name = f"sub-strokecase{n:04d}"
        images = root / "ISLES-2022" / name / "ses-0001"
        _mri(images / "dwi" / f"{name}_ses-0001_dwi.nii.gz", pair)
        _mri(images / "dwi" / f"{name}_ses-0001_adc.nii.gz", pair)
        _mri(images / "anat" / f"{name}_ses-0001_FLAIR.nii.gz", pair)
        _lesion(root / "ISLES-2022" / "derivatives" / name / "ses-0001" / f"{name}_ses-0001_msk.nii.gz", pair)


def isles24(root: Path, pair: Pair) -> None:
    """The archive of 2025: MRI and mask below derivatives, in the space of the non-contrast CT."""
    name = "sub-stroke0001"
    _ct(root / "train" / "raw_data" / name / "ses-01" / f"{name}_ses-01_ncct.nii.gz", pair)
    _ct(root / "train" / "raw_data" / name / "ses-01" / f"{name}_ses-01_cta.nii.gz", pair)
    derived = root / "train" / "derivatives" / name
    _ct(derived / "ses-01" / "perfusion-maps" / f"{name}_ses-01_space-ncct_tmax.nii.gz", pair)
    save(derived / "ses-01" / f"{name}_ses-01_space-ncct_lvo-msk.nii.gz", pair.ct_brain, pair.ct_affine)
    for kind in ("dwi", "adc"):
        _ct(derived / "ses-02" / f"{name}_ses-02_space-ncct_{kind}.nii.gz", pair)
    lesion = np.zeros(pair.ct.shape, bool)
    centre = np.argwhere(pair.ct_brain).mean(0).astype(int)
    lesion[tuple(slice(c - 4, c + 4) for c in centre)] = True
    save(derived / "ses-02" / f"{name}_ses-02_space-ncct_lesion-msk.nii.gz", lesion & pair.ct_brain, pair.ct_affine)
    _lesion(derived / "ses-02" / f"{name}_ses-02_lesion-msk.nii", pair)  # the stray file of sub-stroke0142


def apis(root: Path, pair: Pair) -> None:
    """Masks of both radiologists; a test case without."""
    lesion = np.zeros(pair.ct.shape, bool)
    centre = np.argwhere(pair.ct_brain).mean(0).astype(int)
    lesion[tuple(slice(c - 3, c + 3) for c in centre)] = True
    for case in ("train_000", "test_000"):
        _ct(root / "raw" / "ct" / case / f"{case}_ct.nii.gz", pair)
        _mri(root / "raw" / "adc" / case / f"{case}_adc.nii.gz", pair)
    for rater, shift in (("r1", 0), ("r2", 1)):
        path = root / "raw" / "lesion_masks" / "train_000" / f"train_000_{rater}.nii.gz"
        save(path, np.roll(lesion, shift, axis=0), pair.ct_affine)


def soop(root: Path, pair: Pair) -> None:
    """OpenNeuro ds004889; acute and chronic lesions also lie apart."""
    images = root / "ds004889" / "sub-1"
    _mri(images / "dwi" / "sub-1_rec-TRACE_dwi.nii.gz", pair)
    _mri(images / "dwi" / "sub-1_rec-ADC_dwi.nii.gz", pair)
    _mri(images / "anat" / "sub-1_FLAIR.nii.gz", pair)
    _mri(images / "anat" / "sub-1_T1w.nii.gz", pair)
    for kind in ("lesion", "lesionAcute"):
        _lesion(
            root / "ds004889" / "derivatives" / "lesion_masks" / "sub-1" / "dwi" / f"sub-1_space-TRACE_desc-{kind}_mask.nii.gz",
            pair,
        )


def atlas2(root: Path, pair: Pair) -> None:
    """Training with masks, Testing without; file names say the space."""
    for part, site, name in (
        ("Training", "R001", "sub-r001s001"),
        ("Training", "R001", "sub-r001s002"),
        ("Testing", "R047", "sub-r047s001"),
    ):
        stem = f"{name}_ses-1_space-MNI152NLin2009aSym"
        folder = root / "ATLAS_2" / part / site / name / "ses-1" / "anat"
        _mri(folder / f"{stem}_T1w.nii.gz", pair)
        if part == "Training":
            _lesion(folder / f"{stem}_label-L_desc-T1lesion_mask.nii.gz", pair)


def isles15(root: Path, pair: Pair) -> None:
    """SISS of the Virtual Skeleton Database: a folder a case, in it a folder a file."""
    numbers = iter(range(70613, 70700))
    for part, case in (("Training", "1"), ("Training", "2"), ("Testing", "1")):
        for kind in ("MR_DWI", "MR_Flair", "MR_T1", "MR_T2", *(["OT"] if part == "Training" else [])):
            stem = f"VSD.Brain.XX.O.{kind}.{next(numbers)}"
            write = _lesion if kind == "OT" else _mri
            write(root / f"SISS2015_{part}" / case / stem / f"{stem}.nii", pair)


#: Name → writer of a tree below a folder; cases that come out; how many of them can be scored.
TREES: dict[str, tuple[Callable[[Path, Pair], None], list[str], int]] = {
    "isles22": (isles22, ["sub-strokecase0001", "sub-strokecase0009"], 2),
    "isles24": (isles24, ["sub-stroke0001"], 1),
    "apis": (apis, ["test_000", "train_000"], 1),
    "soop": (soop, ["sub-1"], 1),
    "atlas2": (atlas2, ["sub-r001s001", "sub-r001s002", "sub-r047s001"], 2),
    "isles15": (isles15, ["test_01", "train_01", "train_02"], 2),
}

#: Name → a folder inside of its tree that holds images or masks alone.
INSIDE = {
    "isles22": "ISLES-2022/derivatives",
    "isles24": "train/raw_data",
    "apis": "raw/ct",
    "soop": "ds004889/derivatives/lesion_masks",
}
