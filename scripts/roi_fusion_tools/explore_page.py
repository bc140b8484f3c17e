# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""``explore.json`` and ``explore.html``: what :mod:`~roi_fusion_tools.explore` found in a data set, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from roi_fusion.report.plots import figure_uri
from roi_fusion.report.rendering import write_page
from roi_fusion.values import write_json

from .explore import FLAGS

__all__ = ["summary_of", "write_exploration"]


def summary_of(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts over a data set: lesion volumes with the share under 5 mL, cases without lesion, grids, flags."""
    readable = [c for c in cases if "shape" in c]
    lesions = [c["volumes_ml"]["lesion_mask"] for c in readable if "lesion_mask" in c["volumes_ml"]]
    present = [v for v in lesions if v > 0]
    flags = {name: sorted(str(c["case"]) for c in cases if name in c["flags"]) for name in FLAGS}
    return {
        "cases": len(cases),
        "flags": {k: v for k, v in flags.items() if v},
        "lesions": {
            "known": len(lesions),
            "unknown": len(readable) - len(lesions),
            "without": len(lesions) - len(present),
            "share_under_5_ml": round(float(np.mean([v < 5 for v in present])), 3) if present else None,
            "median_ml": round(float(np.median(present)), 3) if present else None,
        },
        "spacings_mm": sorted({str(c["spacing_mm"]) for c in readable}),
        "shapes": sorted({str(c["shape"]) for c in readable}),
        "orientations": sorted({c["orientation"] for c in readable}),
    }


def _figures(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    readable = [c for c in cases if "shape" in c]
    lesions = [c["volumes_ml"]["lesion_mask"] for c in readable if c["volumes_ml"].get("lesion_mask", 0) > 0]
    out = []
    if lesions:
        figure = Figure(figsize=(6, 3.2), layout="constrained")
        ax = figure.subplots()
        ax.hist(lesions, bins=np.geomspace(min(lesions) * 0.9, max(lesions) * 1.1, 24).tolist())
        ax.axvline(5, color="gray", linestyle="--")
        ax.set(xscale="log", xlabel="lesion volume, mL", ylabel="cases", title="lesions; dashed: 5 mL")
        out.append(figure_uri(figure, 90))
    if readable:
        figure = Figure(figsize=(6, 3.2), layout="constrained")
        ax = figure.subplots()
        x = np.arange(len(readable))
        for name, offset in (("mri", -0.2), ("ct", 0.2)):
            ax.errorbar(
                x + offset,
                [c[name]["median"] for c in readable],
                yerr=[
                    [c[name]["median"] - c[name]["p1"] for c in readable],
                    [c[name]["p99"] - c[name]["median"] for c in readable],
                ],
                fmt=".",
                label=name.upper(),
                linewidth=0.8,
            )
        ax.set(xlabel="case", ylabel="1 %, median, 99 %", title="intensities", yscale="symlog")
        ax.legend()
        out.append(figure_uri(figure, 90))
    return out


def write_exploration(cases: Sequence[Mapping[str, Any]], output_dir: str | Path, title: str = "Data set") -> dict[str, Any]:
    """Write ``explore.json`` and ``explore.html``; returns the summary."""
    folder = Path(output_dir)
    summary = summary_of(cases)
    facts = [{k: v for k, v in c.items() if k != "picture"} for c in cases]
    write_json(folder / "explore.json", {"summary": summary, "cases": facts})
    rows = [{**c, "pairs": list(zip(c["flags"], c["notes"]))} for c in cases]
    rows.sort(key=lambda c: (not c["flags"], str(c["case"])))
    write_page(
        folder / "explore.html",
        "explore.html.j2",
        package="roi_fusion_tools",
        title=title,
        s=summary,
        cases=rows,
        meaning=FLAGS,
        curves=_figures(cases),
    )
    return summary
