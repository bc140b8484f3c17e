# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Pictures of the same validation cases at every validation, so that a training can be watched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events
from matplotlib.figure import Figure
from nibabel.processing import resample_from_to

from ..data.grids import spacing_mm
from ..data.io import read_volume
from ..errors import InputError
from ..values import PREDICTION_CHANNELS, is_first_rank

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["PreviewWriter", "case_figure", "preview_figure"]


def preview_figure(item: Mapping[str, Any], prediction: torch.Tensor) -> Figure:
    """One slice of a case: MRI, CT, fused, share of the MRI and lesion probability, with the reference outlined in green.

    Args:
        item: the decollated case after preprocessing, ``image`` ``[2, X, Y, Z]`` and ``label`` ``[1, X, Y, Z]``.
        prediction: the inferer's channels ``[6, X, Y, Z]``.
    """
    image, label = torch.as_tensor(item["image"]).float().cpu(), torch.as_tensor(item["label"]).cpu() > 0
    channel = {n: torch.as_tensor(prediction[i]).float().cpu() for i, n in enumerate(PREDICTION_CHANNELS)}
    area = label[0].sum((0, 1)) if bool(label.any()) else (image != 0).any(0).sum((0, 1))
    k = int(area.argmax())
    panels = (
        ("MRI", image[0], "gray", (-2.5, 3.5)),
        ("CT", image[1], "gray", (-2.5, 2.5)),
        ("fused", channel["fused"], "gray", (-2.5, 3.5)),
        ("share of the MRI", channel["provenance"], "viridis", (0, 1)),
        ("lesion probability", channel["lesion_prob"], "magma", (0, 1)),
    )
    figure = Figure(figsize=(10, 2.4), facecolor="black")
    for ax, (title, volume, colours, (low, high)) in zip(figure.subplots(1, len(panels)), panels):
        ax.imshow(volume[:, :, k].T.flip(1), cmap=colours, vmin=low, vmax=high, origin="lower")
        if bool(label[0, :, :, k].any()):
            ax.contour(label[0, :, :, k].T.flip(1).float(), [0.5], colors="lime", linewidths=0.7)
        ax.set_title(title, color="white", fontsize=8)
        ax.axis("off")
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.9, wspace=0.03)
    return figure


class PreviewWriter:
    """Write ``<output_dir>/previews/epoch_<n>_<case>.png`` of the first cases of each validation.

    Args:
        output_dir: folder of the training.
        num_cases: how many cases.
    """

    def __init__(self, output_dir: str | Path, num_cases: int = 2) -> None:
        self.folder, self.num_cases = Path(output_dir) / "previews", int(num_cases)
        self._cases: list[str] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if not is_first_rank():
            return
        state: Any = engine.state
        for item, output in zip(state.batch, state.output):
            name = str(item["case"])
            if name not in self._cases and len(self._cases) < self.num_cases:
                self._cases.append(name)
            if name in self._cases:
                self.folder.mkdir(parents=True, exist_ok=True)
                figure = preview_figure(item, output.get("prediction", output["pred"]))
                figure.savefig(self.folder / f"epoch_{engine.state.epoch:04d}_{name}.png", dpi=80, facecolor="black")


_PANELS = ("MRI", "CT, brain window", "CT, bone window", "fused", "lesion on MRI", "share of the MRI", "uncertainty (bits)")


def _image(path: str | Path) -> nib.Nifti1Image:
    volume = read_volume(path, as_stored=True)
    return nib.Nifti1Image(volume.array, volume.affine)


def _load(path: str | Path, like: Any = None) -> np.ndarray | None:
    """A volume in canonical orientation (x right, y front, z up), on the grid of `like`; None where it is missing."""
    if not path or not Path(path).exists():
        return None
    image = _image(path)
    if like is not None and (image.shape != like.shape or not np.allclose(image.affine, like.affine, atol=1e-2)):
        image = resample_from_to(image, like, order=1, cval=-1024 if "ct" in Path(path).name else 0)
    return np.asarray(nib.as_closest_canonical(image).dataobj, dtype=np.float32)


def case_figure(folder: str | Path, label: str | Path | None = None, num_slices: int = 3) -> Figure:
    """Pictures of one result folder: a row per slice, the columns of MRI, CT, fused, lesion, provenance and uncertainty.

    Raises:
        InputError: when the folder holds no result, or its MRI has gone.
    """
    folder = Path(folder)
    try:
        facts = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError) as e:
        raise InputError(f"{folder}: expected a result folder with result.json, got none that can be read ({e})") from None
    source = facts["mri"] or facts["ct"]
    if not Path(source).exists():
        raise InputError(f"{source}: expected the {'MRI' if facts['mri'] else 'CT'} of this result, found no such file")
    reference = _image(source)
    mri = _load(source) if facts["mri"] else None
    ct = _load(facts["ct"], reference) if facts["ct"] else None
    own = {n: _load(folder / f"{n}.nii.gz") for n in ("fused", "lesion", "provenance", "uncertainty")}
    truth = _load(label, reference) if label else None
    spacing = spacing_mm(nib.as_closest_canonical(reference).affine)
    axis = int(np.argmax([round(float(s), 2) + 1e-3 * i for i, s in enumerate(spacing)]))
    fused = own["fused"]
    assert fused is not None
    head = fused != 0
    filled = np.flatnonzero(head.any(tuple(a for a in range(3) if a != axis)))
    lesion = truth if truth is not None and truth.any() else own["lesion"]
    chosen = {int(filled[int(q * (len(filled) - 1))]) for q in np.linspace(0.3, 0.8, num_slices)} if len(filled) else {0}
    if lesion is not None and lesion.any():
        largest = int(np.argmax(lesion.sum(tuple(a for a in range(3) if a != axis))))
        chosen = {largest, *sorted(chosen, key=lambda k: -abs(k - largest))[: num_slices - 1]}
    others = [a for a in range(3) if a != axis]
    extent = [np.flatnonzero(head.any(tuple(b for b in range(3) if b != a))) for a in others]
    window = tuple(slice(max(int(e[0]) - 3, 0), int(e[-1]) + 4) if len(e) else slice(None) for e in extent)

    def plane(volume: np.ndarray | None, k: int) -> np.ndarray | None:
        if volume is None:
            return None
        image = np.take(volume, k, axis)[window].T
        return image[:, ::-1] if axis != 0 else image  # radiological

    seen = fused if mri is None else mri
    low, high = np.percentile(seen[head], [1, 99.5]) if head.any() else (float(seen.min()), float(seen.max()))
    f_low, f_high = np.percentile(fused[head], [0.5, 99.7]) if head.any() else (low, high)
    aspect = float(spacing[others[1]] / spacing[others[0]])
    sample = plane(fused, 0)
    assert sample is not None
    height = 1.9 * min(max(sample.shape[0] * aspect / sample.shape[1], 0.3), 1.6)
    figure = Figure(figsize=(1.9 * len(_PANELS), height * len(chosen) + 0.3), facecolor="black")
    axes = figure.subplots(len(chosen), len(_PANELS), squeeze=False)
    for row, k in enumerate(sorted(chosen)):
        shown = [
            (mri, "gray", low, high),
            (ct, "gray", 0, 80),
            (ct, "gray", -500, 1300),
            (fused, "gray", f_low, f_high),
            (mri, "gray", low, high),
            (own["provenance"], "viridis", 0, 1),
            (own["uncertainty"], "magma", 0, 1),
        ]
        for column, (volume, colours, v_low, v_high) in enumerate(shown):
            ax = axes[row][column]
            ax.axis("off")
            ax.set_facecolor("black")
            image = plane(volume, k)
            if image is None:
                continue
            background = 0.35 * np.asarray(plane(head, k), dtype=float)
            ax.imshow(background, cmap="gray", vmin=0, vmax=1, origin="lower", aspect=aspect)
            ax.imshow(image, cmap=colours, vmin=v_low, vmax=max(v_high, v_low + 1e-6), origin="lower", aspect=aspect)
            if _PANELS[column] in ("lesion on MRI", "fused"):
                for mask, colour in ((truth, "lime"), (own["lesion"], "red")):
                    outline = plane(mask, k)
                    if outline is not None and 0 < outline.mean() < 1:
                        ax.contour(outline, [0.5], colors=colour, linewidths=0.8)
            if row == 0:
                ax.set_title(_PANELS[column], color="white", fontsize=9)
    figure.subplots_adjust(0.003, 0.003, 0.997, 1 - 0.26 / (height * len(chosen) + 0.3), wspace=0.02, hspace=0.02)
    return figure
