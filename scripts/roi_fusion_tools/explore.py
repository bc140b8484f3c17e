# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Look at a data set before training on it: intensities, grids, volumes, and flags for what would spoil a training unseen."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure
from monai.transforms import Compose
from scipy.stats import entropy

from roi_fusion import __version__
from roi_fusion.core.masks import cranial_masks, head_mask
from roi_fusion.data.cases import CASE_FILES, find_cases, sentence_for
from roi_fusion.data.grids import spacing_of
from roi_fusion.data.transforms.geometry import MatchGridd, ThickAxisLastd
from roi_fusion.data.transforms.loading import CompleteCased, LoadVolumesd
from roi_fusion.report.plots import figure_uri
from roi_fusion.values import write_json

__all__ = ["FLAGS", "explore", "look_at_case", "write_exploration"]

logger = logging.getLogger(__name__)


#: Flag → what it means.
FLAGS = {
    "ct_not_in_hu": "CT values do not span air (near -1000 HU) to bone (above 300 HU)",
    "swapped": "the MRI looks like a CT in HU and the CT does not: the two files are swapped",
    "flipped": "MRI and CT agree better when one is mirrored left to right",
    "shifted": "MRI and CT agree better when one is moved by 6 mm or more",
    "saturated": "more than 2 % of the head lie at the volume's highest value",
    "truncated": "the field of view cuts the head above the orbits",
    "no_brain": "no brain is found inside the skull",
    "unreadable": "the case cannot be read",
}


_KEYS = tuple(CASE_FILES)


def _read() -> Compose:
    return Compose([CompleteCased(), LoadVolumesd(_KEYS)])


def _match() -> Compose:
    masks = ("label", "brain", "bone")
    return Compose(
        [
            MatchGridd(
                ("ct", *masks), mode=("bilinear", *["nearest"] * 3), padding_value=(-1024.0, 0.0, 0.0, 0.0), min_overlap=0.0
            ),
            ThickAxisLastd(_KEYS),
        ]
    )


def _intensities(volume: np.ndarray) -> dict[str, float]:
    finite = volume[np.isfinite(volume)]
    low, middle, high = np.percentile(finite, [1, 50, 99])
    far = finite > high + 1.5 * max(high - low, 1e-9)
    return {
        "min": float(finite.min()),
        "p1": float(low),
        "median": float(middle),
        "p99": float(high),
        "max": float(finite.max()),
        "outliers": int(far.sum()),
        "not_finite": int(volume.size - finite.size),
    }


def _looks_like_hu(facts: Mapping[str, float]) -> bool:
    return facts["min"] <= -200 and facts["max"] >= 300


def _levels(volume: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey levels 0…31 of a volume, as whole numbers; 0 is everything up to `low`."""
    scaled = np.ceil((volume - low) / max(high - low, 1e-9) * 31)
    return np.clip(scaled, 0, 31).astype(np.int64)


def _agreement(mri: np.ndarray, ct: np.ndarray) -> float:
    """Normalised mutual information (Studholme et al. 1999) of two volumes of levels, where either holds tissue."""
    tissue = (ct > 0) | (mri > 0)
    if tissue.sum() < 100:
        return 1.0
    joint = np.bincount(32 * mri[tissue] + ct[tissue], minlength=1024).reshape(32, 32)
    separate = entropy(joint.sum(0)) + entropy(joint.sum(1))
    return float(separate / max(entropy(joint.ravel()), 1e-9))


def _moved(volume: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    out = np.zeros_like(volume)
    source = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(steps, volume.shape))
    target = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in zip(steps, volume.shape))
    out[target] = volume[source]
    return out


def _best_shift_mm(
    mri: np.ndarray, ct: np.ndarray, spacing: Sequence[float], reach_mm: float = 24.0
) -> tuple[np.ndarray, float]:
    """Shift of the CT along each axis in mm under which both agree best, and the gain in agreement over no shift."""
    steps, start = [0, 0, 0], _agreement(mri, ct)
    best = start
    for _ in range(2):  # axis after axis, twice
        for axis in range(3):
            reach = int(reach_mm / spacing[axis])
            for step in range(-reach, reach + 1):
                trial = [step if a == axis else s for a, s in enumerate(steps)]
                if abs(step) >= mri.shape[axis] // 2 or trial == steps:
                    continue
                found = _agreement(mri, _moved(ct, trial))
                if found > best:
                    best, steps = found, trial
    return np.asarray(steps) * np.asarray(spacing), best / start - 1


def _cut_in_plane(head: np.ndarray, axes: Sequence[str], spacing: Sequence[float], depth_mm: float = 70.0) -> float:
    """Length in mm over which the head touches the in-plane border in its worst slice, within `depth_mm` of its top.

    Farther down, nose and chin are cut in almost everybody, which harms nothing.

    Args:
        head: 0/1, ``[X, Y, Z]``.
        axes: codes of the array axes, such as R, A, S.
        spacing: voxel size in mm.
        depth_mm: from the top of the head; 70 mm end above the orbits.
    """
    vertical = next(i for i, code in enumerate(axes) if code in "SI")
    filled = np.flatnonzero(head.any(tuple(a for a in range(3) if a != vertical)))
    depth = max(1, round(depth_mm / spacing[vertical]))
    upper = range(filled[0], min(filled[0] + depth, filled[-1] + 1))
    if axes[vertical] == "S":
        upper = range(max(filled[-1] + 1 - depth, filled[0]), filled[-1] + 1)
    head = head.take(upper, vertical)
    lengths = [
        float(head.take(end, axis).sum(0).max()) * spacing[1 - axis] for axis in (0, 1) if axis != vertical for end in (0, -1)
    ]
    return max(lengths)


def look_at_case(case: Mapping[str, Any]) -> dict[str, Any]:
    """Facts and flags of one case.

    Args:
        case: entry of :func:`~roi_fusion.data.cases.find_cases`.

    Returns:
        ``{"case", "flags", "notes", "mri", "ct", "shape", "spacing_mm", "orientation", "volumes_ml", "reader_notices"}``, the
        last what the reader corrected or found contradictory in the headers; a case that cannot be
        read has the flag ``unreadable`` and a sentence in ``notes``.
    """
    out: dict[str, Any] = {"case": case["case"], "flags": [], "notes": []}

    def flag(name: str, note: str) -> None:
        out["flags"].append(name)
        out["notes"].append(note)

    try:
        stored: Any = _read()(dict(case))
        original = stored["image"]
        loaded: Any = _match()(stored)
    except Exception as e:  # one bad case never stops the others
        flag("unreadable", sentence_for(e, dict(case)))
        return out
    mri, ct = (np.asarray(loaded[k][0], dtype=np.float32) for k in ("image", "ct"))
    spacing = spacing_of(loaded["image"])
    out.update(
        mri=_intensities(mri),
        ct=_intensities(ct),
        shape=[int(n) for n in original.shape[1:]],
        spacing_mm=[round(s, 4) for s in spacing_of(original)],
        orientation="".join(nib.aff2axcodes(np.asarray(original.affine))),
    )
    out["reader_notices"] = stored["reader_notices"].splitlines()
    voxel_ml = float(np.prod(spacing)) / 1000
    volumes = {
        f"{n}_mask": float((np.asarray(loaded[k]) > 0).sum()) * voxel_ml
        for k, n in (("label", "lesion"), ("brain", "brain"), ("bone", "bone"))
        if k in loaded
    }
    out["volumes_ml"] = {k: round(v, 3) for k, v in volumes.items()}
    if not _looks_like_hu(out["ct"]):
        flag("ct_not_in_hu", f"CT from {out['ct']['min']:g} to {out['ct']['max']:g}")
        if _looks_like_hu(out["mri"]):
            flag("swapped", f"MRI from {out['mri']['min']:g} to {out['mri']['max']:g}")
        return out
    if not np.isfinite(mri).all() or not np.isfinite(ct).all():
        return out
    head = head_mask(ct, spacing)
    if not head.any():
        flag("no_brain", "no head in the CT")
        return out
    bone, brain = cranial_masks(ct, head, spacing)
    out["volumes_ml"].update(
        head=round(float(head.sum()) * voxel_ml, 1),
        bone=round(float(bone.sum()) * voxel_ml, 1),
        brain=round(float(brain.sum()) * voxel_ml, 1),
    )
    if not brain.any():
        flag("no_brain", "no space enclosed by the skull")
    for name, volume in (("MRI", mri), ("CT", ct)):
        share = float((volume[head] == volume[head].max()).mean())
        if share > 0.02:
            flag("saturated", f"{100 * share:.1f} % of the head at the {name}'s highest value {volume[head].max():g}")
    codes = nib.aff2axcodes(np.asarray(loaded["image"].affine))
    cut = _cut_in_plane(head, codes, spacing)
    if cut > 60:  # a head of 80 mm radius then loses 6 mm
        flag("truncated", f"above the orbits the head touches the border over {cut:.0f} mm")
    # Coarse copies do for finding flips and shifts, which move whole centimetres.
    thin = [max(1, round(3.0 / s)) for s in spacing[:2]]
    small_mri, small_ct = (np.ascontiguousarray(v[:: thin[0], :: thin[1]]) for v in (mri, ct))
    small_mri = _levels(small_mri, *np.percentile(small_mri, [60, 99]))
    small_ct = _levels(small_ct, -300.0, 600.0)
    coarse = (spacing[0] * thin[0], spacing[1] * thin[1], spacing[2])
    lr_axis = next(i for i, code in enumerate(codes) if code in "LR")
    plain, mirrored = _agreement(small_mri, small_ct), _agreement(small_mri, np.flip(small_ct, lr_axis))
    if mirrored > 1.005 * plain:
        flag("flipped", f"agreement {mirrored:.3f} mirrored, {plain:.3f} as it is")
        small_ct = np.flip(small_ct, lr_axis)
    shift, gain = _best_shift_mm(small_mri, small_ct, coarse)
    if np.linalg.norm(shift) >= 6 and gain > 0.01:
        flag(
            "shifted",
            f"{np.round(shift, 1).tolist()} mm of the CT along the axes would raise the agreement by {100 * gain:.0f} %",
        )
    return out


def explore(dataset_dir: str | Path) -> Iterator[dict[str, Any]]:
    """:func:`look_at_case` of every case of a data set.

    Raises:
        InputError: when the folder holds no case.
    """
    for case in find_cases(dataset_dir):
        yield look_at_case(case)


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
    folder.mkdir(parents=True, exist_ok=True)
    summary = summary_of(cases)
    write_json(folder / "explore.json", {"summary": summary, "cases": list(cases)})
    rows = [{**c, "pairs": list(zip(c["flags"], c["notes"]))} for c in cases]
    rows.sort(key=lambda c: (not c["flags"], str(c["case"])))
    page = (
        Environment(autoescape=True)
        .from_string(_PAGE)
        .render(title=title, version=__version__, s=summary, cases=rows, meaning=FLAGS, curves=_figures(cases))
    )
    (folder / "explore.html").write_text(page, encoding="utf-8")
    return summary
