# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Dictionary transforms of the bundle, for what MONAI has no transform of its own.

Keys: ``image`` (MRI), ``ct``, ``label`` (lesion), ``brain``, ``bone``, ``dense`` (blood or calcium in the brain), ``head``,
``intensity`` (constants of the normalisation), ``label_known``. Volumes are ``[1, X, Y, Z]`` MetaTensors.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys
from scipy import ndimage

from ...errors import InputError
from ...values import as_bool, listed_files
from ..io import Volume, is_volume_file, read_volume, split_ending

__all__ = ["CheckVolumesd", "CompleteCased", "FillMissingd", "FillUnknownLabeld", "LoadVolumesd", "file_of", "to_metatensor"]

logger = logging.getLogger(__name__)

_NAMES = {"image": "MRI", "ct": "CT", "label": "lesion mask", "brain": "brain mask", "bone": "bone mask"}

#: Modality of a DICOM series for a key.
_ROLES = {"image": "mr", "ct": "ct"}


def file_of(volume: Any, fallback: str = "volume") -> str:
    """The file that a MetaTensor was read from, for messages."""
    return str(getattr(volume, "meta", {}).get("filename_or_obj", fallback))


def true_mask_beside(volume: Any, stem: str) -> np.ndarray | None:
    """The mask ``<stem>.nii.gz`` in the folder of a volume's file, on the volume's grid; None where there is none.

    Args:
        volume: ``MetaTensor`` ``[C, X, Y, Z]`` that was read from a file and may be cropped and turned.
        stem: of the mask's file.

    Returns:
        Boolean, ``[X, Y, Z]``.
    """
    source = getattr(volume, "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ)
    path = Path(str(source)).parent / f"{stem}.nii.gz"
    if not source or not path.is_file():
        return None
    mask = read_volume(path)
    place = np.linalg.inv(mask.affine) @ np.asarray(volume.affine, dtype=np.float64)
    return ndimage.affine_transform(mask.array > 0, place[:3, :3], place[:3, 3], volume.shape[1:], order=0, output=bool)


def _mri_in(folder: Path) -> Path:
    """The one MRI of such a name in a folder; the folder itself where it holds no volume file, but maybe a DICOM series."""
    if not any(is_volume_file(p) for p in folder.iterdir()):
        return folder
    found = [p for p in sorted(folder.iterdir()) if re.fullmatch(r"(.+_)?mri\.nii(\.gz)?", p.name)]
    if len(found) != 1:
        raise InputError(f"{folder}: expected one mri.nii.gz or *_mri.nii.gz and its CT, got {len(found)} files of such a name")
    return found[0]


def _first_of(path: Any) -> Path:
    """A path, or the first of several with commas between."""
    return (listed_files(str(path)) or [Path(str(path))])[0]


class CompleteCased(Transform):
    """Add what a bare MRI path lacks: ``case``, its name, and ``ct``, the file beside it, as MONAI Label gives the MRI only.

    ``<case>/mri.nii.gz`` pairs with ``<case>/ct.nii.gz``, ``<case>_mri.nii.gz`` with ``<case>_ct.nii.gz``. A folder stands for
    the one MRI of such a name in it: MONAI Label's sessions hand over the folder of several uploaded files. A folder without
    volume files is taken as a DICOM series, whose CT has to be named.

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
            ct = _first_of(d["ct"])
            name, _ = split_ending(ct.name)
            d["case"] = d.get("case") or (ct.absolute().parent.name or "case" if name == "ct" else name.removesuffix("_ct"))
            return {**d, "ct_file": str(d.get("ct_shown") or ct), "missing": "mri"}
        if d.get("image") is None:
            folder = Path(str(d.get("folder", "")))
            missing = " and ".join(n for n in ("mri.nii.gz", "ct.nii.gz") if not (folder / n).is_file())
            raise InputError(f"{folder}: expected mri.nii.gz and ct.nii.gz, found no {missing}")
        mri = _first_of(d["image"])
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
                raise InputError(f"{mri}: expected a CT beside it, but only files named mri.nii.gz or *_mri.nii.gz are paired")
            ct = mri.with_name(f"{stem[:-3]}ct{ending}")
            if self.allow_missing and not ct.exists():
                return {**d, "ct_file": "", "missing": "ct"}
            if not ct.exists():
                raise InputError(f"{mri}: expected its CT at {ct}, found no such file")
            d["ct"] = str(ct)
        d["ct_file"] = str(d.get("ct_shown") or _first_of(d["ct"]))
        return d


class LoadVolumesd(MapTransform):
    """Read the files of those `keys` that are present into ``[1, X, Y, Z]`` MetaTensors, on the grids that the files have.

    By :func:`~roi_fusion.data.io.read_volume`, and not by MONAI's ``LoadImaged``, which throws a valid sform away where the
    voxel sizes beside it differ by rounding. What the reader corrected or found contradictory stands, one sentence a line, in
    ``reader_notices``; what the results' headers need stands in the meta data (``sform``, ``qform`` and their codes).
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        notices = []
        for key in self.key_iterator(d):
            path, shown = str(d[key]), str(d.pop(f"{key}_shown", ""))
            volume = read_volume(path, as_stored=True, role=_ROLES.get(str(key), ""), shown_as=shown)
            d[key] = to_metatensor(volume)
            # Of a DICOM series this is what can be read again.
            d[key].meta[ImageMetaKey.FILENAME_OR_OBJ] = shown or str(_first_of(path))
            notices += [f"{volume.source}: {note}" for note in volume.notes]
        for notice in notices:
            _warn_once(notice)
        return {**d, "reader_notices": "\n".join(notices)}  # text: lists of different lengths cannot be collated


@lru_cache(maxsize=1024)  # a training without a cache reads every case in every epoch
def _warn_once(notice: str) -> None:
    logger.warning("%s", notice)


def to_metatensor(volume: Volume) -> MetaTensor:
    """A volume as read → ``[1, X, Y, Z]`` float32 with the meta data that MONAI's and our transforms ask for."""
    affine = torch.from_numpy(np.ascontiguousarray(volume.affine, dtype=np.float64))
    meta = {
        **volume.forms,
        MetaKeys.ORIGINAL_AFFINE: affine.clone(),
        MetaKeys.SPATIAL_SHAPE: np.asarray(volume.array.shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel",
        ImageMetaKey.FILENAME_OR_OBJ: volume.source,
        "contrast": volume.contrast,
    }
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(volume.array))[None], affine=affine, meta=meta)


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
            named = f"{'an' if what == 'MRI' else 'a'} {what}"
            if volume.ndim != 4 or volume.shape[0] != 1:
                shape = list(volume.shape[1:]) + ([volume.shape[0]] if volume.shape[0] != 1 else [])
                raise InputError(f"{where}: expected a 3-D {what}, got shape {shape}")
            if not bool(torch.isfinite(volume).all()):
                count = int((~torch.isfinite(volume)).sum())
                raise InputError(f"{where}: expected finite values, got {named} with {count} NaN or infinite voxels")
            low, high = float(volume.min()), float(volume.max())
            if key in self.mask_keys:
                d[key] = self._check_mask(volume, where, what, empty_ok=key not in self.never_empty)
            elif low == high:
                raise InputError(f"{where}: expected {named} with contrast, got one constant value ({low:g})")
            elif key == self.ct_key and (low > -200 or high < 300):
                raise InputError(
                    f"{where}: expected CT in HU (air near -1000, bone above 300), got values from {low:g} to {high:g}"
                )
        return d

    @staticmethod
    def _check_mask(mask: torch.Tensor, where: str, what: str, empty_ok: bool) -> torch.Tensor:
        values = torch.unique(mask.as_tensor() if isinstance(mask, MetaTensor) else mask)
        expected = [0.0, 255.0] if float(values.max()) == 255 else [0.0, 1.0]
        if not all(float(v) in expected for v in values):
            came = ", ".join(f"{float(v):g}" for v in values[:5])
            raise InputError(f"{where}: expected a {what} of 0 and 1, got values {came}{' …' if len(values) > 5 else ''}")
        if not empty_ok and float(values.max()) == 0:
            raise InputError(f"{where}: expected at least one voxel in the {what}, got an empty one")
        return (mask > 0).to(torch.uint8)


class FillMissingd(Transform):
    """Where :class:`CompleteCased` found one volume only, add the other as zeros on its grid.

    The transforms that follow read ``missing`` and record typical constants for it; after normalisation it is 0 everywhere,
    which is how a missing volume looks in training (:class:`~roi_fusion.data.augment.RandMissingModalityd`).
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if d.get("missing"):
            absent, present = ("image", "ct") if d["missing"] == "mri" else ("ct", "image")
            d[absent] = torch.zeros_like(d[present])
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
