# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What a page says of a patient: the lesion's volume, warnings, quality, provenance and, where there is one, the reference."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..data.naming import is_named
from ..data.results import read_result
from ..values import printable
from .rendering import address_of
from .sheets import Sheets, make_sheets
from .tables import METRICS, SMALLER_IS_BETTER
from .viewer import viewer_volumes
from .volumes import ResultVolumes, load_volumes, reference_beside

__all__ = ["Patient", "Pictures", "patient_of", "pictures_of"]

Fact = tuple[str, str]

_PLAUSIBILITY = {
    "head_ct_ml": "head on the CT, mL",
    "head_mri_ml": "head on the MRI, mL",
    "brain_ml": "brain, mL",
    "bone_ml": "bone, mL",
    "brain_hu": "median of the brain, HU",
    "overlap": "overlap of both heads",
    "head_without_ct_ml": "head without CT, mL",
    "brain_without_ct_ml": "brain without CT, mL",
    "brain_without_mri_ml": "brain without MRI, mL",
    "brain_cut_cm2": "brain cut by the end of the image, cm²",
}


@dataclass(frozen=True)
class Patient:
    """A row of the list and the text of a patient's page.

    Attributes:
        name: of the case, printable.
        slug: the name as an address, percent-encoded.
        lesion_ml: volume in mL; None where it is not known.
        lesion: the volume in words.
        interval: the interval in words, with its reason where there is none.
        outside: what of the case is unlike all that the weights were trained on.
        warnings: further sentences.
        reference_ml, dice: of the reference mask; None without one.
        reference, fusion: metrics as (name, value), empty where nothing was measured.
        quality, provenance: facts as (name, value).
        notes: sentences on what the pictures show.
    """

    name: str
    slug: str
    lesion_ml: float | None
    lesion: str
    interval: str
    outside: list[str]
    warnings: list[str]
    reference_ml: float | None
    dice: float | None
    reference: list[Fact]
    fusion: list[Fact]
    quality: list[Fact]
    provenance: list[Fact]
    notes: list[str]


@dataclass(frozen=True)
class Pictures:
    """What a patient's page shows; without `sheets`, `trouble` says why.

    Attributes:
        grid: facts on the grid of the volumes.
        volumes: for NiiVue, see :func:`~roi_fusion.report.viewer.viewer_volumes`.
    """

    sheets: Sheets | None = None
    grid: list[Fact] = field(default_factory=list)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    trouble: str = ""


def _number(value: Any, digits: int = 4) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.{digits}g}" if isinstance(value, float) else printable(str(value))


def _measured(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) and not math.isnan(value) else None


def _lesion(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Volume and interval in words."""
    volume, interval = facts.get("lesion_ml"), facts.get("lesion_ml_interval")
    bound = bool(facts.get("lesion_ml_is_lower_bound"))
    if volume is None:
        return "none found, part of the brain was not seen" if bound else "not measured", "–"
    words = "none found" if volume == 0 else f"{volume:.2f} mL"
    words += " or more, part of the brain was not seen" if bound else ""
    if interval:
        return words, f"{interval[0]:.2f}–{interval[1]:.2f} mL"
    if facts.get("outside_training"):  # these are told one by one beside it
        return words, "none: outside of training"
    why = facts.get("lesion_ml_interval_note") or (
        "part of the brain was not seen" if bound else "the weights were not calibrated"
    )
    return words, f"none: {printable(str(why))}"


def _warnings(facts: Mapping[str, Any]) -> list[str]:
    stale = [f"These results are {facts['stale']}"] if facts.get("stale") else []
    folders = [f"{Path(facts[image]).parent}{os.sep}" for image in ("mri", "ct") if facts.get(image)]
    said = [str(w) for w in facts.get("warnings") or []]
    absent = str(facts.get("missing") or "").upper()
    missing = [f"Made WITHOUT the {absent}"] if absent and not any(w.startswith(f"no {absent}:") for w in said) else []
    for folder in folders:  # where the images lie is told below; here it is in the way of reading
        said = [w.replace(folder, "") for w in said]
    return [printable(w) for w in (*stale, *missing, *said)]


def _reference(row: Mapping[str, Any]) -> list[Fact]:
    """Scores of the lesion against the reference mask."""
    if _measured(row, "lesion_ml") is None:
        return []
    found = [("reference, mL", f"{row['lesion_ml']:.2f}")]
    for name, (title, digits) in METRICS.items():
        value = _measured(row, name)
        if name.startswith("lesion_") and value is not None:
            better = " (smaller is better)" if name in SMALLER_IS_BETTER else ""
            found.append((f"{title}{better}", f"{value:.{digits}f}"))
    return found


def _fusion(row: Mapping[str, Any]) -> list[Fact]:
    values = {n: _measured(row, n) for n in METRICS if not n.startswith("lesion_")}
    return [(METRICS[n][0], f"{v:.{METRICS[n][1]}f}") for n, v in values.items() if v is not None]


def _quality(facts: Mapping[str, Any]) -> list[Fact]:
    plausible = facts.get("plausibility") or {}
    out = [(_PLAUSIBILITY.get(k, k.replace("_", " ")), _number(v)) for k, v in plausible.items()]
    if facts.get("largest_residual") is not None:
        out.append(("largest intensity from neither image, MRI units", _number(float(facts["largest_residual"]), 3)))
    spread = {k: v for k, v in (facts.get("lesion_spread") or {}).items() if v is not None}
    if spread:
        out.append(("spread of the lesion probability", ", ".join(f"{v:.3f} by {k}" for k, v in spread.items())))
    for name, title in (
        ("lesion_in_fluid_ml", "found in fluid, mL"),
        ("lesion_outside_brain_ml", "found outside the brain, mL"),
    ):
        if facts.get(name):
            out.append((f"{title} (not counted)", _number(float(facts[name]), 3)))
    if facts.get("fused_at_bounds") is not None:
        out.append(("voxels at a bound of the output", _number(facts["fused_at_bounds"])))
    for name, value in (facts.get("registration") or {}).items():
        out.append((f"registration: {name.replace('_', ' ')}", _number(value)))
    return out


def _from(path: str | None, folder: Path) -> str:
    if not path or is_named(path):
        return path or "none"
    return os.path.relpath(path, os.path.realpath(folder))


def _provenance(facts: Mapping[str, Any], made: float, folder: Path) -> list[Fact]:
    files = {n: _from(facts.get(n), folder) for n in ("mri", "ct")}
    weights, guidance = facts.get("weights") or {}, facts.get("guidance") or {}
    when = facts.get("date") or datetime.fromtimestamp(made).astimezone().strftime("%Y-%m-%d %H:%M %Z")
    rows: list[tuple[str, Any]] = [
        ("made", when),
        ("seconds", facts.get("seconds")),
        ("MRI", files["mri"]),
        ("CT", files["ct"]),
        ("weights", weights.get("checkpoint")),
        ("weights saved by version", weights.get("roi_fusion")),
        ("weights SHA-256", weights.get("sha256")),
        ("sampling steps", facts.get("num_inference_steps")),
        ("draws", facts.get("num_samples")),
        ("seed", facts.get("seed")),
        ("lesion threshold", facts.get("lesion_threshold")),
        ("guidance", guidance.get("mode")),
        (
            "guidance strengths",
            ", ".join(f"{k} {guidance[k]}" for k in ("alpha", "beta", "gamma", "strength") if k in guidance),
        ),
        ("guided by masks", ", ".join(map(str, facts.get("guidance_masks") or []))),
        ("scheduler", weights.get("scheduler")),
        ("versions", ", ".join(f"{k} {v}" for k, v in (facts.get("versions") or {}).items())),
    ]
    return [(name, _number(value)) for name, value in rows if value not in (None, "")]


def patient_of(folder: str | Path, row: Mapping[str, Any] | None = None) -> Patient:
    """What is said of a result folder, without a look at its volumes.

    Args:
        folder: ``<output_dir>/<case>`` with ``result.json``.
        row: of ``metrics.csv``, of this case and the network's own prediction.
    """
    folder, row = Path(folder), row or {}
    facts = read_result(folder) or {}
    words, interval = _lesion(facts)
    outside = [printable(str(s)) for s in facts.get("outside_training") or []]
    notes = []
    if "registration" in facts:
        notes.append("The CT is shown where its own header puts it; it was registered before it was used.")
    return Patient(
        name=printable(folder.name),
        slug=address_of(folder.name),
        lesion_ml=facts.get("lesion_ml"),
        lesion=words,
        interval=interval,
        outside=outside,
        warnings=_warnings(facts),
        reference_ml=_measured(row, "lesion_ml"),
        dice=_measured(row, "lesion_dice"),
        reference=_reference(row),
        fusion=_fusion(row),
        quality=_quality(facts),
        provenance=_provenance(facts, (folder / "result.json").stat().st_mtime, folder),
        notes=notes,
    )


def _grid(volumes: ResultVolumes) -> list[Fact]:
    tilt = math.degrees(max(math.acos(min(1.0, c)) for c in _cosines(volumes)))
    return [
        ("grid", "×".join(map(str, volumes.stored_shape))),
        ("voxel, mm", "×".join(f"{s:.3g}" for s in volumes.spacing_mm)),
        ("axes of the file", volumes.stored_axes),
        ("largest tilt of an axis", f"{tilt:.1f}°"),
    ]


def _cosines(volumes: ResultVolumes) -> list[float]:
    """Of the angle between each array axis and the body's axis that it follows."""
    matrix = abs(volumes.affine[:3, :3]) / volumes.spacing_mm
    return [float(matrix[:, a].max()) for a in range(3)]


def pictures_of(folder: str | Path, *, viewer: bool) -> Pictures:
    """The pictures of a result folder.

    Args:
        folder: ``<output_dir>/<case>`` with ``result.json`` and the volumes.
        viewer: with the volumes for NiiVue.

    Raises:
        InputError: when images or volumes are gone.
    """
    volumes = load_volumes(folder, reference_beside(read_result(folder) or {}))
    return Pictures(make_sheets(volumes), _grid(volumes), viewer_volumes(volumes) if viewer else [])
