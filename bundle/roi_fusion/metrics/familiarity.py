# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Is a case like those that the weights know? Its grid, its volumes, its contrast and the network's own features are compared.

Numbers with a meaning (voxel sizes, volumes) are compared with the range of known cases. Contrast and features are vectors; a
vector is unknown when it lies farther from its nearest known neighbours than known ones do from each other (Sun et al. 2022,
"Out-of-distribution detection with deep nearest neighbors"), or when too much of it lies outside the space that they span.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["RANGES", "CaseSignature", "fit_familiarity", "outside_training"]

#: Number → (what it is, unit).
RANGES = {
    "plane_mm": ("voxels of {} in plane", "mm"),
    "slice_mm": ("slices of {}", "mm"),
    "slices": ("{} slices", ""),
    "head_ml": ("a head of {}", "mL"),
    "brain_ml": ("a brain of {}", "mL"),
}
#: Vector → what it is.
_VECTORS = {"contrast": "contrast", "features": "what the network sees in the images"}
#: A range is widened by this share of its ends: cases just beyond are no others.
_MARGIN = 0.1
_NEIGHBOURS = 5
_COMPONENTS = 10
_FEWEST = 20
#: Share of known cases that count as known.
_KNOWN = 0.995
_LEAST = 0.05


class CaseSignature(NamedTuple):
    """What a case is compared by.

    Attributes:
        numbers: by the names of :data:`RANGES`; NaN where there is nothing to measure.
        contrast: of :func:`~roi_fusion.core.contrast.contrast_facts`.
        features: mean features of the network over the head.
    """

    numbers: Mapping[str, float]
    contrast: Sequence[float]
    features: Sequence[float]


def fit_familiarity(cases: Sequence[CaseSignature]) -> dict[str, Any] | None:
    """What known cases are like, as plain values for a JSON file; None with fewer than 20 cases.

    Args:
        cases: of the kind that the weights were trained on.
    """
    if len(cases) < _FEWEST:
        return None
    ranges = {}
    for name in RANGES:
        values = np.array([c.numbers.get(name, math.nan) for c in cases], float)
        values = values[np.isfinite(values)]
        if len(values) >= _FEWEST:
            ranges[name] = [float(values.min()), float(values.max())]
    return {
        "cases": len(cases),
        "ranges": ranges,
        "vectors": {name: _fit_vectors(np.array([getattr(c, name) for c in cases], np.float32)) for name in _VECTORS},
    }


def outside_training(case: CaseSignature, known: Mapping[str, Any] | None) -> list[str]:
    """In what a case differs from all that the weights know, in words; empty where it does not or nothing is known.

    Args:
        case: to judge.
        known: of :func:`fit_familiarity`.
    """
    if not known:
        return []
    out = []
    for name, (low, high) in known["ranges"].items():
        value = float(case.numbers.get(name, math.nan))
        if not (1 - _MARGIN) * low <= value <= (1 + _MARGIN) * high and math.isfinite(value):
            words, unit = RANGES[name]
            unit = f" {unit}" if unit else ""
            digits = 0 if high > 30 else 1
            out.append(f"{words.format(f'{value:.{digits}f}{unit}')} (known: {low:.{digits}f} to {high:.{digits}f}{unit})")
    for name, words in _VECTORS.items():
        ratio = _strangeness(np.asarray(getattr(case, name), np.float32), known["vectors"][name])
        if ratio > 1:
            out.append(f"{words} ({ratio:.{0 if ratio >= 10 else 1}f} times the distance between known cases)")
    return out


def _fit_vectors(vectors: np.ndarray) -> dict[str, Any]:
    mean, spread = vectors.mean(0), vectors.std(0) + 1e-3
    scaled = (vectors - mean) / spread
    _, strength, directions = np.linalg.svd(scaled - scaled.mean(0), full_matrices=False)
    count = min(_COMPONENTS, len(vectors) // 3, len(directions))
    scale = strength[:count] / math.sqrt(len(vectors)) + 1e-3
    axes = directions[:count] / scale[:, None]
    inside = scaled @ axes.T
    left = scaled - (inside * scale) @ directions[:count]
    apart = np.linalg.norm(inside[:, None] - inside[None], axis=2)
    neighbours = np.sort(apart, axis=1)[:, min(_NEIGHBOURS, len(vectors) - 1)]  # the first is the case itself
    return {
        "mean": _pack(mean),
        "spread": _pack(spread),
        "axes": _pack(axes),
        "scale": _pack(scale),
        "known": _pack(inside),
        "farthest": max(float(np.quantile(neighbours, _KNOWN)), _LEAST),
        # Rounding alone is left where the space spans everything.
        "most_left": max(float(np.quantile(np.linalg.norm(left, axis=1), _KNOWN)), _LEAST * math.sqrt(vectors.shape[1])),
    }


def _strangeness(vector: np.ndarray, known: Mapping[str, Any]) -> float:
    """How far a vector is from known ones, 1 at the border; infinite for a vector of another length."""
    mean, spread, axes, scale, others = (_unpack(known[k]) for k in ("mean", "spread", "axes", "scale", "known"))
    if vector.shape != mean.shape or not np.isfinite(vector).all():
        return math.inf
    scaled = (vector - mean) / spread
    inside = scaled @ axes.T
    left = float(np.linalg.norm(scaled - (inside * scale) @ (axes * scale[:, None])))
    distance = np.sort(np.linalg.norm(others - inside, axis=1))[min(_NEIGHBOURS, len(others)) - 1]
    return max(float(distance) / known["farthest"], left / known["most_left"])


def _pack(array: np.ndarray) -> dict[str, Any]:
    """An array as text: half precision is enough to compare by, and a list of thousands of numbers is nothing to read."""
    return {"shape": list(array.shape), "float16": base64.b64encode(array.astype("<f2").tobytes()).decode()}


def _unpack(packed: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["float16"]), "<f2").astype(np.float32).reshape(packed["shape"])
