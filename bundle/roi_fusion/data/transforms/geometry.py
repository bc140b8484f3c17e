# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Transforms that bring CT and masks onto the MRI's grid and the slice axis to the end."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Orientation

from ...errors import InputError
from ...values import as_bool
from ..grids import has_orientation, resample, same_grid, spacing_of
from .loading import file_of

__all__ = ["MatchGridd", "RegisterToReferenced", "ThickAxisLastd"]


class RegisterToReferenced(MapTransform):
    """Bring the CT, and what lies on its grid, to the MRI by mutual information, see :mod:`~roi_fusion.data.registration`.

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
        from ..registration import register  # needs itk, which who does not register need not have

        mri, ct = d[self.reference_key], d[self.ct_key]
        for volume in (mri, ct):
            if not has_orientation(volume):
                raise InputError(f"{file_of(volume)}: expected an orientation (sform or qform) to register by, got none")
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

    By :func:`~roi_fusion.data.grids.resample`: MONAI's ``ResampleToMatch`` lets the outer half voxel of the field of view fade
    into the padding, which takes half of the outermost slices' head, and skips over most slices of a thin CT, noise and all.

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
                    f"{file_of(v)}: expected an orientation (sform or qform) because the volumes of this case are on "
                    f"different grids ({tuple(volume.shape[1:])} and {tuple(reference.shape[1:])}), got none"
                )
        steps = [torch.linspace(0, n - 1, min(n, 16), dtype=torch.float64) for n in reference.shape[1:]]
        points = torch.stack([*torch.meshgrid(*steps, indexing="ij"), torch.ones([len(s) for s in steps])])
        to_volume = torch.linalg.inv(volume.affine.double()) @ reference.affine.double()
        index = (to_volume @ points.reshape(4, -1).double())[:3]
        size = torch.tensor(volume.shape[1:])[:, None]
        share = float(((index > -0.5) & (index < size - 0.5)).all(0).double().mean())
        if share < self.min_overlap:
            raise InputError(
                f"{file_of(volume)}: expected a field of view that overlaps {file_of(reference)}, "
                f"got an overlap of {100 * share:.0f} %"
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
