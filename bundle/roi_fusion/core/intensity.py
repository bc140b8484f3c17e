# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Intensity maps and their inverses: HU companding, the soft knee of the MRI scale, the CT's grey levels in the fused volume,
and the conversion back to MRI units.

A volume passes through scaled units ([0.05, 1] for ordinary tissue, see ``preprocessing`` in the configs) to normalised
units (mean 0, standard deviation 1 over the head, exactly 0 outside). :class:`IntensityMap` holds one case's constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .choices import HU_POINTS, SCALED_POINTS

__all__ = [
    "TYPICAL_SCALES",
    "IntensityMap",
    "brighten_bone",
    "compand_hu",
    "expand_hu",
    "fusion_sources",
    "soft_knee",
    "undo_brighten_bone",
    "undo_soft_knee",
]

#: Mean and deviation over the head of a scaled volume, on phantoms of all contrasts; where the case's own are not known.
TYPICAL_SCALES = {"mri": (0.45, 0.20), "ct": (0.49, 0.22)}


def brighten_bone(ct: torch.Tensor) -> torch.Tensor:
    """Map normalised CT to its value in the fused volume, monotone and piecewise linear; unchanged up to brain tissue.

    The map acts like the brain window of a viewer. After normalisation dense bone lies at 1.4 to 2.1 standard deviations, as
    bright as ordinary MRI tissue, so a fused skull would be grey. Here ordinary brain (35 HU, -0.3) is kept, acute blood
    (80 HU, 0.6) goes to 3.8, above the MRI's 99th percentile (3 over phantoms), and 1000 HU (2.1) to 4.5: white at ordinary
    windows of the MRI, yet below the bound of its scale. The values were chosen on phantoms shown as 8-bit slices whose white
    lies at 1 to 1.6 times that percentile.

    Args:
        ct: CT in normalised units, any shape.

    Example:
        >>> brighten_bone(torch.tensor([-1.0, -0.3, 0.6, 2.1]))
        tensor([-1.0000, -0.3000,  3.7500,  4.5000])
    """
    return ct + 3.5 * (ct + 0.3).clamp(min=0) - 4.0 * (ct - 0.6).clamp(min=0)


def undo_brighten_bone(fused: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`brighten_bone`.

    Args:
        fused: value in the fused volume, any shape.

    Example:
        >>> undo_brighten_bone(torch.tensor([-1.0, -0.3, 3.75, 4.5]))
        tensor([-1.0000, -0.3000,  0.6000,  2.1000])
    """
    return fused + (1 / 4.5 - 1) * (fused + 0.3).clamp(min=0) + (1 / 0.5 - 1 / 4.5) * (fused - 3.75).clamp(min=0)


def fusion_sources(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The two sources M and C' of the fused volume: the normalised MRI, and the CT mapped by :func:`brighten_bone`.

    Args:
        image: normalised MRI and CT, ``[B, 2, X, Y, Z]``, 0 outside the head.

    Returns:
        M and C', each ``[B, 1, X, Y, Z]`` and 0 outside the head.

    Example:
        >>> mri, ct = fusion_sources(torch.tensor([0.5, 2.1]).view(1, 2, 1, 1, 1))
        >>> mri.item(), round(ct.item(), 2)
        (0.5, 4.5)
    """
    head = (image != 0).any(dim=1, keepdim=True).to(image.dtype)
    return image[:, 0:1], brighten_bone(image[:, 1:2]) * head


def _interpolate(x: torch.Tensor, xs: Sequence[float], ys: Sequence[float]) -> torch.Tensor:
    """Piecewise linear through ``(xs, ys)``, constant outside; differentiable in `x`."""
    knots, values = (torch.tensor(p, dtype=x.dtype, device=x.device) for p in (xs, ys))
    slopes = (values[1:] - values[:-1]) / (knots[1:] - knots[:-1])
    clamped = x.clamp(xs[0], xs[-1])
    piece = (torch.bucketize(clamped.detach(), knots, right=True) - 1).clamp(0, len(xs) - 2)
    return values[piece] + slopes[piece] * (clamped - knots[piece])


def compand_hu(
    hu: torch.Tensor, hu_points: Sequence[float] = HU_POINTS, scaled_points: Sequence[float] = SCALED_POINTS
) -> torch.Tensor:
    """Map CT numbers to [0.05, 1], monotone and piecewise linear; constant beyond the end points.

    Args:
        hu: CT in HU, any shape, floating point.
        hu_points: fixed points in HU, rising.
        scaled_points: their scaled values, rising.

    Example:
        >>> compand_hu(torch.tensor([-1000.0, 40.0, 300.0, 3000.0]))
        tensor([0.0500, 0.4250, 0.7200, 1.0000])
    """
    return _interpolate(hu, hu_points, scaled_points)


def expand_hu(
    scaled: torch.Tensor, hu_points: Sequence[float] = HU_POINTS, scaled_points: Sequence[float] = SCALED_POINTS
) -> torch.Tensor:
    """Inverse of :func:`compand_hu` between its end points.

    Args:
        scaled: companded CT, any shape.
        hu_points, scaled_points: as in :func:`compand_hu`.

    Returns:
        CT in HU.

    Example:
        >>> expand_hu(torch.tensor([0.05, 0.425, 0.72]))
        tensor([-1000.,    40.,   300.])
    """
    return _interpolate(scaled, scaled_points, hu_points)


def soft_knee(x: torch.Tensor, lower: float = 0.05, upper: float = 1.0, room: float = 1.0) -> torch.Tensor:
    """Soft limit: identity on [`lower`, `upper`], ``u → u/(1+u)`` beyond, towards 0 below and `upper` + `room` above.

    The slope is continuous at both ends. An outlier of any size stays below `upper` + `room`, while a lesion at twice the
    99th percentile keeps half of its excess. A hard clip would flatten the lesion; without a limit one voxel would set the
    scale.

    Args:
        x: scaled intensities, any shape.
        lower, upper: range that is kept.
        room: height of the range above `upper` that is open to outliers.

    Example:
        >>> soft_knee(torch.tensor([0.05, 0.5, 1.0, 2.0, 1e6]))
        tensor([0.0500, 0.5000, 1.0000, 1.5000, 2.0000])
    """
    above = ((x - upper) / room).clamp(min=0)
    below = ((lower - x) / lower).clamp(min=0)
    return x.clamp(lower, upper) + room * above / (1 + above) - lower * below / (1 + below)


def undo_soft_knee(
    y: torch.Tensor, lower: float = 0.05, upper: float = 1.0, room: float = 1.0, low: float = 0.0, high: float = 2.0
) -> torch.Tensor:
    """Inverse of :func:`soft_knee` between `low` and `high`, continued linearly beyond and from 0.98 of the way to a bound.

    Close to a bound the inverse is so steep that bone, which the CT puts there, would become thousands of times as bright as
    the MRI. No voxel of the MRI lies beyond `low` and `high`; the first half of the way to each bound is always exact.

    Args:
        y: values after :func:`soft_knee`, any shape.
        lower, upper, room: as in :func:`soft_knee`.
        low, high: least and greatest value of the MRI after :func:`soft_knee`.

    Example:
        >>> undo_soft_knee(torch.tensor([0.05, 0.5, 1.0, 1.5]))
        tensor([0.0500, 0.5000, 1.0000, 2.0000])
    """
    shares = [min(max(s, 0.5), 0.98) for s in ((lower - low) / lower, (high - upper) / room)]
    below, above = _undo_ratio((lower - y) / lower, shares[0]), _undo_ratio((y - upper) / room, shares[1])
    return y.clamp(lower, upper) + room * above - lower * below


def _undo_ratio(v: torch.Tensor, straight_from: float) -> torch.Tensor:
    bent = v.clamp(0, straight_from)
    return bent / (1 - bent) + (v - straight_from).clamp(min=0) / (1 - straight_from) ** 2


@dataclass(frozen=True)
class IntensityMap:
    """Constants of one case's normalisation, and the conversions that they define.

    Attributes:
        mri_low, mri_high: MRI intensities that were scaled to `lower` and `upper` (the 1st and 99th percentile).
        mri_mean, mri_std: mean and standard deviation of the scaled MRI over the head.
        ct_mean, ct_std: mean and standard deviation of the companded CT over the head.
        lower, upper, room: parameters of :func:`soft_knee`.
        mri_min, mri_max: least and greatest value of the scaled MRI over the head.

    Example:
        >>> constants = IntensityMap(mri_low=0, mri_high=950, mri_mean=0.5, mri_std=0.2, ct_mean=0.5, ct_std=0.2)
        >>> constants.normalised_to_mri_units(torch.tensor([0.0, 1.0]))
        tensor([450., 650.])
    """

    mri_low: float
    mri_high: float
    mri_mean: float
    mri_std: float
    ct_mean: float
    ct_std: float
    lower: float = 0.05
    upper: float = 1.0
    room: float = 1.0
    mri_min: float = 0.0
    mri_max: float = 2.0

    @classmethod
    def from_case(cls, intensity: Mapping[str, float | torch.Tensor]) -> IntensityMap:
        """The constants in the ``intensity`` entry of a preprocessed case."""
        return cls(**{k: float(intensity[k]) for k in cls.__dataclass_fields__ if k in intensity})

    def normalised_to_mri_units(self, x: torch.Tensor) -> torch.Tensor:
        """Convert normalised units to the units of the input MRI."""
        scaled = x.double() * self.mri_std + self.mri_mean
        scaled = undo_soft_knee(scaled, self.lower, self.upper, self.room, self.mri_min, self.mri_max)
        slope = (self.mri_high - self.mri_low) / (self.upper - self.lower)
        return (self.mri_low + (scaled - self.lower) * slope).float()

    def normalised_to_mri_scale(self, x: torch.Tensor) -> torch.Tensor:
        """Convert normalised units to the scaled units of the MRI, which the metrics use (data range 1)."""
        return x * self.mri_std + self.mri_mean

    def normalised_to_ct_scale(self, x: torch.Tensor) -> torch.Tensor:
        """Convert normalised CT to companded CT, which the metrics use (data range 1)."""
        return x * self.ct_std + self.ct_mean
