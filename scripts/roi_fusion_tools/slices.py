# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""8-bit slices: numbered CT and MR pictures to a case, and fused volumes back to pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from scipy.interpolate import interp1d
from skimage.filters import threshold_otsu

from roi_fusion.core.masks import largest_component
from roi_fusion.core.ssim import FixedReferenceSsim
from roi_fusion.data.io import read_volume
from roi_fusion.data.results import read_result, result_folders
from roi_fusion.errors import InputError
from roi_fusion.values import write_json

__all__ = ["best_slices", "export_slices", "grey_to_hu", "slices_to_cases"]

#: Of pictures whose grey is 0…255; any other would be cut off there unseen.
_8_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


def grey_to_hu(
    grey: np.ndarray,
    head: np.ndarray,
    window_hu: tuple[float, float] = (-5.0, 80.0),
    saturated: int = 250,
    bone_hu: float = 1000.0,
) -> np.ndarray:
    """Display grey of a CT in a brain window → HU.

    Args:
        grey: 0…255, any shape.
        head: same shape; outside lies air.
        window_hu: HU of black and of white.
        saturated: this grey and above is taken as bone.
        bone_hu: HU of such bone.

    Returns:
        int16: -1000 outside the head, `bone_hu` where saturated, between linear in the window.
    """
    low, high = window_hu
    hu = low + (high - low) * grey.astype(np.float64) / 255
    hu = np.where(grey >= saturated, bone_hu, hu)
    return np.where(head, np.round(hu), -1000).astype(np.int16)


def _head_of(ct: np.ndarray, mri: np.ndarray) -> np.ndarray:
    """Head from both: the scalp is black in a brain window, the skull black in most MR."""
    tissue = np.stack([ndimage.binary_opening(ct[..., k] > 20, iterations=2) for k in range(ct.shape[-1])], -1)
    bright = mri > 0.6 * threshold_otsu(mri.ravel())
    both = largest_component(tissue | np.stack([ndimage.binary_opening(bright[..., k]) for k in range(ct.shape[-1])], -1))
    return np.stack(
        [ndimage.binary_fill_holes(ndimage.binary_closing(both[..., k], iterations=2)) for k in range(ct.shape[-1])], -1
    )


def _read_slice(path: Path) -> np.ndarray:
    """One picture as ``[X, Y]``: x to the patient's left, y to the back."""
    try:
        with Image.open(path) as picture:
            mode, grey = picture.mode, np.asarray(picture.convert("L")).T
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: expected an 8-bit picture, got a file that cannot be read ({e})") from None
    if mode not in _8_BIT_MODES:
        raise InputError(f"{path}: expected an 8-bit picture, got mode {mode}")
    return grey


def _fill(stack: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """Slices `numbers` → every slice from the first to the last; those between are interpolated linearly."""
    if len(numbers) == numbers[-1] - numbers[0] + 1:
        return stack
    every = np.arange(numbers[0], numbers[-1] + 1)
    return np.round(interp1d(numbers, stack.astype(np.float64), axis=-1)(every)).astype(stack.dtype)


def slices_to_cases(
    ct_dir: str | Path,
    mri_dir: str | Path,
    output_dir: str | Path,
    *,
    spacing_mm: Sequence[float] = (1.0, 1.0, 5.0),
    window_hu: tuple[float, float] = (-5.0, 80.0),
    slice_digits: int = 2,
    fill_gaps: bool = False,
) -> list[Path]:
    """Stack numbered pictures, patient and slice number in one name (``16003.png``: patient 160, slice 3), into cases.

    Pictures are taken as radiologists see them: the patient's right on the left, the front on top, slice numbers rising
    upwards.

    Args:
        ct_dir, mri_dir: folders of 8-bit pictures with equal names.
        output_dir: gets ``<patient>/{mri,ct}.nii.gz`` and ``slices.json``, which names the pictures.
        spacing_mm: of pixels and slices.
        window_hu: HU of black and white in the CT pictures.
        slice_digits: how many last digits count slices.
        fill_gaps: interpolate missing slices instead of refusing the patient; ``slices.json`` names them null.

    Returns:
        The cases' folders.

    Raises:
        InputError: when a picture has no partner, sizes differ, or slices are missing.
    """
    ct_dir, mri_dir = Path(ct_dir), Path(mri_dir)
    for folder in (ct_dir, mri_dir):
        if not folder.is_dir():
            raise InputError(f"{folder}: expected a folder of pictures, found none")
    if len(spacing_mm) != 3 or not min(spacing_mm) > 0:
        raise InputError(f"spacing_mm: expected three positive lengths, got {tuple(spacing_mm)}")
    pattern = re.compile(rf"(\d+)(\d{{{slice_digits}}})$")
    patients: dict[str, dict[int, str]] = {}
    for path in sorted(ct_dir.glob("*.png")):
        found = pattern.fullmatch(path.stem)
        if not found:
            raise InputError(f"{path}: expected a name of patient and {slice_digits} digits of the slice, got {path.stem}")
        if not (mri_dir / path.name).is_file():
            raise InputError(f"{path}: expected an MR slice of the same name in {mri_dir}, found none")
        patients.setdefault(found[1], {})[int(found[2])] = path.name
    if not patients:
        raise InputError(f"{ct_dir}: expected pictures NNNSS.png, found none")
    folders = []
    for patient, names in patients.items():
        numbers = sorted(names)
        gaps = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
        if gaps and not fill_gaps:
            raise InputError(f"{ct_dir}: expected every slice of patient {patient}, found no slice {gaps[0]}")
        stacks = []
        for folder in (ct_dir, mri_dir):
            slices = [_read_slice(folder / names[n]) for n in numbers]
            if len({s.shape for s in slices}) > 1:
                raise InputError(
                    f"{folder}: expected slices of one size for patient {patient}, got {sorted({s.shape for s in slices})}"
                )
            stacks.append(np.stack(slices, -1))
        ct, mri = (_fill(stack, numbers) for stack in stacks)
        if ct.shape != mri.shape:
            raise InputError(f"{mri_dir}: expected MR slices of the CT's size {ct.shape[:2]}, got {mri.shape[:2]}")
        affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(ct.shape) - 1) / 2)
        case = Path(output_dir) / patient
        case.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(grey_to_hu(ct, _head_of(ct, mri), window_hu), affine), case / "ct.nii.gz")
        nib.save(nib.Nifti1Image(mri.astype(np.int16), affine), case / "mri.nii.gz")
        write_json(
            case / "slices.json",
            {"pictures": [names.get(n) for n in range(numbers[0], numbers[-1] + 1)], "window_hu": list(window_hu)},
        )
        folders.append(case)
    return folders


def export_slices(
    results_dir: str | Path, output_dir: str | Path, window_mri: tuple[float, float], volume: str = "fused"
) -> list[Path]:
    """Fused volumes → 8-bit pictures by one fixed window in MRI units, never by a fit to a reference.

    Pictures carry the names of ``slices.json`` beside the MRI, else ``<case>_<slice>.png``, and its orientation.

    Args:
        results_dir: folder of results.
        output_dir: folder of pictures.
        window_mri: MRI units of black and of white.
        volume: stem of the result volume; what is NaN, as the provenance outside the head, becomes black.

    Returns:
        The pictures.

    Raises:
        InputError: when the window is empty or there are no results.
    """
    low, high = map(float, window_mri)
    if not high > low:
        raise InputError(f"window_mri: expected LOW,HIGH with HIGH above LOW, got {low:g},{high:g}")
    folders = result_folders(results_dir)
    if not folders:
        raise InputError(f"{results_dir}: expected results <case>/result.json, found none")
    out_dir = Path(output_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for folder in folders:
        if not (folder / f"{volume}.nii.gz").is_file():
            raise InputError(f"{folder / volume}.nii.gz: expected a result volume, found no such file")
        array = read_volume(folder / f"{volume}.nii.gz", as_stored=True).array.astype(np.float64)
        shown = np.where(np.isnan(array), low, array)
        grey = np.clip(np.round((shown - low) / (high - low) * 255), 0, 255).astype(np.uint8)
        facts = read_result(folder)
        if facts is None:
            raise InputError(f"{folder / 'result.json'}: expected the facts of a result, got none that can be read")
        source = Path(facts["mri"] or facts["ct"]).parent / "slices.json"
        names = json.loads(source.read_text())["pictures"] if source.is_file() else []
        if len(names) != array.shape[-1]:
            names = [f"{folder.name}_{k:03d}.png" for k in range(array.shape[-1])]
        for k, name in enumerate(names):
            if name is None:  # interpolated, no picture of its own
                continue
            Image.fromarray(grey[..., k].T).save(out_dir / name)
            written.append(out_dir / name)
    return written


def best_slices(
    mri: np.ndarray,
    ct: np.ndarray,
    brain: np.ndarray,
    bone: np.ndarray,
    inside: np.ndarray,
    bone_weight: float = 1.0,
    updates: int = 40,
) -> np.ndarray:
    """Pictures whose SSIMs with the MR in the brain and with the CT in bone are optimised directly.

    Pixels are free inside the head and 0 outside; regions and references are those that the result is scored by. It is no
    method and, from one start, no proof, but says how much of both scores together is there to be had.

    Args:
        mri, ct: 8-bit pictures, ``[N, X, Y]``.
        brain, bone, inside: boolean, same shape.
        bone_weight: of the CT's SSIM in their sum; the MR's counts 1.
        updates: gradient steps.

    Returns:
        uint8, same shape.
    """

    def volume(stack: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(stack.astype(np.float32)).movedim(0, -1)[None, None]  # [1, 1, X, Y, N]

    references = torch.cat([volume(mri), volume(ct)], dim=1) / 255
    regions = torch.cat([volume(brain), volume(bone)], dim=1)
    weights = regions / regions.sum((2, 3), keepdim=True).clamp(min=1) * torch.tensor([1.0, bone_weight]).view(1, 2, 1, 1, 1)
    free, ssim = volume(inside), FixedReferenceSsim(references)
    fused = torch.where(regions[:, 1:] > 0, references[:, 1:], references[:, :1]) * free
    move = torch.zeros_like(fused)
    least = 0.01 * float(weights[weights > 0].min()) if bool((weights > 0).any()) else 1.0
    for _ in range(updates):
        _, gradient, curvature = ssim.slope(fused, weights)
        move = 0.5 * move + gradient / (curvature + least)
        fused = (fused + move).clamp(0, 1) * free
    return (fused[0, 0].movedim(-1, 0) * 255).round().to(torch.uint8).numpy()
