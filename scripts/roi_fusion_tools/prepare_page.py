# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Quality of prepared cases: how the contours agree, what is odd, a picture before and after, and ``prepare.html``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage, optimize
from skimage.feature import canny

from roi_fusion.core.masks import head_mask
from roi_fusion.data.grids import spacing_mm, thick_axis_last
from roi_fusion.report.rendering import write_page

__all__ = ["FLAGS", "contour_shift", "overlay_figure", "quality_flags", "write_prepare_page"]

#: Flag → what it says. Limits lie well outside of what adults' heads and good registrations give.
FLAGS = {
    "weak_match": "mutual information below 0.05: look at the overlay",
    "partial_coverage": "less than 80 % of the MRI's head lies inside the CT",
    "contour_shift": "the contours of the head differ by a shift above 3 mm",
    "brain_volume": "brain outside of 900 to 2200 mL: part of it is missing, or its mask is wrong",
    "bone_volume": "bone below 150 mL: part of the skull is missing, or its mask is wrong",
    "large_move": "moved by more than 30 mm or 20°",
    "doubtful": "what training and inference will warn of, see the notes: a part not seen, an unusual volume",
}


def contour_shift(mri: np.ndarray, ct: np.ndarray, affine: np.ndarray, max_points: int = 6000) -> float | None:
    """In-plane shift in mm that would bring the head's contour in the MRI nearest to the one in the CT; independent of values.

    A contour that lies evenly inside the other (no scalp signal) counts as no shift. None where either shows no head.
    """
    mri, upright = thick_axis_last(mri, affine)
    ct, _ = thick_axis_last(ct, affine)
    spacing = spacing_mm(upright).tolist()
    ct_head, mri_head = head_mask(ct, spacing), head_mask(mri, spacing, modality="mri")
    usable = np.flatnonzero(ct_head.any((0, 1)) & mri_head.any((0, 1)))
    planes, points = [], []
    for k in usable:
        inside = ndimage.distance_transform_edt(ct_head[..., k], sampling=spacing[:2])
        outside = ndimage.distance_transform_edt(~ct_head[..., k], sampling=spacing[:2])
        planes.append(inside - outside)
        rim = mri_head[..., k] & ~ndimage.binary_erosion(mri_head[..., k], border_value=1)
        where = np.argwhere(rim)
        points.append(np.c_[where, np.full(len(where), len(planes) - 1)])
    if not planes or not sum(map(len, points)):
        return None
    distance = np.stack(planes, -1)
    index = np.concatenate(points).astype(float)
    index = index[:: max(1, len(index) // max_points)]

    def residual(parameters: np.ndarray) -> np.ndarray:
        moved = index + [parameters[0] / spacing[0], parameters[1] / spacing[1], 0]
        return ndimage.map_coordinates(distance, moved.T, order=1, mode="nearest") - parameters[2]

    found = optimize.least_squares(residual, [0.0, 0.0, float(np.median(residual(np.zeros(3))))], loss="soft_l1", f_scale=2.0)
    return round(float(np.hypot(*found.x[:2])), 2)


def quality_flags(quality: Mapping[str, Any], *, registered: bool = True) -> list[str]:
    """Names of :data:`FLAGS` that hold for the figures of one case."""
    shift = quality.get("contour_shift_mm")
    tests = {
        "weak_match": quality["mutual_information_after"] < 0.05,
        "partial_coverage": quality["overlap"] < 0.8,
        "contour_shift": shift is not None and shift > 3,
        "brain_volume": not 900 <= quality["brain_ml"] <= 2200,
        "bone_volume": quality["bone_ml"] < 150,
        "large_move": registered and (quality["shift_mm"] > 30 or quality["rotation_degrees"] > 20),
    }
    return [name for name, holds in tests.items() if holds]


def overlay_figure(
    before: tuple[np.ndarray, np.ndarray],
    after: tuple[np.ndarray, np.ndarray],
    brain: np.ndarray,
    bone: np.ndarray,
    affine: np.ndarray,
    num_slices: int = 4,
) -> Figure:
    """The CT with the MRI's edges before and after, and both regions, on slices through the brain.

    Args:
        before, after: MRI and CT on one grid, as the headers place them and as registered.
        brain, bone: regions after.
        affine: of that grid.
        num_slices: columns.
    """
    views = [thick_axis_last(v, affine)[0] for v in (*before, *after, brain, bone)]
    upright = thick_axis_last(before[0], affine)[1]
    spacing = spacing_mm(upright)
    filled = np.flatnonzero(views[4].any((0, 1)))
    chosen = [int(filled[int(q * (len(filled) - 1))]) for q in np.linspace(0.15, 0.85, num_slices)]
    rows = ("before", "after", "regions")
    world = [int(np.argmax(np.abs(upright[:3, a]))) for a in (0, 1)]  # of each plane axis: 0 left-right, 1 back-front, 2 up

    def plane(volume: np.ndarray, k: int) -> np.ndarray:
        image = volume[..., k]
        for axis in (0, 1):  # rising index to the patient's left, to the back and downwards
            if upright[world[axis], axis] > 0:
                image = np.flip(image, axis)
        return image.T if world[0] < world[1] else image

    width = 2.3
    sample = plane(views[0], 0)
    pixel = spacing[:2] if world[0] < world[1] else spacing[[1, 0]]
    aspect = float(pixel[1] / pixel[0])
    height = width * sample.shape[0] * aspect / sample.shape[1]
    figure = Figure(figsize=(width * num_slices, height * len(rows)), facecolor="black")
    axes = figure.subplots(len(rows), num_slices, squeeze=False)
    for row, name in enumerate(rows):
        mri, ct = views[0:2] if name == "before" else views[2:4]
        for column, k in enumerate(chosen):
            ax = axes[row][column]
            ax.axis("off")
            low, high = (-500, 1300) if name == "regions" else (-20, 100)
            ax.imshow(plane(ct, k), cmap="gray", vmin=low, vmax=high, aspect=aspect)
            if name == "regions":
                for mask, colour in ((views[4], "lime"), (views[5], "deepskyblue")):
                    outline = plane(mask, k)
                    if outline.any() and not outline.all():
                        ax.contour(outline, [0.5], colors=colour, linewidths=0.7)
                continue
            image = plane(mri, k).astype(np.float64)
            top = float(np.percentile(mri, 99.5))
            scaled = np.clip(image / top, 0, 1) if top > 0 else image
            edges = canny(scaled, sigma=max(1.0, 1.5 / float(pixel[0])), low_threshold=0.03, high_threshold=0.08)
            ax.imshow(np.ma.masked_where(~edges, edges), cmap="autumn", vmin=0, vmax=2, aspect=aspect, interpolation="nearest")
        axes[row][0].text(0.02, 0.97, name, color="white", fontsize=8, va="top", transform=axes[row][0].transAxes)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.01, hspace=0.01)
    return figure


def write_prepare_page(output_dir: str | Path, record: Mapping[str, Any]) -> Path:
    """Write ``prepare.html``; its pictures lie in the folders of the cases."""
    folder = Path(output_dir)
    return write_page(
        folder / "prepare.html",
        "prepare.html.j2",
        package="roi_fusion_tools",
        title=f"Prepared cases: {folder.resolve().name}",
        name=folder.resolve().name,
        record=record,
        flags=FLAGS,
    )
