# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Calibration of the lesion probability: Brier score, reliability, and constants that are fitted on validation cases.

The fitted constants are the temperature of the lesion probability, the threshold of the mask, and the quantile for the interval
of the lesion volume. They are stored with the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit

from ..errors import InputError

__all__ = [
    "Draws",
    "brier_score",
    "cases_needed",
    "conformal_quantile",
    "expected_calibration_error",
    "fit_temperature",
    "fit_threshold",
    "reliability_curve",
    "volume_interval",
]

Array = np.ndarray | torch.Tensor


def _probabilities(name: str, probability: Array, reference: Array, region: Array) -> tuple[np.ndarray, np.ndarray]:
    p, r, m = (np.asarray(t.detach().cpu() if isinstance(t, torch.Tensor) else t) for t in (probability, reference, region))
    if p.shape != r.shape or p.shape != m.shape:
        raise InputError(f"{name}: expected equal shapes, got {p.shape}, {r.shape} and {m.shape}")
    p, r = p[m > 0].astype(np.float64), r[m > 0] > 0
    if p.size and not (np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1):
        raise InputError(f"{name}: expected probabilities from 0 to 1, got {p.min():g} to {p.max():g}")
    return p, r


def brier_score(probability: Array, reference: Array, region: Array) -> float:
    """Mean squared difference between probability and truth over a region (Brier 1950).

    Args:
        probability: predicted probability 0…1, any shape.
        reference: 0/1 truth, same shape.
        region: 0/1 mask of the voxels that count, same shape.

    Returns:
        The score, 0 (perfect) to 1; NaN where the region is empty.

    Raises:
        InputError: when shapes differ or a probability is not within 0…1.

    Example:
        >>> round(brier_score(np.array([0.8, 0.1]), np.array([1, 0]), np.array([1, 1])), 6)  # (0.2² + 0.1²) / 2
        0.025
    """
    p, r = _probabilities("brier_score", probability, reference, region)
    return float(np.mean((p - r) ** 2)) if p.size else float("nan")


def reliability_curve(probability: Array, reference: Array, region: Array, *, num_bins: int = 10) -> dict[str, np.ndarray]:
    """Data of a reliability diagram over equally wide bins.

    Args:
        probability, reference, region: as in :func:`brier_score`.
        num_bins: number of bins.

    Returns:
        ``confidence`` and ``frequency``, the mean probability and the share of lesion in each bin (NaN where it is empty), and
        ``count``; each ``[num_bins]``.

    Raises:
        InputError: as :func:`brier_score`, and for fewer than one bin.
    """
    if num_bins < 1:
        raise InputError(f"reliability_curve: expected num_bins of 1 or more, got {num_bins}")
    p, r = _probabilities("reliability_curve", probability, reference, region)
    bins = np.minimum((p * num_bins).astype(int), num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bins, weights=p, minlength=num_bins) / count
        frequency = np.bincount(bins, weights=r, minlength=num_bins) / count
    return {"confidence": confidence, "frequency": frequency, "count": count}


def expected_calibration_error(probability: Array, reference: Array, region: Array, *, num_bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015) over a region.

    Args:
        probability, reference, region: as in :func:`brier_score`.
        num_bins: number of equally wide bins.

    Returns:
        The error, 0…1; NaN where the region is empty.

    Raises:
        InputError: as :func:`brier_score`, and for fewer than one bin.

    Example:
        >>> p, y = np.full(4, 0.75), np.array([1, 1, 1, 0])
        >>> expected_calibration_error(p, y, np.ones(4))
        0.0
    """
    curve = reliability_curve(probability, reference, region, num_bins=num_bins)
    total = curve["count"].sum()
    if not total:
        return float("nan")
    gap = np.abs(curve["confidence"] - curve["frequency"])
    return float(np.nansum(gap * curve["count"]) / total)


#: Share of cases whose true lesion volume should lie in the interval.
COVERAGE = 0.9


#: Limits of the temperature.
COLDEST, HOTTEST = 0.2, 20.0


#: Voxels whose probability stays below this at every temperature are left out of the fit.
NEVER = 0.02


@dataclass(frozen=True)
class Draws:
    """The voxels of one validation case that may be lesion.

    Attributes:
        lesion, brain: logits of every draw, ``[N, V]``.
        label: 0/1 truth, ``[V]``.
        judged: which of the V voxels lie in the dilated lesion region, where calibration is measured, ``[V]``.
        voxel_ml: volume of a voxel in mL.
    """

    lesion: np.ndarray
    brain: np.ndarray
    label: np.ndarray
    judged: np.ndarray
    voxel_ml: float

    def probability(self, temperature: float) -> np.ndarray:
        """Mean lesion probability over the draws, ``[V]``."""
        return (expit(self.lesion / temperature) * expit(self.brain)).mean(0)


def fit_temperature(cases: Sequence[Draws]) -> float:
    """Temperature with the lowest Brier score in the dilated lesion regions, from 0.2 to 20.

    Every case has the same weight. Cross entropy, the usual choice (Guo et al. 2017), is dominated by the few lesions that are
    missed with certainty, and would blur all others because of them. The Brier score is a proper score too, and bounded.

    Args:
        cases: validation cases.

    Raises:
        InputError: when no case has a lesion or a predicted one.
    """
    judged = [c for c in cases if c.judged.any()]
    if not judged:
        raise InputError("calibration: expected cases with a lesion or a predicted one, got none")

    def brier(log_temperature: float) -> float:
        errors = [c.probability(math.exp(log_temperature))[c.judged] - c.label[c.judged] for c in judged]
        return float(np.mean([np.mean(e**2) for e in errors]))

    return math.exp(minimize_scalar(brier, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded").x)


def fit_threshold(cases: Sequence[Draws], temperature: float) -> float:
    """Threshold of the probability with the highest mean Dice, from 0.2 to 0.8 in steps of 0.02.

    A case without a lesion counts 1 if nothing is found and 0 otherwise, so a false alarm of a few voxels costs as much as a
    missed lesion.

    Args:
        cases: validation cases.
        temperature: from :func:`fit_temperature`.

    Raises:
        InputError: when no case has a lesion.
    """
    if not any(c.label.any() for c in cases):
        raise InputError("calibration: expected cases with a lesion, got none")
    known = [(c.probability(temperature), c.label > 0) for c in cases]

    def mean_dice(threshold: float) -> float:
        dice = []
        for p, y in known:
            mask = p > threshold
            total = np.count_nonzero(mask) + np.count_nonzero(y)
            dice.append(2 * np.count_nonzero(mask & y) / total if total else 1.0)
        return float(np.mean(dice))

    return max((round(float(t), 2) for t in np.arange(0.2, 0.801, 0.02)), key=mean_dice)


def _doubt_ml(lesion_ml: float, probability: np.ndarray, voxel_ml: float) -> float:
    """Unit in which errors of the volume are counted, in mL: the volume with a probability of 0.1 to 0.9, plus a tenth of the
    lesion, plus 0.2 mL."""
    between = float(np.count_nonzero((probability > 0.1) & (probability <= 0.9))) * voxel_ml
    return between + 0.1 * lesion_ml + 0.2


def cases_needed(coverage: float = COVERAGE) -> int:
    """Fewest cases from which an interval of this coverage can be fitted.

    Example:
        >>> cases_needed(0.9)
        9
    """
    return math.ceil(round(coverage / (1 - coverage), 6))


def conformal_quantile(cases: Sequence[Draws], temperature: float, threshold: float, coverage: float = COVERAGE) -> float:
    """Quantile of the volume error in units of the doubt (split conformal prediction, Lei et al. 2018).

    Temperature and threshold are fitted on the same cases, which makes the interval slightly too narrow.

    Args:
        cases: validation cases.
        temperature: from :func:`fit_temperature`.
        threshold: from :func:`fit_threshold`.
        coverage: share of cases whose true volume should lie in the interval.

    Raises:
        InputError: with fewer cases than the coverage needs.
    """
    n = len(cases)
    rank = math.ceil((n + 1) * coverage)
    if rank > n:
        raise InputError(
            f"calibration: expected at least {cases_needed(coverage)} pairs with a lesion mask, because an interval that holds "
            f"{coverage:.0%} of the true volumes cannot be fitted on fewer, got {n}; label more, or take another split"
        )
    scores = []
    for case in cases:
        p = case.probability(temperature)
        lesion_ml = float(np.count_nonzero(p > threshold)) * case.voxel_ml
        true_ml = float(np.count_nonzero(case.label)) * case.voxel_ml
        scores.append(abs(true_ml - lesion_ml) / _doubt_ml(lesion_ml, p, case.voxel_ml))
    return float(np.sort(scores)[rank - 1])


def volume_interval(
    lesion_ml: float, probability: torch.Tensor, voxel_ml: float, quantile: float
) -> tuple[float, float] | None:
    """Conformal 90 % interval of the lesion volume in mL; None where the weights were not calibrated.

    Args:
        lesion_ml: volume of the mask in mL.
        probability: lesion probability, any shape.
        voxel_ml: volume of a voxel in mL.
        quantile: from :func:`conformal_quantile`; negative when it was not fitted.

    Example:
        >>> probability = torch.tensor([0.95, 0.5, 0.05])
        >>> low, high = volume_interval(2.0, probability, voxel_ml=0.1, quantile=1.0)
        >>> round(low, 2), round(high, 2)
        (1.5, 2.5)
    """
    if quantile < 0:
        return None
    reach = quantile * _doubt_ml(lesion_ml, probability.detach().cpu().numpy(), voxel_ml)
    return max(lesion_ml - reach, 0.0), lesion_ml + reach
