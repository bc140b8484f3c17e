# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A picture of twelve painted heads: what a training sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...values import is_first_rank
from .transforms import RandDrawHeadd, RandPaintd

__all__ = ["SamplesWriter", "write_samples"]


class SamplesWriter:
    """Write ``<output_dir>/samples.png`` when a training starts.

    Args:
        output_dir: folder of the training.
        draw, paint: its transforms.
        seed: of the samples.
    """

    def __init__(self, output_dir: str | Path, draw: RandDrawHeadd, paint: RandPaintd, seed: int = 0) -> None:
        self.file, self.draw, self.paint, self.seed = Path(output_dir) / "samples.png", draw, paint, int(seed)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if is_first_rank():
            write_samples(self.file, self.draw, self.paint, self.seed)


def write_samples(path: str | Path, draw: RandDrawHeadd, paint: RandPaintd, seed: int = 0, dots_per_inch: int = 75) -> Path:
    """Write a PNG of twelve samples: MRI above CT, the true lesion outlined.

    Args:
        path: file to write.
        draw, paint: the transforms of a training; a copy's worth of randomness is drawn from a state of their own.
        seed: of the samples.
        dots_per_inch: of the picture, 24 by 12 inches.
    """
    before = draw.R, paint.R
    draw.R, paint.R = np.random.RandomState(seed), np.random.RandomState(seed + 1)
    figure = Figure(figsize=(24, 16), facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(4, 6)
    uses, draw.uses = draw.uses, 1.0
    for n in range(12):
        case = paint(draw({"case": f"sample {n}"}))
        top = 2 * (n // 6)
        truth = np.asarray(case["label"][0])
        per_slice = truth.sum((0, 1))
        brain = np.asarray(case["brain"][0]).sum((0, 1))
        k = int(per_slice.argmax()) if per_slice.any() else int(brain.argmax())
        spacing = [float(s) for s in case["image"].pixdim[:3]]
        for row, key in ((top, "image"), (top + 1, "ct")):
            axis = axes[row, n % 6]
            plane = np.asarray(case[key][0][..., k])
            low, high = (0.0, float(np.percentile(plane, 99.5)) or 1.0) if key == "image" else (-20.0, 90.0)
            axis.imshow(plane.T, origin="lower", cmap="gray", vmin=low, vmax=high, aspect=spacing[1] / spacing[0])
            if per_slice.any() and key == "image":
                axis.contour(truth[..., k].T, [0.5], colors="#ff5050", linewidths=0.8)
            axis.axis("off")
        grid = "×".join(f"{s:.1f}" for s in spacing)
        title = f"{case['notes']['contrast']} · {grid} mm"
        axes[top, n % 6].set_title(title, color="white", fontsize=11)
    draw.R, paint.R, draw.uses = *before, uses
    figure.tight_layout(pad=0.3)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dots_per_inch, facecolor="black", pil_kwargs={"optimize": True})
    return path
