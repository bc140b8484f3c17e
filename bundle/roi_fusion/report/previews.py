# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Pictures of the same cases at every validation, to follow a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Events
from matplotlib.figure import Figure

from ..values import PREDICTION_CHANNELS, is_first_rank, whole_file

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["PreviewWriter", "preview_figure"]


def preview_figure(item: Mapping[str, Any], prediction: torch.Tensor) -> Figure:
    """One slice of a case: MRI, CT, fused, share of the MRI and lesion probability, with the reference outlined in green.

    The slice is that with most of the reference, else with most of what is likely a lesion, else with most of the head.

    Args:
        item: the decollated case after preprocessing, ``image`` ``[2, X, Y, Z]`` and ``label`` ``[1, X, Y, Z]``.
        prediction: the inferer's channels ``[6, X, Y, Z]``.
    """
    image, label = torch.as_tensor(item["image"]).float().cpu(), torch.as_tensor(item["label"]).cpu() > 0
    channel = {n: torch.as_tensor(prediction[i]).float().cpu() for i, n in enumerate(PREDICTION_CHANNELS)}
    areas = [m.sum((0, 1)) for m in (label[0], channel["lesion_prob"] > 0.3, (image != 0).any(0))]
    k = int(next((a for a in areas if bool(a.any())), areas[0]).argmax())
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
                figure = preview_figure(item, output.get("prediction", output["pred"]))
                with whole_file(self.folder / f"epoch_{engine.state.epoch:04d}_{name}.png") as scratch:
                    figure.savefig(scratch, format="png", dpi=80, facecolor="black")
