# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""How bright each tissue and the lesion are in one MRI: around one of the five contrasts, or freely drawn.

Free brightness per tissue makes a network independent of the scanner (Billot et al. 2023, SynthSeg). The lesion always
differs from healthy grey and white matter in one direction, or the case could not be learnt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tissues import LesionAge, tissue_table

__all__ = ["MriContrast", "draw_age", "draw_contrast"]

_TABLE = tissue_table()
_GREY, _WHITE, _CSF = (_TABLE.index(n) for n in ("grey", "white", "csf"))
#: A lesion is at least this much brighter than the brighter of grey and white matter, or darker than the darker.
_LEAST_CONTRAST = 0.12


@dataclass(frozen=True)
class MriContrast:
    """Brightness of one MRI.

    Attributes:
        name: contrast, ``free`` where it was drawn freely.
        values: of the K tissues, in units where the table's grey matter lies near 1.
        lesion: of lesioned tissue.
    """

    name: str
    values: np.ndarray
    lesion: float


def draw_age(rng: np.random.Generator) -> LesionAge:
    """An age of the lesion, by its frequency."""
    weights = np.array([a.weight for a in _TABLE.ages])
    return _TABLE.ages[int(rng.choice(len(weights), p=weights / weights.sum()))]


def draw_contrast(
    rng: np.random.Generator, age: LesionAge, *, name: str | None = None, free_share: float = 0.35, ct_seen: bool = True
) -> MriContrast:
    """Draw the brightness of every tissue.

    Args:
        rng: source of randomness.
        age: of the lesion.
        name: contrast; drawn when None.
        free_share: share of freely drawn ones, when `name` is None.
        ct_seen: whether the case has a CT. Without, what is told apart by the CT only is kept apart in brightness.
    """
    if name == "free" or (name is None and rng.random() < free_share):
        return _free(rng)
    if name is None:
        name = str(rng.choice(_TABLE.contrasts, p=[0.25, 0.3, 0.15, 0.15, 0.15]))
    mean, spread = _TABLE.values[name].T
    drawn = mean + 1.3 * spread * rng.standard_normal(len(mean))
    drawn = np.maximum(drawn, 0.15 * mean)
    shift = {"brain": 1.0, "chronic": 1.0}
    for group in set(_TABLE.groups) - set(shift):  # whole groups differ between sequences, such as fat with fat suppression
        drawn[_TABLE.in_groups(group)] *= float(np.exp(rng.normal(0, 0.25)))
    fluid = _TABLE.in_groups("csf", "cyst") | np.isin(_TABLE.names, ("lacune", "old_core"))
    if name == "t2":
        drawn[fluid] *= rng.uniform(0.7, 1.25)
    elif name in ("dwi", "flair"):
        drawn[fluid] *= float(np.exp(rng.normal(0, 0.5)))
    values = drawn / mean[_GREY]
    healthy = 0.5 * (values[_GREY] + values[_WHITE])
    lesion = _apart(float(rng.uniform(*age.ratios[name])) * healthy, values)
    values = _keep_chronic_apart(rng, name, values, healthy, lesion, ct_seen)
    return MriContrast(name, values.astype(np.float32), lesion)


def _apart(lesion: float, values: np.ndarray) -> float:
    """The lesion's brightness, moved away from grey and white matter where it would drown between them."""
    low, high = sorted((float(values[_GREY]), float(values[_WHITE])))
    if lesion >= 0.5 * (low + high):
        return max(lesion, (1 + _LEAST_CONTRAST) * high)
    return min(lesion, (1 - _LEAST_CONTRAST) * low)


def _keep_chronic_apart(
    rng: np.random.Generator, name: str, values: np.ndarray, healthy: float, lesion: float, ct_seen: bool
) -> np.ndarray:
    """Old damage shines through on DWI less than acute lesions do; its fluid is not as bright as a lesion that only the MRI
    shows."""
    chronic = np.isin(_TABLE.names, ("white_matter_disease", "faint_white_matter", "old_rim", "perivascular"))
    out = values.copy()
    if name == "dwi":  # half of the lesion's excess at most
        out[chronic] = np.minimum(out[chronic], healthy + 0.45 * (lesion - healthy))
    if not ct_seen:
        old = np.isin(_TABLE.names, ("old_core", "lacune", "cyst"))
        near = np.abs(out - lesion) < 0.2 * healthy
        out[old & near] = out[_CSF] if abs(out[_CSF] - lesion) >= 0.2 * healthy else lesion + 0.3 * healthy
        if name == "adc":
            out[chronic] = np.maximum(out[chronic], 1.1 * healthy)
    return out


def _free(rng: np.random.Generator) -> MriContrast:
    """Any brightness for any tissue; related tissues stay related, and a lesion differs from grey and white alike."""
    values = rng.uniform(0.1, 2.0, len(_TABLE.names))
    grey, white, csf = rng.uniform(0.4, 1.4), rng.uniform(0.4, 1.4), rng.uniform(0.05, 2.6)
    for names, value, spread in (
        (("grey", "cerebellar_grey", "hippocampus", "deep_grey", "pallidum"), grey, 0.1),
        (("white", "cerebellar_white", "brain_stem", "cord"), white, 0.07),
        (("csf", "ventricle", "cyst", "lacune", "eye", "old_core"), csf, 0.05),
    ):
        which = np.isin(_TABLE.names, names)
        values[which] = value * (1 + spread * rng.standard_normal(int(which.sum())))
    low, high = sorted((grey, white))
    healthy = 0.5 * (low + high)
    bright = rng.random() < 0.65
    lesion = high * (1 + rng.uniform(0.18, 1.3)) if bright else low * (1 - rng.uniform(0.2, 0.65))
    # Old damage lies between healthy tissue and fluid, and never reaches as far as the lesion in the lesion's direction.
    towards = csf - healthy
    for tissue, share in (
        ("faint_white_matter", 0.12),
        ("white_matter_disease", 0.3),
        ("old_rim", 0.35),
        ("perivascular", 0.6),
    ):
        value = healthy + towards * share * rng.uniform(0.6, 1.3)
        if (value - healthy) * (lesion - healthy) > 0:
            limit = healthy + 0.5 * (lesion - healthy)
            value = min(value, limit) if lesion > healthy else max(value, limit)
        values[_TABLE.index(tissue)] = value
    values[_TABLE.index("air")] = 0
    values[_TABLE.index("cavity")] = rng.uniform(0, 0.05)
    values[_TABLE.in_groups("bone")] = rng.uniform(0, 0.5, 2)
    return MriContrast("free", np.maximum(values, 0).astype(np.float32), float(lesion))
