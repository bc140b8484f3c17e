# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Metrics of the fused image, in the scale of the reference with an explicit ``data_range``.

A metric that cannot be measured is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics import Cumulative

from ..core.intensity import IntensityMap, expand_hu, fusion_sources, undo_brighten_bone
from ..core.ssim import ssim_map
from ..core.target import fusion_target
from ..errors import InputError
from .hyperdense import HyperdenseReference, hyperdense_dice, shown_region
from .surface import bounding_box
from .table import mean_by_name
from .transfer import volume_transfer

__all__ = [
    "FusionComparison",
    "FusionMetrics",
    "baselines",
    "hyperdense_shown",
    "regional_psnr",
    "regional_ssim",
    "seam_ratio",
]


def _checked(name: str, first: torch.Tensor, *others: torch.Tensor, data_range: float = 1.0) -> None:
    for other in others:
        if other.shape != first.shape:
            raise InputError(f"{name}: expected equal shapes, got {tuple(first.shape)} and {tuple(other.shape)}")
    if first.ndim not in (4, 5) or first.shape[1] != 1:
        raise InputError(f"{name}: expected [B, 1, X, Y, Z] or [B, 1, X, Y], got {tuple(first.shape)}")
    if not data_range > 0:
        raise InputError(f"{name}: expected a data_range above 0, got {data_range}")


def _mean_over(values: torch.Tensor, roi: torch.Tensor) -> torch.Tensor:
    """Mean over the region per case ``[B]``; NaN where it is empty."""
    inside = roi > 0
    axes = tuple(range(1, values.ndim))
    total = torch.where(inside, values, torch.zeros_like(values)).sum(axes)
    return total / inside.sum(axes)  # 0/0 is NaN


def regional_ssim(
    pred: torch.Tensor,
    reference: torch.Tensor,
    roi: torch.Tensor,
    *,
    data_range: float,
    window_size: int = 11,
    sigma: float = 1.5,
    slice_axis: int = -1,
    context: bool = False,
) -> torch.Tensor:
    """Mean SSIM (Wang et al. 2004) over a region, with in-plane Gaussian windows.

    Args:
        pred, reference: images in the scale of the reference, ``[B, 1, X, Y, Z]`` or ``[B, 1, X, Y]``.
        roi: 0/1 mask of the region, same shape.
        data_range: span of the scale of the reference.
        window_size: number of taps of the window, odd.
        sigma: standard deviation of the window in voxels.
        slice_axis: axis that windows do not extend along (volumes only).
        context: if False, window statistics come from voxels of the region only, so a copy inside scores exactly 1 whatever
            lies outside. If True, ordinary windows also include the surroundings and penalise a cut.

    Returns:
        ``[B]`` float64; NaN where the region is empty.

    Raises:
        InputError: when shapes differ or `data_range` is not positive.

    Example:
        >>> mri = torch.rand(1, 1, 16, 16, 2)
        >>> brain = torch.ones_like(mri)
        >>> round(regional_ssim(mri, mri, brain, data_range=1.0).item(), 6)
        1.0
    """
    _checked("regional_ssim", pred, reference, roi, data_range=data_range)
    pred, reference, roi = (t.detach().double() for t in (pred, reference, roi))
    if pred.ndim == 5:
        pred, reference, roi = (t.movedim(slice_axis, -1) for t in (pred, reference, roi))
    inside = None if context else (roi > 0).double()
    values = ssim_map(pred, reference, inside, data_range=data_range, window_size=window_size, sigma=sigma)
    return _mean_over(values, roi)


def regional_psnr(
    pred: torch.Tensor, reference: torch.Tensor, roi: torch.Tensor, *, data_range: float, slice_axis: int = -1
) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB over a region.

    Args:
        pred, reference, roi, data_range: as in :func:`regional_ssim`.
        slice_axis: accepted for symmetry with :func:`regional_ssim`; the result does not depend on it.

    Returns:
        ``[B]`` float64; NaN where the region is empty, infinite for a copy.

    Raises:
        InputError: when shapes differ or `data_range` is not positive.

    Example:
        >>> reference = torch.rand(1, 1, 8, 8, 2)
        >>> regional_psnr(reference + 0.1, reference, torch.ones_like(reference), data_range=1.0).round().item()
        20.0
    """
    _checked("regional_psnr", pred, reference, roi, data_range=data_range)
    error = _mean_over((pred.detach().double() - reference.detach().double()) ** 2, roi.detach())
    return 10 * torch.log10(data_range**2 / error)


def seam_ratio(fused: torch.Tensor, mri: torch.Tensor, ct: torch.Tensor, roi: torch.Tensor) -> torch.Tensor:
    """Steepness of the fused image along the border of a region, relative to the steeper of both sources.

    The mean in-plane gradient of `fused` over the two-voxel border of `roi` (one voxel on either side) is divided by the mean
    of the larger of both sources' gradients there. About 1 means that no seam is visible; a cut scores higher.

    Args:
        fused, mri, ct: images in normalised units, ``[B, 1, X, Y, Z]`` or ``[B, 1, X, Y]``.
        roi: 0/1 mask of the region, same shape, usually bone.

    Returns:
        ``[B]`` float64; NaN where the region has no border.

    Raises:
        InputError: when shapes differ.

    Example:
        >>> mri, ct = torch.rand(1, 1, 16, 16, 2), torch.rand(1, 1, 16, 16, 2)
        >>> bone = torch.zeros_like(ct)
        >>> bone[:, :, :5] = 1
        >>> bool(seam_ratio(torch.where(bone > 0, ct + 3, mri), mri, ct, bone) > 1.5)  # a cut
        True
    """
    _checked("seam_ratio", fused, mri, ct, roi)

    def gradient(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().double()
        steps = [torch.gradient(x, dim=axis)[0] if x.shape[axis] > 1 else torch.zeros_like(x) for axis in (2, 3)]
        return (steps[0] ** 2 + steps[1] ** 2).sqrt()

    inside = (roi > 0).double()
    border = torch.zeros_like(inside, dtype=torch.bool)
    for axis in (2, 3):
        if inside.shape[axis] > 1:
            change = inside.diff(dim=axis) != 0
            first, last = (border.narrow(axis, start, inside.shape[axis] - 1) for start in (0, 1))
            first |= change
            last |= change
    sources = torch.maximum(gradient(mri), gradient(ct))
    return _mean_over(gradient(fused), border) / _mean_over(sources, border)


def hyperdense_shown(
    fused: torch.Tensor, mri: torch.Tensor, ct: torch.Tensor, dense: torch.Tensor, bone: torch.Tensor
) -> torch.Tensor:
    """Share of the acute blood and calcium that the fused volume shows as the CT does.

    The region is too small to change any SSIM, yet it is what a reader looks for first. A voxel counts as shown if `fused` is
    closer to the CT than to the MRI there.

    Args:
        fused, mri, ct: images in normalised units, ``[B, 1, X, Y, Z]``; the CT as it is blended, see
            :func:`~roi_fusion.core.intensity.fusion_sources`.
        dense: 0/1 mask from :func:`~roi_fusion.core.blood.hyperdense_mask`, same shape.
        bone: 0/1 mask of bone, same shape. Voxels within two voxels of bone in plane, in the same or a neighbouring slice, are
            left out, and so are the first and the last slice: at vertex and skull base, thick slices are dense because they
            contain part of the skull.

    Returns:
        ``[B]`` float64; NaN where no voxel is left.

    Raises:
        InputError: when shapes differ.
    """
    _checked("hyperdense_shown", fused, mri, ct, dense, bone)
    near = F.max_pool3d(F.pad(bone.float(), (1, 1), value=1.0), (5, 5, 3), stride=1, padding=(2, 2, 0))
    dense = dense * (near == 0)
    return _mean_over(((fused - ct).abs() < (fused - mri).abs()).double(), dense)


class FusionComparison:
    """A fused volume of one case beside its sources, each region in the reference's own [0, 1] scale.

    Args:
        fused: normalised, ``[1, X, Y, Z]``.
        image: normalised MRI and CT, ``[2, X, Y, Z]``.
        brain, bone, dense: 0/1, ``[1, X, Y, Z]``; the brain without what the target takes from the CT.
        intensity: constants of the case, which map all to the references' own scales.
        hyperdense: where :meth:`hyperdense_dice` finds its reference; without it there is none.
    """

    def __init__(
        self,
        fused: torch.Tensor,
        image: torch.Tensor,
        *,
        brain: torch.Tensor,
        bone: torch.Tensor,
        dense: torch.Tensor,
        intensity: IntensityMap,
        hyperdense: HyperdenseReference | None = None,
    ) -> None:
        self._whole, self._reference, self._intensity = (torch.as_tensor(fused).detach(), image), hyperdense, intensity
        self._transfer: dict[str, float] | None = None
        fused, image, brain, bone, dense = (torch.as_tensor(t).detach()[None] for t in (fused, image, brain, bone, dense))
        head = (image != 0).any(dim=1, keepdim=True)
        box = (slice(None), slice(None), *bounding_box(head[0, 0].cpu().numpy(), 6)) if bool(head.any()) else ...
        self._fused, self._image, brain, self._bone, self._dense, self._head = (
            t[box] for t in (fused, image, brain, bone, dense, head)
        )
        mri, ct = self._image[:, :1], self._image[:, 1:]
        in_mri, in_ct = intensity.normalised_to_mri_scale, intensity.normalised_to_ct_scale
        #: Region → (fused, reference, mask), ``[1, 1, X, Y, Z]`` each: the MRI is the brain's reference, the CT the bone's.
        self._pairs = {
            "brain": (in_mri(self._fused), in_mri(mri), brain),
            "bone": (in_ct(undo_brighten_bone(self._fused) * self._head), in_ct(ct), self._bone),
        }
        self._has_both = bool(mri.any()) and bool(ct.any())

    def _pair(self, region: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if region not in self._pairs:
            raise InputError(f"region: expected one of {', '.join(self._pairs)}, got {region!r}")
        return self._pairs[region]

    def ssim(self, region: str, *, context: bool = False, window_size: int = 11, sigma: float = 1.5) -> float:
        """:func:`regional_ssim` in ``"brain"`` (against the MRI) or ``"bone"`` (against the CT).

        Raises:
            InputError: for another region.
        """
        pair = self._pair(region)
        return float(regional_ssim(*pair, data_range=1.0, context=context, window_size=window_size, sigma=sigma))

    def psnr(self, region: str) -> float:
        """:func:`regional_psnr` in ``"brain"`` or ``"bone"``, in dB.

        Raises:
            InputError: for another region.
        """
        return float(regional_psnr(*self._pair(region), data_range=1.0))

    def global_ssim(self) -> float:
        """Mean of both SSIMs over the whole head; NaN of a case that lacks MRI or CT."""
        whole = [regional_ssim(a, b, self._head, data_range=1.0) for a, b, _ in self._pairs.values()]
        return float((whole[0] + whole[1]) / (2 if self._has_both else math.nan))

    def seam_ratio(self) -> float:
        """:func:`seam_ratio` along the border of bone."""
        return float(seam_ratio(self._fused, *fusion_sources(self._image), self._bone))

    def hyperdense_shown(self) -> float:
        """:func:`hyperdense_shown` of acute blood and calcium."""
        return float(hyperdense_shown(self._fused, *fusion_sources(self._image), self._dense, self._bone))

    def hyperdense_dice(self, curve: tuple[Sequence[float], Sequence[float]]) -> float:
        """Dice of the hyperdense region of the fused volume with a reference that no method sees; NaN without one.

        Args:
            curve: that the CT was companded with, see :func:`~roi_fusion.core.intensity.compand_hu`.
        """
        if self._reference is None or not self._has_both:
            return math.nan
        fused, image = self._whole[0][None], torch.as_tensor(self._whole[1])[None]
        scaled = self._intensity.normalised_to_ct_scale(torch.cat([undo_brighten_bone(fused), image[:, 1:]], dim=1))
        fused_hu, ct_hu = (v.cpu().numpy() for v in expand_hu(scaled, *curve)[0])
        reference, space = self._reference.regions(np.where(image[0, 1].cpu().numpy() != 0, ct_hu, -1000.0))
        mri, ct = (v[0, 0].cpu().numpy() for v in fusion_sources(image))
        return hyperdense_dice(shown_region(fused[0, 0].cpu().numpy(), mri, ct, fused_hu, space), reference & space)

    def transfer(self) -> dict[str, float]:
        """``vif`` and ``qabf``, see :func:`~roi_fusion.metrics.transfer.volume_transfer`."""
        if self._transfer is None:
            self._transfer = volume_transfer(self._fused, self._image, self._intensity)
        return self._transfer


class FusionMetrics(Cumulative):
    """Fusion metrics per case, cumulated; missing values are NaN and stay out of the mean."""

    names = (
        *("brain_ssim", "bone_ssim", "brain_ssim_context", "bone_ssim_context"),
        *("brain_psnr", "bone_psnr", "global_ssim", "seam_ratio", "hyperdense_shown"),
    )

    def __call__(
        self,
        fused: torch.Tensor,
        image: torch.Tensor,
        *,
        brain: torch.Tensor,
        bone: torch.Tensor,
        dense: torch.Tensor,
        intensity: IntensityMap,
    ) -> dict[str, float]:
        """Measure one case and keep it.

        Args:
            fused: normalised, ``[1, X, Y, Z]``.
            image: normalised MRI and CT, ``[2, X, Y, Z]``.
            brain, bone, dense: 0/1, ``[1, X, Y, Z]``; the brain without what the target takes from the CT.
            intensity: constants of the case, which map all to the references' own scales.
        """
        found = FusionComparison(fused, image, brain=brain, bone=bone, dense=dense, intensity=intensity)
        regions, contexts = ("brain", "bone"), {"": False, "_context": True}
        values = {f"{r}_ssim{name}": found.ssim(r, context=c) for name, c in contexts.items() for r in regions}
        values |= {f"{r}_psnr": found.psnr(r) for r in regions}
        values |= {n: float(getattr(found, n)()) for n in ("global_ssim", "seam_ratio", "hyperdense_shown")}
        self.append(torch.tensor([values[n] for n in self.names], dtype=torch.float64))
        return values

    def aggregate(self) -> dict[str, float]:  # type: ignore[override]
        """Mean over the cases where each value exists; NaN where none does."""
        return mean_by_name(self.names, self.get_buffer())


def baselines(image: torch.Tensor, bone: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Fused volumes to compare with: ``average``, ``maximum``, ``paste`` (CT bone into the MRI) and the ``target`` F*.

    Args:
        image: normalised MRI and CT, ``[B, 2, X, Y, Z]``.
        bone: 0/1 mask of bone, ``[B, 1, X, Y, Z]``.
        weight: share K of the CT in the target, ``[B, 1, X, Y, Z]``, see :func:`~roi_fusion.core.target.ct_weight`.

    Returns:
        Volumes ``[B, 1, X, Y, Z]`` in normalised units by name.
    """
    mri, ct = fusion_sources(image)
    return {
        "average": (mri + ct) / 2,
        "maximum": torch.maximum(mri, ct),
        "paste": torch.where(bone > 0, ct, mri),
        "target": fusion_target(image, weight),
    }
