# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A figure of some slices of one result folder, for documents: MRI, CT, fused image, lesion, provenance and uncertainty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .sheets import Panel, panels_of
from .volumes import ResultVolumes, View, load_volumes

__all__ = ["case_figure"]

#: Width of a panel in inches.
_WIDTH = 1.9


def _chosen_slices(volumes: ResultVolumes, view: View, num_slices: int) -> list[int]:
    """Slices spread over the head; where there is a lesion, the one with most of it and those farthest from it."""
    filled = np.flatnonzero(view.counts(volumes.head))
    spread = {int(filled[int(q * (len(filled) - 1))]) for q in np.linspace(0.3, 0.8, num_slices)} if len(filled) else {0}
    lesion = volumes.reference if volumes.reference is not None and volumes.reference.any() else volumes.lesion
    if lesion is None or not lesion.any():
        return sorted(spread)
    largest = int(np.argmax(view.counts(lesion)))
    return sorted({largest, *sorted(spread, key=lambda k: -abs(k - largest))[: num_slices - 1]})


def _draw(ax: Axes, panel: Panel, volumes: ResultVolumes, view: View, k: int) -> None:
    """One slice of a panel over the grey shape of the head; lesions outlined, the reference in green, the prediction in red."""
    ax.axis("off")
    ax.set_facecolor("black")
    if panel.volume is None:
        return
    shown: dict[str, Any] = {"aspect": view.spacing_mm[1] / view.spacing_mm[0]}
    ax.imshow(0.35 * view.plane(volumes.head, k).astype(float), cmap="gray", vmin=0, vmax=1, **shown)
    ax.imshow(view.plane(panel.volume, k), cmap=panel.colours, vmin=panel.low, vmax=panel.high, **shown)
    if not panel.outlined:
        return
    for mask, colour in ((volumes.reference, "lime"), (volumes.lesion, "red")):
        outline = None if mask is None else view.plane(mask, k)
        if outline is not None and 0 < outline.mean() < 1:
            ax.contour(outline, [0.5], colors=colour, linewidths=0.8)


def case_figure(folder: str | Path, label: str | Path | None = None, num_slices: int = 3) -> Figure:
    """Picture of one result folder: a row per slice; columns of MRI, CT, fused image, lesion, uncertainty and provenance.

    Args:
        folder: ``<output_dir>/<case>`` with ``result.json`` and the volumes.
        label: file of the reference lesion, outlined in green.
        num_slices: number of rows, at most.

    Raises:
        InputError: when the folder holds no result, or its images are gone.
    """
    volumes = load_volumes(folder, label)
    view = View.of(volumes)
    slices, panels = _chosen_slices(volumes, view, num_slices), panels_of(volumes)
    rows, columns = view.plane(volumes.fused, 0).shape
    height = _WIDTH * min(max(rows * view.spacing_mm[1] / (columns * view.spacing_mm[0]), 0.3), 1.6)
    total = height * len(slices) + 0.3
    figure = Figure(figsize=(_WIDTH * len(panels), total), facecolor="black")
    axes = figure.subplots(len(slices), len(panels), squeeze=False)
    for row, k in zip(axes, slices):
        for ax, panel in zip(row, panels):
            _draw(ax, panel, volumes, view, k)
    for ax, panel in zip(axes[0], panels):
        if panel.volume is not None:
            ax.set_title(panel.title, color="white", fontsize=9)
    figure.subplots_adjust(0.003, 0.003, 0.997, 1 - 0.26 / total, wspace=0.02, hspace=0.02)
    return figure
