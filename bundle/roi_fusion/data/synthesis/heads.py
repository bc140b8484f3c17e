# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Whole heads as label maps: from a packed file, from a folder of NIfTI files, or the MNI atlas where there is neither."""

from __future__ import annotations

import lzma
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from ...core.masks import fill_slices, largest_component
from ...errors import InputError
from ..atlas import mni_tissue
from .tissues import tissue_table

__all__ = ["Head", "HeadMaps", "brain_box_mm", "choose_ids", "mni_brain_box_mm"]

#: Shares of the heads that train and validate when none are named; the rest is kept for tests.
_SHARES = (0.70, 0.15)
#: How much of the neck is kept below the brain, in mm.
_NECK_MM = 60.0


@dataclass(frozen=True)
class Head:
    """One head.

    Attributes:
        name: id of the head.
        tissue: tissue index per voxel, uint8 ``[X, Y, Z]``, axes to the right, to the front and up (RAS).
        voxel_mm: voxel size along the axes.
        from_ventricles, from_csf, from_brain, from_skull: city-block distances in mm, uint8: of brain voxels to the ventricles
            and to the outer CSF, of CSF voxels to the brain, of intracranial voxels to whatever surrounds them.
        depth: distance of head voxels to the air around the head, in mm, uint8.
    """

    name: str
    tissue: np.ndarray
    voxel_mm: np.ndarray
    from_ventricles: np.ndarray
    from_csf: np.ndarray
    from_brain: np.ndarray
    from_skull: np.ndarray
    depth: np.ndarray

    @property
    def brain(self) -> np.ndarray:
        """Where brain tissue is, boolean ``[X, Y, Z]``."""
        return _BRAIN[self.tissue]


_TABLE = tissue_table()
_BRAIN = _TABLE.in_groups("brain", "chronic")
_FLUID = np.isin(_TABLE.names, ("csf",))
_VENTRICLE = np.isin(_TABLE.names, ("ventricle", "choroid"))
_INTRACRANIAL = _TABLE.in_groups("brain", "chronic", "csf", "choroid") | np.isin(_TABLE.names, ("venous_sinus",))


def _distance(to: np.ndarray, voxel_mm: float) -> np.ndarray:
    """City-block distance to a mask, capped at 255 mm."""
    if not to.any():
        return np.full(to.shape, 255, np.uint8)
    return np.clip(ndimage.distance_transform_cdt(~to, "taxicab") * voxel_mm, 0, 255).astype(np.uint8)


def make_head(name: str, labels: np.ndarray, affine: np.ndarray, where: str | None = None) -> Head:
    """Check a label map and prepare it.

    Args:
        name: of the head.
        labels: label numbers ``[X, Y, Z]``.
        affine: index to RAS millimetres.
        where: names the map in messages; `name` when None.

    Raises:
        InputError: when the map is not 3-D, holds unknown labels or no brain.
    """
    where = where or name
    if labels.ndim != 3:
        raise InputError(f"{where}: expected a 3-D label map, got shape {tuple(labels.shape)}")
    if not np.all(np.isfinite(labels)) or np.any(labels != np.round(labels)):
        raise InputError(f"{where}: expected whole numbers as labels, got others")
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(labels, np.int32), affine))
    voxel_mm = np.array(image.header.get_zooms()[:3], float)
    tissue = _TABLE.tissues_of(np.asarray(image.dataobj), where)
    brain = _BRAIN[tissue]
    litres = float(brain.sum() * np.prod(voxel_mm)) / 1e6
    if litres < 0.3:
        raise InputError(f"{where}: expected a head with a brain, got {1000 * litres:.0f} mL of brain")
    lowest = max(0, int(np.flatnonzero(brain.any((0, 1)))[0] - _NECK_MM / voxel_mm[2]))
    inside = largest_component(tissue[..., lowest:] > 0)
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    inside = np.pad(inside[box], 3)
    tissue = np.pad(tissue[..., lowest:][box], 3) * inside
    size = float(np.mean(voxel_mm))
    hull = ndimage.binary_closing(np.pad(inside[::2, ::2, ::2], 5), iterations=4)[5:-5, 5:-5, 5:-5]
    hull = fill_slices(hull).repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in tissue.shape)]
    tissue[hull & ~inside] = _TABLE.index("cavity")
    brain, cranial = _BRAIN[tissue], _INTRACRANIAL[tissue]
    return Head(
        name=name,
        tissue=tissue,
        voxel_mm=voxel_mm,
        from_ventricles=_distance(_VENTRICLE[tissue], size),
        from_csf=_distance(_FLUID[tissue], size),
        from_brain=_distance(brain, size),
        from_skull=_distance(~cranial, size),
        depth=_distance(tissue == 0, size),
    )


def brain_box_mm(brain: np.ndarray, voxel_mm: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corner of a brain, 2nd to 98th percentile of its voxels along each axis, in mm from the first voxel."""
    corners = []
    for axis in range(3):
        count = np.cumsum(brain.sum(tuple(a for a in range(3) if a != axis)))
        corners.append(np.searchsorted(count, np.array([0.02, 0.98]) * count[-1]) * float(voxel_mm[axis]))
    both = np.array(corners, float)
    return both[:, 0], both[:, 1]


@lru_cache(maxsize=1)
def mni_brain_box_mm() -> tuple[np.ndarray, np.ndarray]:
    """:func:`brain_box_mm` of the MNI brain on ``lesions.MNI_BOX``."""
    return brain_box_mm(mni_tissue(), (1.0, 1.0, 1.0))


class HeadMaps:
    """Label maps by id.

    Args:
        path: packed ``.npz`` (``ids[N]``, ``shape[N, 3]``, ``affine[N, 4, 4]``, ``labels[K]``, ``offset[N + 1]`` into ``blob``,
            LZMA-compressed indices into ``labels``), or a folder of NIfTI label maps; None is the MNI atlas.

    Raises:
        InputError: when the path is missing, the folder holds no NIfTI file, or the file is of another form.

    >>> len(HeadMaps(None).ids)
    1
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self._files: dict[str, Path] = {}
        if self.path is None:
            self.ids: tuple[str, ...] = ("atlas",)
        elif self.path.is_dir():
            found = [p for p in sorted(self.path.iterdir()) if re.search(r"\.nii(\.gz)?$", p.name)]
            if not found:
                raise InputError(f"label_maps: expected a folder of NIfTI label maps, got a folder without any: {path}")
            self._files = {re.sub(r"\.nii(\.gz)?$", "", p.name): p for p in found}
            self.ids = tuple(self._files)
        elif self.path.is_file():
            try:
                with np.load(self.path, allow_pickle=False) as packed:
                    self._packed = {k: packed[k] for k in ("ids", "shape", "affine", "labels", "offset", "blob")}
            except (KeyError, ValueError, OSError) as e:
                raise InputError(f"label_maps: expected a packed file of label maps (.npz), got {path} ({e})") from None
            self.ids = tuple(str(n) for n in self._packed["ids"])
        else:
            raise InputError(f"label_maps: expected a packed file or a folder of NIfTI label maps, got no such path: {path}")

    def __getitem__(self, name: str) -> Head:
        """The head of one id; kept in memory.

        Raises:
            InputError: for an unknown id or an unusable map.
        """
        if name not in self.ids:
            raise InputError(f"heads: expected ids among {', '.join(self.ids)}, got {name}")
        return _load_head(self, name)

    def labels_of(self, name: str) -> tuple[str, np.ndarray, np.ndarray]:
        """Name for messages, label numbers ``[X, Y, Z]`` and affine of one head as it came."""
        if self.path is None:
            from .atlas import atlas_labels

            return ("atlas", *atlas_labels())
        if self._files:
            file = self._files[name]
            try:
                image = nib.load(file)
                return str(file), np.asarray(image.dataobj), np.asarray(image.affine)  # type: ignore[attr-defined]
            except Exception as e:  # whatever a reader raises on a broken file
                raise InputError(f"{file}: expected a readable NIfTI label map, got {type(e).__name__}") from None
        d, k = self._packed, self.ids.index(name)
        raw = lzma.decompress(d["blob"][d["offset"][k] : d["offset"][k + 1]].tobytes())
        labels = d["labels"][np.frombuffer(raw, np.uint8).reshape(d["shape"][k])]
        return f"{self.path}, head {name}", labels, d["affine"][k]


@lru_cache(maxsize=32)
def _load_head(maps: HeadMaps, name: str) -> Head:
    where, labels, affine = maps.labels_of(name)
    return make_head(name, labels, affine, where)


def choose_ids(maps: HeadMaps, ids: str | Sequence[str | int] | None, part: str) -> tuple[str, ...]:
    """The heads of one part.

    Args:
        maps: label maps.
        ids: names, as a list or as text with commas; None takes the first 70 % for ``train``, the next 15 % for ``val``.
        part: ``train`` or ``val``.

    Raises:
        InputError: for an unknown id.
    """
    if ids is not None and ids != "":
        parts = ids.split(",") if isinstance(ids, str) else (list(ids) if isinstance(ids, (list, tuple)) else [ids])
        chosen = tuple(str(i).strip() for i in parts)
        unknown = [i for i in chosen if i not in maps.ids]
        if unknown:
            raise InputError(f"heads: expected ids among {', '.join(maps.ids)}, got {unknown[0]}")
        return chosen
    count = len(maps.ids)
    train = max(1, int(_SHARES[0] * count))
    val = max(1, round(_SHARES[1] * count))
    return maps.ids[:train] if part == "train" else (maps.ids[train : train + val] or maps.ids[-1:])
