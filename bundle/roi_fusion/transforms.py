# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Dictionary transforms of the bundle, for what MONAI has no transform of its own.

Keys: ``image`` (MRI), ``ct``, ``label`` (lesion), ``brain``, ``bone``, ``dense`` (blood or calcium in the brain), ``head``,
``intensity`` (constants of the normalisation), ``label_known``. Volumes are ``[1, X, Y, Z]`` MetaTensors.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, LoadImaged, MapTransform, Orientation, Transform

from .errors import InputError
from .grids import resample, same_grid
from .intensity import HU_POINTS, SCALED_POINTS, TYPICAL_SCALES, compand_hu, soft_knee
from .knobs import as_bool
from .readers import split_ending
from .roi_masks import cranial_masks, head_mask, hyperdense_mask

__all__ = [
    "CheckVolumesd",
    "CompandHUd",
    "CompleteCased",
    "FillMissingd",
    "FillUnknownLabeld",
    "HeadMaskd",
    "LoadVolumesd",
    "MatchGridd",
    "RecordMeanStdd",
    "RecordPercentilesd",
    "RegisterToReferenced",
    "RoiMasksd",
    "SoftKneed",
    "ThickAxisLastd",
    "file_of",
    "has_orientation",
    "spacing_of",
]

_NAMES = {"image": "MRI", "ct": "CT", "label": "lesion mask", "brain": "brain mask", "bone": "bone mask"}


def file_of(volume: Any, fallback: str = "volume") -> str:
    """The file that a MetaTensor was read from, for messages."""
    return str(getattr(volume, "meta", {}).get("filename_or_obj", fallback))


def left_right_axis(affine: torch.Tensor) -> int:
    """Which array axis of an affine ``[4, 4]`` runs between the patient's left and right most nearly."""
    directions = torch.as_tensor(affine).double()[:3, :3]
    return int((directions[0].abs() / directions.norm(dim=0).clamp(min=1e-12)).argmax())


def spacing_of(volume: MetaTensor) -> tuple[float, ...]:
    """Voxel size in mm along the three array axes."""
    return tuple(float(s) for s in volume.pixdim[:3])


def has_orientation(volume: MetaTensor) -> bool:
    """Whether a file said where its voxels lie: a NIfTI with sform or qform, and an affine that can be inverted."""
    codes = [volume.meta[c] for c in ("sform_code", "qform_code") if c in volume.meta]
    unknown = bool(codes) and not any(int(c) for c in codes)
    return not unknown and float(torch.linalg.det(volume.affine[:3, :3]).abs()) > 1e-9


def _mri_in(folder: Path) -> Path:
    found = [p for p in sorted(folder.iterdir()) if re.fullmatch(r"(.+_)?mri\.nii(\.gz)?", p.name)]
    if len(found) != 1:
        raise InputError(f"{folder}: wanted one mri.nii.gz or *_mri.nii.gz and its CT, came {len(found)} files of such a name")
    return found[0]


class CompleteCased(Transform):
    """Add what a bare MRI path lacks: ``case``, its name, and ``ct``, the file beside it, as MONAI Label gives the MRI only.

    ``<case>/mri.nii.gz`` pairs with ``<case>/ct.nii.gz``, ``<case>_mri.nii.gz`` with ``<case>_ct.nii.gz``. A folder stands for
    the one MRI of such a name in it: MONAI Label's sessions hand over the folder of several uploaded files.

    Args:
        allow_missing: take a case without its MRI or without its CT; ``missing`` then says which, ``mri`` or ``ct``.

    Raises:
        InputError: when there is no such CT; the sentence names the file that was looked for.
    """

    def __init__(self, allow_missing: bool | str = False) -> None:
        self.allow_missing = as_bool("allow_missing", allow_missing)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = {**data, "missing": ""}
        if self.allow_missing and d.get("image") is None and d.get("ct") is not None:
            ct = Path(str(d["ct"]))
            name, _ = split_ending(ct.name)
            d["case"] = d.get("case") or (ct.absolute().parent.name or "case" if name == "ct" else name.removesuffix("_ct"))
            return {**d, "ct_file": str(ct), "missing": "mri"}
        if d.get("image") is None:
            folder = Path(str(d.get("folder", "")))
            missing = " and ".join(n for n in ("mri.nii.gz", "ct.nii.gz") if not (folder / n).is_file())
            raise InputError(f"{folder}: wanted mri.nii.gz and ct.nii.gz, found no {missing}")
        mri = Path(str(d["image"]))
        if mri.is_dir():
            mri = _mri_in(mri)
            d["image"] = str(mri)
        stem, ending = split_ending(mri.name)
        if not d.get("case"):
            d["case"] = (mri.absolute().parent.name or "case") if stem == "mri" else stem.removesuffix("_mri")
        if d.get("ct") is None:
            if stem != "mri" and not stem.endswith("_mri"):
                if self.allow_missing:
                    return {**d, "ct_file": "", "missing": "ct"}
                raise InputError(f"{mri}: wanted a CT beside it, but only files named mri.nii.gz or *_mri.nii.gz are paired")
            ct = mri.with_name(f"{stem[:-3]}ct{ending}")
            if self.allow_missing and not ct.exists():
                return {**d, "ct_file": "", "missing": "ct"}
            if not ct.exists():
                raise InputError(f"{mri}: wanted its CT at {ct}, found no such file")
            d["ct"] = str(ct)
        d["ct_file"] = str(d["ct"])
        return d


class LoadVolumesd(MapTransform):
    """Read the files of those `keys` that are present, as MONAI's ``LoadImaged`` does, into ``[1, X, Y, Z]`` MetaTensors.

    MONAI Label puts a loader of its own in place of every ``LoadImaged`` of a bundle, and that one wants all keys: a case
    without masks would end in a ``KeyError``. So this one has a ``LoadImaged`` and is none.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self._load = LoadImaged(keys, image_only=True, ensure_channel_first=True, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return self._load(dict(data))


class CheckVolumesd(MapTransform):
    """Refuse volumes that cannot be used, with one sentence: not 3-D, not finite, constant, CT not in HU, mask not 0/1.

    Args:
        keys: volumes to check where present.
        ct_key: the one that must be in HU.
        mask_keys: those that must hold 0 and 1 only (0 and 255 is taken as well).
        never_empty: masks that must hold at least one voxel; a lesion mask may be empty.
    """

    def __init__(
        self,
        keys: KeysCollection,
        ct_key: str = "ct",
        mask_keys: Sequence[str] = ("label", "brain", "bone"),
        never_empty: Sequence[str] = ("brain", "bone"),
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.ct_key, self.mask_keys, self.never_empty = ct_key, tuple(mask_keys), tuple(never_empty)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            volume, where, what = d[key], file_of(d[key], str(key)), _NAMES.get(str(key), str(key))
            if volume.ndim != 4 or volume.shape[0] != 1:
                shape = list(volume.shape[1:]) + ([volume.shape[0]] if volume.shape[0] != 1 else [])
                raise InputError(f"{where}: wanted a 3-D {what}, came shape {shape}")
            if not bool(torch.isfinite(volume).all()):
                count = int((~torch.isfinite(volume)).sum())
                raise InputError(f"{where}: wanted finite values, came a {what} with {count} NaN or infinite voxels")
            low, high = float(volume.min()), float(volume.max())
            if key in self.mask_keys:
                d[key] = self._check_mask(volume, where, what, empty_ok=key not in self.never_empty)
            elif low == high:
                raise InputError(f"{where}: wanted a {what} with contrast, came one constant value ({low:g})")
            elif key == self.ct_key and (low > -200 or high < 300):
                raise InputError(
                    f"{where}: wanted CT in HU (air near -1000, bone above 300), came values from {low:g} to {high:g}"
                )
        return d

    @staticmethod
    def _check_mask(mask: torch.Tensor, where: str, what: str, empty_ok: bool) -> torch.Tensor:
        values = torch.unique(mask.as_tensor() if isinstance(mask, MetaTensor) else mask)
        wanted = [0.0, 255.0] if float(values.max()) == 255 else [0.0, 1.0]
        if not all(float(v) in wanted for v in values):
            came = ", ".join(f"{float(v):g}" for v in values[:5])
            raise InputError(f"{where}: wanted a {what} of 0 and 1, came values {came}{' …' if len(values) > 5 else ''}")
        if not empty_ok and float(values.max()) == 0:
            raise InputError(f"{where}: wanted at least one voxel in the {what}, came an empty one")
        return (mask > 0).to(torch.uint8)


class FillMissingd(Transform):
    """Where :class:`CompleteCased` found one volume only, add the other as zeros on its grid.

    The transforms that follow read ``missing`` and record typical constants for it; after normalisation it is 0 everywhere,
    which is how a missing volume looks in training (:class:`~roi_fusion.augment.RandMissingModalityd`).
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if d.get("missing"):
            absent, present = ("image", "ct") if d["missing"] == "mri" else ("ct", "image")
            d[absent] = torch.zeros_like(d[present])
        return d


class RegisterToReferenced(MapTransform):
    """Bring the CT, and what lies on its grid, to the MRI by mutual information (:func:`~roi_fusion.registration.register`).

    Only affines change: the resampling that follows is the only one. Notes what it did in ``registration``.

    Args:
        keys: the CT and the masks; a mask moves when it lies on the CT's grid and not on the MRI's.
        reference_key: the MRI, which stays.
        ct_key: the CT.
        enabled: false leaves everything as it is; the text of a command line is taken as well.
        affine: allow scaling and shear too.

    Raises:
        InputError: when an orientation is missing, or the pose found is worse than the given one.
    """

    def __init__(
        self,
        keys: KeysCollection,
        reference_key: str = "image",
        ct_key: str = "ct",
        enabled: bool | str = True,
        affine: bool | str = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.reference_key, self.ct_key = reference_key, ct_key
        self.enabled, self.affine = as_bool("register", enabled), as_bool("affine", affine)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if not self.enabled or d.get("missing"):
            return d
        from .registration import register  # needs itk, which who does not register need not have

        mri, ct = d[self.reference_key], d[self.ct_key]
        for volume in (mri, ct):
            if not has_orientation(volume):
                raise InputError(f"{file_of(volume)}: wanted an orientation (sform or qform) to register by, came none")
        given = np.asarray(ct.affine, dtype=np.float64)
        try:
            found = register(
                np.asarray(mri[0]), np.asarray(mri.affine, dtype=np.float64), np.asarray(ct[0]), given, affine=self.affine
            )
        except InputError as e:
            raise InputError(f"{file_of(ct)}: {e}") from None
        moved = torch.from_numpy(np.linalg.inv(found.matrix) @ given)
        for key in self.key_iterator(d):
            volume = d[key]
            own = (volume.shape[1:], np.asarray(volume.affine))
            on_mri = same_grid(*own, mri.shape[1:], np.asarray(mri.affine))
            if key == self.ct_key or (same_grid(*own, ct.shape[1:], given) and not on_mri):
                d[key] = MetaTensor(volume.as_tensor(), affine=moved, meta={**volume.meta, "affine": moved})
        # Plain numbers only: they are collated into batches.
        d["registration"] = {k: float(v) for k, v in found.facts().items() if isinstance(v, (int, float))}
        return d


class MatchGridd(MapTransform):
    """Bring volumes onto the grid of `reference_key` where their grids differ by more than a tenth of a voxel.

    By :func:`~roi_fusion.grids.resample`: MONAI's ``ResampleToMatch`` lets the outer half voxel of the field of view fade into
    the padding, which takes half of the outermost slices' head, and skips over most slices of a thin CT, noise and all.

    Args:
        keys: volumes to resample where present.
        reference_key: whose grid stays.
        mode: interpolation per key.
        padding_value: value outside the field of view, per key (air for the CT).
        min_overlap: refuse when less than this share of the reference lies inside the other's field of view.

    Raises:
        InputError: when a grid differs and an affine is missing or singular, or the fields of view do not overlap.
    """

    def __init__(
        self,
        keys: KeysCollection,
        reference_key: str = "image",
        mode: Sequence[str] | str = "bilinear",
        padding_value: Sequence[float] | float = 0.0,
        min_overlap: float = 0.1,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        n = len(self.keys)
        self.mode = [mode] * n if isinstance(mode, str) else list(mode)
        self.padding_value = [padding_value] * n if isinstance(padding_value, (int, float)) else list(padding_value)
        self.reference_key, self.min_overlap = reference_key, min_overlap

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        reference = d[self.reference_key]
        affine, shape = np.asarray(reference.affine, dtype=np.float64), reference.shape[1:]
        for key, mode, padding in self.key_iterator(d, self.mode, self.padding_value):
            volume = d[key]
            own = np.asarray(volume.affine, dtype=np.float64)
            if same_grid(volume.shape[1:], own, shape, affine, tolerance_mm=0.1 * min(spacing_of(reference))):
                continue
            self._check(volume, reference)
            nearest = mode == "nearest"
            array = resample(np.asarray(volume[0]), own, shape, affine, outside=padding, nearest=nearest)
            moved = torch.from_numpy(array)[None]
            meta = {**reference.meta, "affine": reference.affine.clone(), "filename_or_obj": file_of(volume)}
            d[key] = MetaTensor(moved.to(torch.uint8) if nearest else moved, meta=meta)
        return d

    def _check(self, volume: MetaTensor, reference: MetaTensor) -> None:
        for v in (volume, reference):
            if not has_orientation(v):
                raise InputError(
                    f"{file_of(v)}: wanted an orientation (sform or qform) because the volumes of this case are on "
                    f"different grids ({tuple(volume.shape[1:])} and {tuple(reference.shape[1:])}), came none"
                )
        steps = [torch.linspace(0, n - 1, min(n, 16), dtype=torch.float64) for n in reference.shape[1:]]
        points = torch.stack([*torch.meshgrid(*steps, indexing="ij"), torch.ones([len(s) for s in steps])])
        to_volume = torch.linalg.inv(volume.affine.double()) @ reference.affine.double()
        index = (to_volume @ points.reshape(4, -1).double())[:3]
        size = torch.tensor(volume.shape[1:])[:, None]
        share = float(((index > -0.5) & (index < size - 0.5)).all(0).double().mean())
        if share < self.min_overlap:
            raise InputError(
                f"{file_of(volume)}: wanted a field of view that overlaps {file_of(reference)}, "
                f"came an overlap of {100 * share:.0f} %"
            )


class ThickAxisLastd(MapTransform, InvertibleTransform):
    """Reorder and flip the axes so that the slice axis (largest spacing) comes last: RAS, RSA or ASR.

    Equal spacings count as axial. Inverted by ``Invertd`` like MONAI's ``Orientationd``, which it wraps.
    """

    def __init__(self, keys: KeysCollection, reference_key: str = "image") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.reference_key = reference_key
        # One of each: threads that fill a cache share this transform.
        labels = (("L", "R"), ("P", "A"), ("I", "S"))
        self._orientations = {codes: Orientation(axcodes=codes, labels=labels) for codes in ("RAS", "RSA", "ASR")}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        orientation = self._orientations[self.axcodes(d[self.reference_key])]
        for key in self.key_iterator(d):
            d[key] = orientation(d[key])
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            used = d[key].applied_operations[-1].get("id")
            orientation = next((o for o in self._orientations.values() if id(o) == used), self._orientations["RAS"])
            d[key] = orientation.inverse(d[key])
        return d

    @staticmethod
    def axcodes(volume: MetaTensor) -> str:
        """Axis codes of the working orientation of a volume."""
        import nibabel as nib

        spacing = spacing_of(volume)
        by_axis = dict(zip(nib.orientations.aff2axcodes(np.asarray(volume.affine)), spacing))
        by_axis = {{"L": "R", "P": "A", "I": "S"}.get(code, code): s for code, s in by_axis.items()}
        thickest = max("SAR", key=lambda code: round(by_axis[code], 2))  # the first of equals: S
        return {"S": "RAS", "A": "RSA", "R": "ASR"}[thickest]


class HeadMaskd(Transform):
    """Add ``head`` (uint8) from the CT: above `threshold_hu`, largest component, filled; MRI where there is no CT.

    Raises:
        InputError: when no head is found.
    """

    def __init__(
        self, ct_key: str = "ct", image_key: str = "image", head_key: str = "head", threshold_hu: float = -300.0
    ) -> None:
        self.ct_key, self.image_key, self.head_key, self.threshold_hu = ct_key, image_key, head_key, threshold_hu

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        source = self.ct_key if self.ct_key in d and d.get("missing") != "ct" else self.image_key
        volume = d[source]
        mask = head_mask(
            np.asarray(volume[0]), spacing_of(volume), modality="ct" if source == self.ct_key else "mri",
            threshold_hu=self.threshold_hu,
        )  # fmt: skip
        if mask.sum() < 64:
            raise InputError(f"{file_of(volume)}: wanted a head, came {int(mask.sum())} voxels of tissue")
        d[self.head_key] = _like(mask, d[self.image_key])
        return d


class RoiMasksd(Transform):
    """Add the regions that a case does not bring: ``brain``, ``bone`` and ``dense`` (blood or calcium) from the CT in HU;
    ``brain_known`` and ``bone_known`` say which it did bring.

    Masks that are present stay; the brain is limited to the head. Bone wins where it meets the brain. Without a CT no bone is
    known and the whole head counts as brain; without an MRI all of the head is ``dense``, to be taken from the CT.

    Raises:
        InputError: when neither file nor CT gives a brain.
    """

    def __init__(self, ct_key: str = "ct", head_key: str = "head") -> None:
        self.ct_key, self.head_key = ct_key, head_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        volume = d[self.ct_key]
        ct, head, spacing = np.asarray(volume[0]), np.asarray(d[self.head_key][0]) > 0, spacing_of(volume)
        given = {key: np.asarray(d[key][0]) > 0 for key in ("bone", "brain") if key in d}
        d.update({f"{key}_known": float(key in given) for key in ("bone", "brain")})
        if d.get("missing") == "ct":
            given = {"brain": head, **given, "bone": np.zeros_like(head)}
        bone, brain = cranial_masks(ct, head, spacing, **given)
        brain &= head
        if not brain.any():
            raise InputError(f"{file_of(volume)}: wanted a brain inside the skull, found none in the CT")
        dense = head if d.get("missing") == "mri" else hyperdense_mask(ct, brain, spacing)
        for key, mask in (("bone", bone & head), ("brain", brain), ("dense", dense)):
            d[key] = _like(mask, volume)
        return d


class SoftKneed(MapTransform):
    """:func:`~roi_fusion.intensity.soft_knee` beyond [`lower`, `upper`]."""

    def __init__(self, keys: KeysCollection, lower: float = 0.05, upper: float = 1.0, room: float = 1.0) -> None:
        super().__init__(keys)
        self.limits = (lower, upper, room)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = soft_knee(d[key], *self.limits)
        return d


class CompandHUd(MapTransform):
    """:func:`~roi_fusion.intensity.compand_hu`: HU → [0.05, 1] through fixed points."""

    def __init__(
        self,
        keys: KeysCollection,
        hu_points: Sequence[float] = HU_POINTS,
        scaled_points: Sequence[float] = SCALED_POINTS,
    ) -> None:
        super().__init__(keys)
        rising = all(b > a for points in (hu_points, scaled_points) for a, b in pairwise(points))
        if len(hu_points) != len(scaled_points) or len(hu_points) < 2 or not rising:
            raise InputError(
                f"hu_points and scaled_points: wanted two rising lists of one length, came {hu_points} and {scaled_points}"
            )
        self.points = (tuple(map(float, hu_points)), tuple(map(float, scaled_points)))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = compand_hu(d[key].float(), *self.points)
        return d


class RecordPercentilesd(Transform):
    """Note in ``intensity`` which MRI values the following ``ScaleIntensityRangePercentilesd`` maps to its bounds."""

    def __init__(
        self,
        key: str = "image",
        lower: float = 1,
        upper: float = 99,
        b_min: float = 0.05,
        b_max: float = 1.0,
        room: float = 1.0,
    ) -> None:
        self.key, self.lower, self.upper, self.b_min, self.b_max, self.room = key, lower, upper, b_min, b_max, room

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        from monai.transforms.utils_pytorch_numpy_unification import percentile

        d = dict(data)
        plain = d[self.key].as_tensor()
        low, high = (float(percentile(plain, q)) for q in (self.lower, self.upper))
        if d.get("missing") == "mri":
            low, high = 0.0, 1.0
        if not high > low:
            raise InputError(
                f"{file_of(d[self.key])}: wanted an MRI with contrast, "
                f"came {low:g} at both percentiles {self.lower} and {self.upper}"
            )
        d["intensity"] = {
            **d.get("intensity", {}), "mri_low": low, "mri_high": high,
            "lower": self.b_min, "upper": self.b_max, "room": self.room,
        }  # fmt: skip
        return d


class RecordMeanStdd(MapTransform):
    """Note in ``intensity`` the extremes over the head, and the mean and deviation that the following ``NormalizeIntensityd``
    removes.

    Args:
        keys: volumes that are exactly 0 outside the head.
        names: prefix of the two constants, one per key.
    """

    def __init__(self, keys: KeysCollection, names: Sequence[str] = ("mri", "ct")) -> None:
        super().__init__(keys)
        self.names = tuple(names)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        intensity = dict(d.get("intensity", {}))
        for key, name in self.key_iterator(d, self.names):
            if d.get("missing") == name:
                intensity[f"{name}_mean"], intensity[f"{name}_std"] = TYPICAL_SCALES[name]
                intensity[f"{name}_min"], intensity[f"{name}_max"] = 0.05, 1.0
                continue
            plain = d[key].as_tensor()
            values = plain[plain != 0]
            intensity[f"{name}_mean"], intensity[f"{name}_std"] = float(values.mean()), float(values.std(unbiased=False))
            intensity[f"{name}_min"], intensity[f"{name}_max"] = float(values.min()), float(values.max())
            if not intensity[f"{name}_std"] > 1e-6:
                raise InputError(f"{file_of(d[key])}: wanted contrast inside the head, came a constant head")
        d["intensity"] = intensity
        return d


class FillUnknownLabeld(Transform):
    """Add ``label_known``; where a case has no lesion mask, ``label`` is zeros that loss and metrics leave out.

    ``label_voxels`` is the lesion's size before anything is cropped: what lies outside of the CT's field of view is missed, not
    gone.
    """

    def __init__(self, label_key: str = "label", reference_key: str = "image") -> None:
        self.label_key, self.reference_key = label_key, reference_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        d["label_known"] = float(self.label_key in d)
        if self.label_key not in d:
            d[self.label_key] = torch.zeros_like(d[self.reference_key], dtype=torch.uint8)
        d["label_voxels"] = float((d[self.label_key] > 0).sum())
        return d


def _like(mask: np.ndarray, reference: MetaTensor) -> MetaTensor:
    """A boolean array as a uint8 volume ``[1, X, Y, Z]`` with the place of `reference`."""
    out = MetaTensor(torch.from_numpy(np.ascontiguousarray(mask[None]).astype(np.uint8)), affine=reference.affine)
    return out
