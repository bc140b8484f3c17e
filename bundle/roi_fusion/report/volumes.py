# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The volumes of one result folder on one grid, and how slices are cut out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to

from ..data.grids import spacing_mm
from ..data.io import read_volume
from ..data.naming import original_of
from ..data.results import read_result
from ..errors import InputError
from ..values import listed_files

__all__ = ["ResultVolumes", "View", "load_volumes", "reference_beside"]

_OPPOSITE = dict(zip("LRPAIS", "RLAPSI"))

#: Air, in HU.
_AIR_HU = -1024.0


@dataclass(frozen=True)
class ResultVolumes:
    """Volumes ``[X, Y, Z]`` of a case, axes rising to the right, to the front and upwards; None where there is none.

    Attributes:
        affine: voxel indices to mm in RAS, ``[4, 4]``.
        stored_shape, stored_axes: shape and axis codes of the file whose grid this is.
        mri, fused: in MRI units; `fused` is 0 outside the head.
        ct: in HU, brought to this grid.
        lesion, reference: 0 or 1.
        lesion_prob, provenance: 0 to 1; `provenance` is NaN where nothing can be told.
        uncertainty: in bits.
    """

    affine: np.ndarray
    stored_shape: tuple[int, ...]
    stored_axes: str
    mri: np.ndarray | None
    ct: np.ndarray | None
    fused: np.ndarray
    lesion: np.ndarray | None
    lesion_prob: np.ndarray | None
    provenance: np.ndarray | None
    uncertainty: np.ndarray | None
    reference: np.ndarray | None

    @property
    def spacing_mm(self) -> np.ndarray:
        """Voxel size along each axis."""
        return spacing_mm(self.affine)

    @property
    def head(self) -> np.ndarray:
        """Where the fused volume shows something, bool."""
        return self.fused != 0


@dataclass(frozen=True)
class View:
    """How slices are cut out of the volumes: along `axis`, cropped to the head.

    Attributes:
        axis: the slices are numbered along it.
        crop: of both other axes.
        spacing_mm: of the columns and the rows of a slice.
    """

    axis: int
    crop: tuple[slice, slice]
    spacing_mm: tuple[float, float]

    @classmethod
    def of(cls, volumes: ResultVolumes) -> View:
        """Along the thickest axis, of equal ones the last."""
        head, spacing = volumes.head, volumes.spacing_mm
        axis = int(np.argmax([round(float(s), 2) + 1e-3 * i for i, s in enumerate(spacing)]))
        first, second = others = [a for a in range(3) if a != axis]
        found = [np.flatnonzero(head.any(tuple(b for b in range(3) if b != a))) for a in others]
        crop = [slice(max(int(f[0]) - 3, 0), int(f[-1]) + 4) if len(f) else slice(None) for f in found]
        return cls(axis, (crop[0], crop[1]), (float(spacing[first]), float(spacing[second])))

    def plane(self, volume: np.ndarray, k: int) -> np.ndarray:
        """Slice `k`, its top row first, in radiological convention."""
        index: list[Any] = [*self.crop]
        index.insert(self.axis, k)
        image = volume[tuple(index)].T[::-1]
        return image if self.axis == 0 else image[:, ::-1]

    def counts(self, mask: np.ndarray) -> np.ndarray:
        """Sum of a mask in each slice."""
        return mask.sum(tuple(a for a in range(3) if a != self.axis))

    def letters(self, affine: np.ndarray) -> dict[str, str]:
        """The side of the patient at each edge of a slice.

        Args:
            affine: of the volumes.

        Returns:
            Letters out of L, R, A, P, S, I by ``left``, ``right``, ``top`` and ``bottom``.
        """
        columns, rows = (nib.aff2axcodes(affine)[a] for a in range(3) if a != self.axis)
        right = columns if self.axis == 0 else _OPPOSITE[columns]
        return {"left": _OPPOSITE[right], "right": right, "top": rows, "bottom": _OPPOSITE[rows]}


def _is_there(path: str | Path) -> bool:
    return all(Path(p).exists() for p in listed_files(path) or [Path(path)])


def _image(path: str | Path, role: str = "") -> nib.Nifti1Image:
    volume = read_volume(path, as_stored=True, role=role)
    return nib.Nifti1Image(volume.array, volume.affine)


def _load(path: str | Path, like: Any, *, outside: float = 0.0, order: int = 1, role: str = "") -> np.ndarray | None:
    """A volume in canonical orientation on the grid of `like`; None where the file is missing."""
    if not path or not _is_there(path):
        return None
    image = _image(path, role)
    if image.shape != like.shape or not np.allclose(image.affine, like.affine, atol=1e-2):
        image = resample_from_to(image, like, order=order, cval=outside)
    upright = np.asarray(nib.as_closest_canonical(image).dataobj, dtype=np.float32)
    return np.asfortranarray(upright)  # slices along the last axis then lie in one piece


def reference_beside(facts: Mapping[str, Any]) -> Path | None:
    """The reference mask that lies beside the images of a result; None where there is none.

    Args:
        facts: content of ``result.json``.
    """
    beside = Path(original_of(facts.get("mri") or facts.get("ct") or "")).parent
    return next((p for e in (".nii.gz", ".nii") if (p := beside / f"lesion_mask{e}").is_file()), None)


def load_volumes(folder: str | Path, reference: str | Path | None = None) -> ResultVolumes:
    """The volumes of a result folder, with the images that it was made from.

    Args:
        folder: ``<output_dir>/<case>`` with ``result.json`` and the volumes.
        reference: file of the reference lesion.

    Raises:
        InputError: when the folder holds no result, or its images are gone.
    """
    folder = Path(folder)
    facts = read_result(folder)
    if facts is None or not {"mri", "ct"} <= set(facts):
        raise InputError(f"{folder}: expected a result folder with result.json, got none that can be read")
    mri, ct = original_of(facts["mri"]), original_of(facts["ct"])
    source, role = (mri, "mr") if mri else (ct, "ct")
    if not source or not _is_there(source):
        named = facts["mri"] or facts["ct"]
        raise InputError(f"{named}: expected the {'MRI' if mri else 'CT'} of this result, found no such file")
    grid = _image(source, role)
    fused = _load(folder / "fused.nii.gz", grid)
    if fused is None:
        raise InputError(f"{folder}: expected a result folder with fused.nii.gz, found no such file")
    return ResultVolumes(
        affine=nib.as_closest_canonical(grid).affine,
        stored_shape=tuple(grid.shape),
        stored_axes="".join(nib.aff2axcodes(grid.affine)),
        mri=_load(mri, grid, role="mr"),
        ct=_load(ct, grid, outside=_AIR_HU, role="ct"),
        fused=fused,
        lesion=_load(folder / "lesion.nii.gz", grid, order=0),
        lesion_prob=_load(folder / "lesion_prob.nii.gz", grid),
        provenance=_load(folder / "provenance.nii.gz", grid),
        uncertainty=_load(folder / "uncertainty.nii.gz", grid),
        reference=_load(reference, grid, order=0) if reference else None,
    )
