# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""``explore.json`` and ``explore.html``: what :mod:`~roi_fusion_tools.explore` found in a data set, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure

from roi_fusion import __version__
from roi_fusion.report.plots import figure_uri
from roi_fusion.values import whole_file, write_json

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


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
 body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1280px; padding: 1.5rem; color: #1c2733; }
 table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; } th, td { padding: .25rem
.55rem; border-bottom: 1px solid #e3e9ef;
 text-align: right; vertical-align: top; } th:first-child, td:first-child, td.left { text-align: left; } .bad td {
background: #fff1e0; } .note { color: #52616f; }
 img { max-width: 49%; } .scroll { overflow-x: auto; }
</style></head><body><h1>{{ title }}</h1><p class="note">ROI Fusion {{ version }} · {{ s.cases }} cases</p>
{% if s.flags %}<h2>Flags</h2><table>{% for name, found in s.flags.items() %}<tr class="bad"><td>{{ name }}</td><td
class="left">{{ meaning[name] }}</td>
<td class="left">{{ found|join(", ") }}</td></tr>{% endfor %}</table>{% else %}<p>No flags.</p>{% endif %}
<h2>Data set</h2><ul><li>lesions: {{ s.lesions.known }} known, {{ s.lesions.unknown }} unknown, {{ s.lesions.without }}
cases without one{% if s.lesions.median_ml is
not none %}; median {{ s.lesions.median_ml }} mL, {{ (100 * s.lesions.share_under_5_ml)|round|int }} % under 5 mL{% endif
%}</li>
<li>shapes: {{ s.shapes|join(", ") }}</li><li>spacings (mm): {{ s.spacings_mm|join(", ") }}</li><li>orientations: {{
s.orientations|join(", ") }}</li></ul>
{% for c in curves %}<img alt="" src="{{ c }}">{% endfor %}
<h2>Cases</h2><div class="scroll"><table><thead><tr><th>case</th><th>shape</th><th>spacing mm</th><th>axes</th><th>MRI 1
/ 50 / 99 % (max)</th><th>outliers</th>
<th>CT min / median / max HU</th><th>head mL</th><th>brain mL</th><th>bone mL</th><th>lesion
mL</th><th>flags</th></tr></thead><tbody>
{% for c in cases %}<tr{% if c.flags %} class="bad"{% endif %}><td>{{ c.case }}</td>{% if c.shape %}<td>{{
c.shape|join("×") }}</td>
<td>{{ c.spacing_mm|join("×") }}</td><td>{{ c.orientation }}</td>
<td>{{ "%.4g"|format(c.mri.p1) }} / {{ "%.4g"|format(c.mri.median) }} / {{ "%.4g"|format(c.mri.p99) }} ({{
"%.4g"|format(c.mri.max) }})</td><td>{{ c.mri.outliers }}</td>
<td>{{ "%.0f"|format(c.ct.min) }} / {{ "%.0f"|format(c.ct.median) }} / {{ "%.0f"|format(c.ct.max) }}</td>
{% for n in ("head", "brain", "bone", "lesion_mask") %}<td>{{ c.volumes_ml.get(n, "–") }}</td>{% endfor %}{% else %}{%
for n in range(10) %}<td></td>{% endfor %}{% endif %}
<td class="left">{% for f, n in c.pairs %}<b>{{ f }}</b>: {{ n }}<br>{% endfor %}{% for n in c.reader_notices %}{{ n
}}<br>{% endfor %}</td></tr>{% endfor
%}</tbody></table></div></body></html>
"""


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
    write_json(folder / "explore.json", {"summary": summary, "cases": list(cases)})
    rows = [{**c, "pairs": list(zip(c["flags"], c["notes"]))} for c in cases]
    rows.sort(key=lambda c: (not c["flags"], str(c["case"])))
    page = (
        Environment(autoescape=True)
        .from_string(_PAGE)
        .render(title=title, version=__version__, s=summary, cases=rows, meaning=FLAGS, curves=_figures(cases))
    )
    with whole_file(folder / "explore.html") as scratch:
        scratch.write_text(page, encoding="utf-8")
    return summary
