# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the page hands to NiiVue: its JavaScript out of the installed package `ipyniivue`, and the volumes as small NIfTI files.

NiiVue is used as `ipyniivue` ships it, by the widget interface of anywidget; ``templates/niivue.js`` stands in for Jupyter.
"""

from __future__ import annotations

import base64
import gzip
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .sheets import panels_of
from .volumes import ResultVolumes

__all__ = ["niivue_script", "viewer_volumes"]

#: Largest number of voxels of a volume in the page; larger ones are thinned along their finest axes.
_MOST_VOXELS = 1_500_000


@cache
def niivue_script() -> str | None:
    """NiiVue's JavaScript module, gzipped, in base64; None where `ipyniivue` is not installed."""
    found = importlib.util.find_spec("ipyniivue")
    places = [] if found is None else found.submodule_search_locations or []
    script = next((p for root in places if (p := Path(root) / "static" / "widget.js").is_file()), None)
    return None if script is None else _packed(script.read_bytes())


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def _steps(shape: tuple[int, ...], spacing_mm: np.ndarray) -> list[int]:
    """Every how many voxels are kept along each axis: whole numbers, the finest axes are thinned first."""
    steps = [1, 1, 1]
    while np.prod([-(-n // s) for n, s in zip(shape, steps)]) > _MOST_VOXELS:
        steps[int(np.argmin(spacing_mm * steps))] *= 2
    return steps


def _stored(volume: np.ndarray, low: float, high: float) -> tuple[np.ndarray, float, float]:
    """A volume as bytes that stand for `low` to `high`, with the slope and intercept that give the values back."""
    slope = (high - low) / 255
    return np.round((np.clip(np.nan_to_num(volume, nan=low), low, high) - low) / slope).astype(np.uint8), slope, low


def viewer_volumes(volumes: ResultVolumes) -> list[dict[str, Any]]:
    """The volumes of a case as NiiVue takes them.

    Args:
        volumes: of its result.

    Returns:
        For each volume its ``name``, ``colormap``, range ``low`` and ``high``, whether it is an ``overlay``, the ``step_mm``
        between voxels, and ``data``: a gzipped NIfTI file in base64.
    """
    head = volumes.head
    box = [np.flatnonzero(head.any(tuple(b for b in range(3) if b != a))) for a in range(3)]
    crop = tuple(slice(int(b[0]), int(b[-1]) + 1) if len(b) else slice(None) for b in box)
    shape, spacing = head[crop].shape, volumes.spacing_mm
    steps = _steps(shape, spacing)
    cut = tuple(slice(c.start or 0, c.stop, s) for c, s in zip(crop, steps))
    affine = volumes.affine @ np.diag([*steps, 1.0])
    affine[:3, 3] = (volumes.affine @ [*(c.start for c in cut), 1.0])[:3]
    ranges = {p.title: (p.volume, p.colours, p.low, p.high) for p in panels_of(volumes)}
    ranges.pop("CT, bone window")
    lesion = {} if volumes.lesion is None else {"Lesion": (volumes.lesion, "red", 0.0, 1.0)}
    out = []
    for name, (volume, colours, low, high) in {**ranges, **lesion}.items():
        if volume is None:
            continue
        title = name.split(":")[0].split(",")[0]
        if title == "CT":  # the whole range, in steps of 1 HU: the window is set in the viewer
            data, slope, intercept = np.clip(np.round(volume[cut]), -1024, 3071).astype(np.int16), 1.0, 0.0
        else:
            data, slope, intercept = _stored(volume[cut], low, high)
        image = nib.Nifti1Image(data, affine)
        image.header.set_slope_inter(slope, intercept)
        image.header.set_xyzt_units("mm")
        entry = {"name": title, "colormap": colours, "low": low, "high": high, "overlay": colours != "gray"}
        out.append({**entry, "step_mm": [round(float(s), 2) for s in spacing * steps], "data": _packed(image.to_bytes())})
    return out
