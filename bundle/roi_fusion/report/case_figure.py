# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The picture of one result folder: some slices of MRI, CT, fused image, lesion, provenance and uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from nibabel.processing import resample_from_to

from ..data.grids import spacing_mm
from ..data.io import read_volume
from ..data.results import read_result
from ..errors import InputError

__all__ = ["case_figure"]

#: Width of a panel in inches.
_WIDTH = 1.9


@dataclass(frozen=True)
class _Case:
    """Volumes ``[X, Y, Z]`` of a case in canonical orientation (x right, y front, z up); None where there is none."""

    spacing_mm: np.ndarray
    mri: np.ndarray | None
    ct: np.ndarray | None
    fused: np.ndarray
    lesion: np.ndarray | None
    provenance: np.ndarray | None
    uncertainty: np.ndarray | None
    reference: np.ndarray | None


class _Panel(NamedTuple):
    """A column of the picture: a volume and the grey levels or colours that it is shown in."""

    title: str
    volume: np.ndarray | None
    colours: str
    low: float
    high: float
    outlined: bool = False


@dataclass(frozen=True)
class _View:
    """How slices are cut out of the volumes: along `axis`, cropped to the head."""

    axis: int
    crop: tuple[slice, slice]
    aspect: float

    @classmethod
    def of(cls, head: np.ndarray, spacing_mm: np.ndarray) -> _View:
        """Along the thickest axis, of equal ones the last."""
        axis = int(np.argmax([round(float(s), 2) + 1e-3 * i for i, s in enumerate(spacing_mm)]))
        first, second = others = [a for a in range(3) if a != axis]
        found = [np.flatnonzero(head.any(tuple(b for b in range(3) if b != a))) for a in others]
        crop = [slice(max(int(f[0]) - 3, 0), int(f[-1]) + 4) if len(f) else slice(None) for f in found]
        return cls(axis, (crop[0], crop[1]), float(spacing_mm[second] / spacing_mm[first]))

    def plane(self, volume: np.ndarray, k: int) -> np.ndarray:
        """Slice `k` with rows upwards, in radiological convention."""
        image = np.take(volume, k, self.axis)[self.crop].T
        return image[:, ::-1] if self.axis != 0 else image

    def counts(self, mask: np.ndarray) -> np.ndarray:
        """Sum of a mask in each slice."""
        return mask.sum(tuple(a for a in range(3) if a != self.axis))


def _image(path: str | Path) -> nib.Nifti1Image:
    volume = read_volume(path, as_stored=True)
    return nib.Nifti1Image(volume.array, volume.affine)


def _load(path: str | Path, like: Any = None) -> np.ndarray | None:
    """A volume in canonical orientation, on the grid of `like`; None where the file is missing."""
    if not path or not Path(path).exists():
        return None
    image = _image(path)
    if like is not None and (image.shape != like.shape or not np.allclose(image.affine, like.affine, atol=1e-2)):
        image = resample_from_to(image, like, order=1, cval=-1024 if "ct" in Path(path).name else 0)
    return np.asarray(nib.as_closest_canonical(image).dataobj, dtype=np.float32)


def _load_case(folder: Path, reference_mask: str | Path | None) -> _Case:
    facts = read_result(folder)
    if facts is None:
        raise InputError(f"{folder}: expected a result folder with result.json, got none that can be read")
    source = facts["mri"] or facts["ct"]
    if not Path(source).exists():
        raise InputError(f"{source}: expected the {'MRI' if facts['mri'] else 'CT'} of this result, found no such file")
    grid = _image(source)
    fused = _load(folder / "fused.nii.gz")
    if fused is None:
        raise InputError(f"{folder}: expected a result folder with fused.nii.gz, found no such file")
    return _Case(
        spacing_mm=spacing_mm(nib.as_closest_canonical(grid).affine),
        mri=_load(source) if facts["mri"] else None,
        ct=_load(facts["ct"], grid) if facts["ct"] else None,
        fused=fused,
        **{name: _load(folder / f"{name}.nii.gz") for name in ("lesion", "provenance", "uncertainty")},
        reference=_load(reference_mask, grid) if reference_mask else None,
    )


def _chosen_slices(case: _Case, head: np.ndarray, view: _View, num_slices: int) -> list[int]:
    """Slices spread over the head; where there is a lesion, the one with most of it and those farthest from it."""
    filled = np.flatnonzero(view.counts(head))
    spread = {int(filled[int(q * (len(filled) - 1))]) for q in np.linspace(0.3, 0.8, num_slices)} if len(filled) else {0}
    lesion = case.reference if case.reference is not None and case.reference.any() else case.lesion
    if lesion is None or not lesion.any():
        return sorted(spread)
    largest = int(np.argmax(view.counts(lesion)))
    return sorted({largest, *sorted(spread, key=lambda k: -abs(k - largest))[: num_slices - 1]})


def _range_over(volume: np.ndarray, head: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    if not head.any():
        return float(volume.min()), float(volume.max())
    low, high = np.percentile(volume[head], percentiles)
    return float(low), float(high)


def _panels(case: _Case, head: np.ndarray) -> list[_Panel]:
    mri_range = _range_over(case.fused if case.mri is None else case.mri, head, (1, 99.5))
    fused_range = _range_over(case.fused, head, (0.5, 99.7))
    return [
        _Panel("MRI", case.mri, "gray", *mri_range),
        _Panel("CT, brain window", case.ct, "gray", 0, 80),
        _Panel("CT, bone window", case.ct, "gray", -500, 1300),
        _Panel("fused", case.fused, "gray", *fused_range, outlined=True),
        _Panel("lesion on MRI", case.mri, "gray", *mri_range, outlined=True),
        _Panel("share of the MRI", case.provenance, "viridis", 0, 1),
        _Panel("uncertainty (bits)", case.uncertainty, "magma", 0, 1),
    ]


def _draw(ax: Axes, panel: _Panel, case: _Case, head: np.ndarray, view: _View, k: int) -> None:
    """One slice of a panel over the grey shape of the head; lesions outlined, the reference in green, the prediction in red."""
    ax.axis("off")
    ax.set_facecolor("black")
    if panel.volume is None:
        return
    shown: dict[str, Any] = {"origin": "lower", "aspect": view.aspect}
    ax.imshow(0.35 * view.plane(head, k).astype(float), cmap="gray", vmin=0, vmax=1, **shown)
    high = max(panel.high, panel.low + 1e-6)
    ax.imshow(view.plane(panel.volume, k), cmap=panel.colours, vmin=panel.low, vmax=high, **shown)
    if not panel.outlined:
        return
    for mask, colour in ((case.reference, "lime"), (case.lesion, "red")):
        outline = None if mask is None else view.plane(mask, k)
        if outline is not None and 0 < outline.mean() < 1:
            ax.contour(outline, [0.5], colors=colour, linewidths=0.8)


def case_figure(folder: str | Path, label: str | Path | None = None, num_slices: int = 3) -> Figure:
    """Picture of one result folder: a row per slice; columns of MRI, CT, fused image, lesion, provenance and uncertainty.

    Args:
        folder: ``<output_dir>/<case>`` with ``result.json`` and the volumes.
        label: file of the reference lesion, outlined in green.
        num_slices: number of rows, at most.

    Raises:
        InputError: when the folder holds no result, or its MRI is gone.
    """
    case = _load_case(Path(folder), label)
    head = case.fused != 0
    view = _View.of(head, case.spacing_mm)
    slices, panels = _chosen_slices(case, head, view, num_slices), _panels(case, head)
    rows, columns = view.plane(case.fused, 0).shape
    height = _WIDTH * min(max(rows * view.aspect / columns, 0.3), 1.6)
    total = height * len(slices) + 0.3
    figure = Figure(figsize=(_WIDTH * len(panels), total), facecolor="black")
    axes = figure.subplots(len(slices), len(panels), squeeze=False)
    for row, k in zip(axes, slices):
        for ax, panel in zip(row, panels):
            _draw(ax, panel, case, head, view, k)
    for ax, panel in zip(axes[0], panels):
        if panel.volume is not None:
            ax.set_title(panel.title, color="white", fontsize=9)
    figure.subplots_adjust(0.003, 0.003, 0.997, 1 - 0.26 / total, wspace=0.02, hspace=0.02)
    return figure
