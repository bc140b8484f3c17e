# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Random transforms for training that MONAI does not have."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Flipd, RandBiasField, Randomizable, Transform, create_rotate
from monai.utils import convert_to_tensor

from ..core.contrast import CT_CLASSES, contrast_facts
from ..errors import InputError
from .grids import left_right_axis

__all__ = ["ContrastFactsd", "RandCoilBiasd", "RandMirrord", "RandMissingModalityd", "RandRegistrationJitterd"]


class ContrastFactsd(Transform):
    """Note what kind of MRI a case has, from its whole volumes, as inference does: a crop of it would say something else.

    Reads ``image`` and ``ct`` and adds ``contrast_facts`` ``[3K]``, see :func:`~roi_fusion.core.contrast.contrast_facts`.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        both = torch.cat([convert_to_tensor(data[k], track_meta=False) for k in ("image", "ct")])
        return {**data, "contrast_facts": contrast_facts(both[None], torch.tensor(CT_CLASSES))[0]}


class RandCoilBiasd(Randomizable, Transform):
    """A smooth gain over the MRI, as the coils of a scanner have it (Van Leemput et al. 1999, MONAI's ``RandBiasField``).

    A gain multiplies the signal, but a normalised MRI has its zero at the head's mean: it goes to scaled units and back, and is
    normalised again, as the case would be with that gain in its file.

    Args:
        prob: share of samples.
        coefficient: largest weight of a Legendre polynomial of degree 3 in the logarithm of the gain; 0.2 gives about ±20 %
            as a standard deviation over the head.
    """

    def __init__(self, prob: float = 0.4, coefficient: float = 0.2) -> None:
        if not 0 <= prob <= 1 or not coefficient >= 0:
            raise InputError(f"coil bias: expected 0 ≤ prob ≤ 1 and a coefficient of 0 or more, got {prob}, {coefficient}")
        self.prob, self.field = prob, RandBiasField(3, (-coefficient, coefficient), prob=1.0)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandCoilBiasd:
        super().set_random_state(seed, state)
        self.field.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if self.R.random() >= self.prob:
            return d
        image, scale = torch.as_tensor(d["image"]).float(), d["intensity"]
        inside = image != 0
        if not bool(inside.any()):
            return d
        signal = image * float(scale["mri_std"]) + float(scale["mri_mean"]) - float(scale["lower"])
        signal = torch.as_tensor(self.field(signal))[inside]
        biased = torch.zeros_like(image)
        biased[inside] = (signal - signal.mean()) / signal.std(unbiased=False).clamp(min=1e-6)
        d["image"] = _refill(d["image"], biased)
        return d


class RandRegistrationJitterd(Randomizable, Transform):
    """Move the CT against the MRI by a small rigid transform, as an imperfect registration does.

    ``ct``, ``bone``, ``dense`` and ``head`` move; ``image``, ``label`` and ``brain`` stay. The head mask comes from the CT, so
    both volumes are cut by the moved head; what either has not seen there is filled with its air value. A CT that is missing
    (all 0) stays so.

    Args:
        prob: share of samples that are moved.
        shift_mm: largest translation along each axis.
        rotation_degrees: largest rotation about each axis.
    """

    def __init__(self, prob: float = 0.8, shift_mm: float = 2.0, rotation_degrees: float = 2.0) -> None:
        if min(prob, shift_mm, rotation_degrees) < 0 or prob > 1:
            raise InputError(
                f"registration jitter: expected a prob from 0 to 1 and limits ≥ 0, got {prob}, {shift_mm}, {rotation_degrees}"
            )
        self.prob, self.shift_mm, self.rotation_degrees = prob, shift_mm, rotation_degrees

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        moved = self.R.random() < self.prob
        shift = self.R.uniform(-1, 1, 3) * self.shift_mm
        angles = np.deg2rad(self.R.uniform(-1, 1, 3) * self.rotation_degrees)
        if not moved or not (self.shift_mm or self.rotation_degrees) or not bool((d["ct"] != 0).any()):
            return d
        image, ct, head = d["image"], d["ct"], d["head"]
        spacing = [float(s) for s in image.pixdim[:3]] if hasattr(image, "pixdim") else [1.0] * 3
        inside = head.as_tensor() > 0 if hasattr(head, "as_tensor") else head > 0
        intensity = d["intensity"]
        ct_air = (intensity["lower"] - intensity["ct_mean"]) / intensity["ct_std"]
        mri_air = float(torch.as_tensor(image)[inside].min()) if bool(inside.any()) else 0.0
        plain = {k: torch.as_tensor(d[k]).float() for k in ("ct", "bone", "dense", "head")}
        plain["ct"] = torch.where(inside, plain["ct"], torch.full_like(plain["ct"], float(ct_air)))
        stack = torch.cat([plain[k] for k in ("ct", "bone", "dense", "head")])
        warped = rigid_resample(stack, spacing, angles, shift)
        new_head = warped[3:4] > 0.5
        for key, channel in (("bone", 1), ("dense", 2)):
            d[key] = _refill(d[key], (warped[channel : channel + 1] > 0.5) & new_head)
        d["ct"] = _refill(ct, torch.where(new_head, warped[:1], torch.zeros_like(warped[:1])))
        mri = torch.where(inside, torch.as_tensor(image), torch.full_like(torch.as_tensor(image), mri_air))
        d["image"] = _refill(image, torch.where(new_head, mri, torch.zeros_like(mri)))
        d["head"] = _refill(head, new_head)
        return d


class RandMissingModalityd(Randomizable, Transform):
    """Leave out the MRI or the CT, so that the network can work with one of them.

    The missing volume is 0, and the target follows: without the MRI everything comes from the CT, without the CT nothing does,
    and no bone is asked for that cannot be seen.

    Args:
        prob: share of samples that lack one of both.
    """

    def __init__(self, prob: float = 0.0) -> None:
        if not 0 <= prob <= 1:
            raise InputError(f"missing_modality: expected a share from 0 to 1, got {prob}")
        self.prob = prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        missing, no_mri = self.R.random() < self.prob, self.R.random() < 0.5
        if not missing:
            return d
        if no_mri:
            d["image"] = torch.zeros_like(d["image"])
            d["dense"] = _refill(d["dense"], torch.as_tensor(d["head"]))
        else:
            for key in ("ct", "bone", "dense"):
                d[key] = torch.zeros_like(d[key])
        return d


class RandMirrord(Randomizable, Transform):
    """Mirror a head left to right, along whichever axis that is: of sagittal slices it is the last.

    Args:
        keys: of the volumes, all on one grid.
        prob: share of samples that are mirrored.
    """

    def __init__(self, keys: Sequence[str], prob: float = 0.5) -> None:
        if not 0 <= prob <= 1:
            raise InputError(f"mirror: expected a share from 0 to 1, got {prob}")
        self.keys, self.prob = tuple(keys), prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if self.R.random() >= self.prob:
            return dict(data)
        first: Any = data[self.keys[0]]
        return Flipd(self.keys, left_right_axis(first.affine))(dict(data))


def rigid_resample(
    stack: torch.Tensor,
    spacing_mm: Sequence[float],
    angles_rad: Sequence[float] | np.ndarray,
    shift_mm: Sequence[float] | np.ndarray,
) -> torch.Tensor:
    """Resample ``[C, X, Y, Z]`` under a rotation about the centre and a shift in mm: linear, edge values outside."""
    rotation = np.asarray(create_rotate(3, tuple(float(a) for a in angles_rad)))[:3, :3]
    half = np.array([(n - 1) / 2 * s for n, s in zip(stack.shape[1:], spacing_mm)])
    half = np.maximum(half, 1e-6)
    # grid_sample works in units of the half extent with the axes reversed: theta = H⁻¹·R·H, then flip both sides.
    theta = np.concatenate([rotation * half[None] / half[:, None], (np.asarray(shift_mm) / half)[:, None]], 1)
    flipped = np.concatenate([theta[::-1, 2::-1], theta[::-1, 3:]], 1)
    grid = F.affine_grid(torch.tensor(flipped.copy(), dtype=stack.dtype)[None], [1, *stack.shape], align_corners=True)
    return F.grid_sample(stack[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0]


def _refill(like: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """`values` with type and place of `like`."""
    out = like.clone()
    out[...] = values.to(like.dtype)
    return out
