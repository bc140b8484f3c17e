# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Metrics of fusion, segmentation and calibration. What cannot be measured is NaN, never a number.

Fusion is compared in the reference's own scale with `data_range` given; lesions are compared by surface voxels in mm,
as ``monai.metrics`` does when it is given spacing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics import Cumulative
from scipy import ndimage

from .diffusion import fusion_target
from .errors import InputError
from .intensity import IntensityMap, fusion_sources, undo_brighten_bone
from .ssim import ssim_map

__all__ = [
    "FusionMetrics",
    "LesionMetrics",
    "baselines",
    "brier_score",
    "entropy_bits",
    "expected_calibration_error",
    "hyperdense_shown",
    "lesion_metrics",
    "lesion_region",
    "regional_psnr",
    "regional_ssim",
    "reliability_curve",
    "seam_ratio",
]

Array = np.ndarray | torch.Tensor


def _checked(name: str, first: torch.Tensor, *others: torch.Tensor, data_range: float = 1.0) -> None:
    for other in others:
        if other.shape != first.shape:
            raise InputError(f"{name}: wanted equal shapes, came {tuple(first.shape)} and {tuple(other.shape)}")
    if first.ndim not in (4, 5) or first.shape[1] != 1:
        raise InputError(f"{name}: wanted [B, 1, X, Y, Z] or [B, 1, X, Y], came {tuple(first.shape)}")
    if not data_range > 0:
        raise InputError(f"{name}: wanted a data_range above 0, came {data_range}")


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
        pred, reference: ``[B, 1, X, Y, Z]`` or ``[B, 1, X, Y]``, in the reference's own scale.
        roi: 0/1, same shape.
        data_range: span of the reference's scale.
        window_size, sigma: of the window, in voxels.
        slice_axis: the axis that windows do not extend along (volumes only).
        context: ``False``: window statistics from voxels of the region only, so a copy inside scores exactly 1 whatever
            lies outside. ``True``: ordinary windows, which also see the surroundings and punish a cut.

    Returns:
        ``[B]`` float64; NaN where the region is empty.

    Raises:
        InputError: when shapes differ or `data_range` is not positive.
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
    """
    _checked("regional_psnr", pred, reference, roi, data_range=data_range)
    error = _mean_over((pred.detach().double() - reference.detach().double()) ** 2, roi.detach())
    return 10 * torch.log10(data_range**2 / error)


def seam_ratio(fused: torch.Tensor, mri: torch.Tensor, ct: torch.Tensor, roi: torch.Tensor) -> torch.Tensor:
    """How much steeper the fused image is along the region's border than its steeper source.

    The mean in-plane gradient of `fused` over the two-voxel border of `roi` (one voxel on either side), over the mean there
    of the larger of both sources' gradients; all in normalised units. About 1: no visible seam; a cut scores above.

    Args:
        fused, mri, ct: normalised, ``[B, 1, X, Y, Z]`` or ``[B, 1, X, Y]``.
        roi: 0/1, same shape, usually bone.

    Returns:
        ``[B]`` float64; NaN where the region has no border.
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
    """Share of the acute blood and calcium that the fused volume shows as the CT does, not as the MRI does.

    Too small a region for any SSIM to notice, and what a reader looks for first. A voxel is shown where `fused` is nearer to
    the CT's value than to the MRI's.

    Args:
        fused, mri, ct: normalised, ``[B, 1, X, Y, Z]``; the CT as it is blended, see
            :func:`~roi_fusion.intensity.fusion_sources`.
        dense: 0/1, same shape, from :func:`~roi_fusion.roi_masks.hyperdense_mask`.
        bone: 0/1, same shape. What lies within two voxels of it in plane, in the slice or in a neighbouring one, is left out,
            and so are the first and the last slice: at vertex and skull base thick slices are dense by the skull that they
            hold in part.

    Returns:
        ``[B]`` float64; NaN where nothing is left.
    """
    _checked("hyperdense_shown", fused, mri, ct, dense, bone)
    near = F.max_pool3d(F.pad(bone.float(), (1, 1), value=1.0), (5, 5, 3), stride=1, padding=(2, 2, 0))
    dense = dense * (near == 0)
    return _mean_over(((fused - ct).abs() < (fused - mri).abs()).double(), dense)


def _binary(name: str, mask: Array) -> np.ndarray:
    array = np.asarray(mask.detach().cpu() if isinstance(mask, torch.Tensor) else mask)
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim not in (2, 3):
        raise InputError(f"{name}: wanted one 2-D or 3-D mask, came shape {tuple(array.shape)}")
    if array.dtype != bool:
        if not np.isin(array, (0, 1)).all():
            raise InputError(f"{name}: wanted a mask of 0 and 1, came values such as {array[~np.isin(array, (0, 1))][0]:g}")
        array = array > 0
    return array


def _pair(name: str, pred: Array, reference: Array, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p, r = _binary(f"{name}: pred", pred), _binary(f"{name}: reference", reference)
    if p.shape != r.shape:
        raise InputError(f"{name}: wanted equal shapes, came {p.shape} and {r.shape}")
    spacing = np.asarray([float(s) for s in spacing_mm]) if spacing_mm is not None else np.empty(0)
    if len(spacing) != p.ndim or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"{name}: wanted spacing_mm as {p.ndim} positive lengths, came {spacing_mm}")
    return p, r, spacing


def _bounding_box(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):  # what one axis cuts away, the next need not look at
        found = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(int(found[0]) - margin, 0), int(found[-1]) + 1 + margin))
        mask = mask[(slice(None),) * axis + (slice(int(found[0]), int(found[-1]) + 1),)]
    return tuple(box)


def lesion_metrics(
    pred: Array, reference: Array, *, spacing_mm: Sequence[float], tolerance_mm: float = 2.0
) -> dict[str, float]:
    """Overlap, surface and volume agreement of two lesion masks, from one distance pass over the box that holds both.

    Args:
        pred, reference: 0/1 masks ``[X, Y, Z]`` (leading axes of length 1 are dropped).
        spacing_mm: voxel size along the array axes.
        tolerance_mm: surface distance that still counts as agreement for `nsd`.

    Returns:
        ``dice``; ``nsd``, the normalised surface Dice at `tolerance_mm` (Nikolov et al. 2021); ``hd95_mm``, the larger of both
        directed 95th percentiles of surface distance; ``lesion_f1`` over 26-connected lesions, found when one voxel is hit;
        ``volume_difference_ml``, predicted minus reference. Both masks empty: all NaN but the volume difference, which is 0.
        One empty: 0, 0, the diagonal of the image, 0.

    Raises:
        InputError: when shapes differ, spacing is missing or not positive, or a mask is not 0/1.
    """
    p, r, spacing = _pair("lesion_metrics", pred, reference, spacing_mm)
    if not tolerance_mm >= 0:
        raise InputError(f"lesion_metrics: wanted tolerance_mm of 0 or more, came {tolerance_mm}")
    voxel_ml = float(np.prod(spacing)) / 1000 if p.ndim == 3 else float("nan")
    n_pred, n_ref = np.count_nonzero(p), np.count_nonzero(r)
    out: dict[str, float] = {"volume_difference_ml": (n_pred - n_ref) * voxel_ml}
    if not n_pred and not n_ref:
        return {"dice": np.nan, "nsd": np.nan, "hd95_mm": np.nan, "lesion_f1": np.nan, **out}
    if not n_pred or not n_ref:
        diagonal = float(np.linalg.norm(np.asarray(p.shape) * spacing))
        return {"dice": 0.0, "nsd": 0.0, "hd95_mm": diagonal, "lesion_f1": 0.0, **out}
    box = _bounding_box(p | r, 1)
    p, r = p[box], r[box]
    out["dice"] = 2.0 * np.count_nonzero(p & r) / (n_pred + n_ref)
    edge_p, edge_r = (m & ~ndimage.binary_erosion(m) for m in (p, r))
    to_reference, to_pred = _distances(edge_p, edge_r, spacing), _distances(edge_r, edge_p, spacing)
    agreeing = int((to_reference <= tolerance_mm).sum()) + int((to_pred <= tolerance_mm).sum())
    out["nsd"] = agreeing / (len(to_reference) + len(to_pred))
    out["hd95_mm"] = float(max(np.percentile(to_reference, 95), np.percentile(to_pred, 95)))
    out["lesion_f1"] = _lesion_f1(p, r)
    return {k: float(out[k]) for k in ("dice", "nsd", "hd95_mm", "lesion_f1", "volume_difference_ml")}


def _distances(points: np.ndarray, target: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Distance in mm of every voxel of one mask to the nearest of the other."""
    here = np.argwhere(points)
    nearest = ndimage.distance_transform_edt(~target, sampling=spacing, return_distances=False, return_indices=True)
    steps = (nearest[(slice(None), *here.T)].T - here) * spacing
    return np.sqrt((steps * steps).sum(1))


def _lesion_f1(pred: np.ndarray, reference: np.ndarray) -> float:
    touching = ndimage.generate_binary_structure(pred.ndim, pred.ndim)
    ref_parts, n_ref = ndimage.label(reference, touching)
    pred_parts, n_pred = ndimage.label(pred, touching)
    found = len(np.unique(ref_parts[pred & reference]))
    wrong = n_pred - len(np.unique(pred_parts[pred & reference]))
    return 2 * found / (2 * found + (n_ref - found) + wrong)


def lesion_region(pred: Array, reference: Array, *, spacing_mm: Sequence[float], margin_mm: float = 10.0) -> np.ndarray:
    """Where calibration is judged: both lesions and `margin_mm` around them, boolean. Far background flatters any model."""
    p, r, spacing = _pair("lesion_region", pred, reference, spacing_mm)
    both = p | r
    if not both.any():
        return both
    box = _bounding_box(both, int(np.ceil(margin_mm / spacing.min())))
    out = np.zeros_like(both)
    out[box] = ndimage.distance_transform_edt(~both[box], sampling=spacing) <= margin_mm
    return out


def _probabilities(name: str, probability: Array, reference: Array, region: Array) -> tuple[np.ndarray, np.ndarray]:
    p, r, m = (np.asarray(t.detach().cpu() if isinstance(t, torch.Tensor) else t) for t in (probability, reference, region))
    if p.shape != r.shape or p.shape != m.shape:
        raise InputError(f"{name}: wanted equal shapes, came {p.shape}, {r.shape} and {m.shape}")
    p, r = p[m > 0].astype(np.float64), r[m > 0] > 0
    if p.size and not (np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1):
        raise InputError(f"{name}: wanted probabilities from 0 to 1, came {p.min():g} to {p.max():g}")
    return p, r


def brier_score(probability: Array, reference: Array, region: Array) -> float:
    """Mean squared difference of probability and truth over the region (Brier 1950); NaN where it is empty."""
    p, r = _probabilities("brier_score", probability, reference, region)
    return float(np.mean((p - r) ** 2)) if p.size else float("nan")


def reliability_curve(probability: Array, reference: Array, region: Array, *, num_bins: int = 10) -> dict[str, np.ndarray]:
    """Data of a reliability diagram over equally wide bins.

    Returns:
        ``confidence`` and ``frequency``, the mean probability and the share of lesion in each bin (NaN where it is empty), and
        ``count``; each ``[num_bins]``.
    """
    if num_bins < 1:
        raise InputError(f"reliability_curve: wanted num_bins of 1 or more, came {num_bins}")
    p, r = _probabilities("reliability_curve", probability, reference, region)
    bins = np.minimum((p * num_bins).astype(int), num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bins, weights=p, minlength=num_bins) / count
        frequency = np.bincount(bins, weights=r, minlength=num_bins) / count
    return {"confidence": confidence, "frequency": frequency, "count": count}


def entropy_bits(probability: torch.Tensor) -> torch.Tensor:
    """Entropy of a yes/no variable in bits, 0…1."""
    p = probability.double().clamp(1e-12, 1 - 1e-12)
    return (-(p * p.log2() + (1 - p) * (1 - p).log2())).clamp(0, 1).to(probability.dtype)


def expected_calibration_error(probability: Array, reference: Array, region: Array, *, num_bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015) over the region; NaN where it is empty."""
    curve = reliability_curve(probability, reference, region, num_bins=num_bins)
    total = curve["count"].sum()
    if not total:
        return float("nan")
    gap = np.abs(curve["confidence"] - curve["frequency"])
    return float(np.nansum(gap * curve["count"]) / total)


class FusionMetrics(Cumulative):
    """Fusion metrics per case, cumulated; missing values are NaN and stay out of the mean."""

    names = (
        "brain_ssim", "bone_ssim", "brain_ssim_context", "bone_ssim_context", "brain_psnr", "bone_psnr", "global_ssim",
        "seam_ratio", "hyperdense_shown",
    )  # fmt: skip

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
        fused, image, brain, bone, dense = (torch.as_tensor(t).detach()[None] for t in (fused, image, brain, bone, dense))
        head = (image != 0).any(dim=1, keepdim=True)
        box = (slice(None), slice(None), *_bounding_box(head[0, 0].cpu().numpy(), 6)) if bool(head.any()) else ...
        fused, image, brain, bone, dense, head = (t[box] for t in (fused, image, brain, bone, dense, head))
        mri, ct = image[:, :1], image[:, 1:]
        in_mri, in_ct = intensity.normalised_to_mri_scale, intensity.normalised_to_ct_scale
        pairs = {
            "brain": (in_mri(fused), in_mri(mri), brain),
            "bone": (in_ct(undo_brighten_bone(fused) * head), in_ct(ct), bone),
        }
        row = {f"{n}_ssim": regional_ssim(*p, data_range=1.0) for n, p in pairs.items()}
        row.update({f"{n}_ssim_context": regional_ssim(*p, data_range=1.0, context=True) for n, p in pairs.items()})
        row.update({f"{n}_psnr": regional_psnr(*p, data_range=1.0) for n, p in pairs.items()})
        whole = [regional_ssim(a, b, head, data_range=1.0) for a, b, _ in pairs.values()]
        both = bool(mri.any()) and bool(ct.any())  # of a case that lacks one there is no such mean
        row["global_ssim"] = (whole[0] + whole[1]) / (2 if both else math.nan)
        sources = fusion_sources(image)
        row["seam_ratio"] = seam_ratio(fused, *sources, bone)
        row["hyperdense_shown"] = hyperdense_shown(fused, *sources, dense, bone)
        values = {name: float(row[name]) for name in self.names}
        self.append(torch.tensor([values[n] for n in self.names], dtype=torch.float64))
        return values

    def aggregate(self) -> dict[str, float]:  # type: ignore[override]
        """Mean over the cases where each value exists; NaN where none does."""
        return _mean_by_name(self.names, self.get_buffer())


class LesionMetrics(Cumulative):
    """Segmentation and calibration of the lesion head per case, cumulated; cases whose lesion is unknown give no row.

    Args:
        tolerance_mm: of the normalised surface Dice.
        margin_mm: around both lesions, where calibration is judged.
    """

    names = (
        "lesion_dice", "lesion_nsd_2mm", "lesion_hd95_mm", "lesion_f1", "lesion_volume_difference_ml", "lesion_ece",
        "lesion_brier", "n_empty_pred", "n_empty_ref",
    )  # fmt: skip

    def __init__(self, tolerance_mm: float = 2.0, margin_mm: float = 10.0) -> None:
        super().__init__()
        self.tolerance_mm, self.margin_mm = tolerance_mm, margin_mm

    def __call__(
        self, probability: torch.Tensor, label: torch.Tensor, *, spacing_mm: Sequence[float], threshold: float = 0.5,
        outside_voxels: int = 0,
    ) -> dict[str, float]:  # fmt: skip
        """Measure one case and keep it.

        Args:
            probability: of the lesion head, ``[1, X, Y, Z]``.
            label: 0/1, same shape.
            spacing_mm: voxel size along the array axes.
            threshold: above which a voxel is lesion.
            outside_voxels: of the lesion that lie beyond these arrays, where nothing was predicted. They are missed: Dice and
                the volume count them, and distances, whose other end is not here, are NaN.
        """
        p, r = (np.asarray(torch.as_tensor(t).detach().cpu())[0] for t in (probability, label))
        mask, truth = p > threshold, r > 0
        found = lesion_metrics(mask, truth, spacing_mm=spacing_mm, tolerance_mm=self.tolerance_mm)
        region = lesion_region(mask, truth, spacing_mm=spacing_mm, margin_mm=self.margin_mm)
        row = {
            "lesion_dice": found["dice"], "lesion_nsd_2mm": found["nsd"], "lesion_hd95_mm": found["hd95_mm"],
            "lesion_f1": found["lesion_f1"], "lesion_volume_difference_ml": found["volume_difference_ml"],
            "lesion_ece": expected_calibration_error(p, truth, region), "lesion_brier": brier_score(p, truth, region),
            "n_empty_pred": float(not mask.any()), "n_empty_ref": float(not truth.any() and not outside_voxels),
        }  # fmt: skip
        if outside_voxels:
            row["lesion_dice"] = 2.0 * int((mask & truth).sum()) / (int(mask.sum()) + int(truth.sum()) + outside_voxels)
            row["lesion_volume_difference_ml"] -= outside_voxels * float(np.prod(spacing_mm)) / 1000
            row.update(dict.fromkeys(("lesion_nsd_2mm", "lesion_hd95_mm", "lesion_f1"), math.nan))
        self.append(torch.tensor([row[n] for n in self.names], dtype=torch.float64))
        return row

    def aggregate(self) -> dict[str, float]:  # type: ignore[override]
        """Means; the two counts of empty masks are sums."""
        buffer = self.get_buffer()
        out = _mean_by_name(self.names, buffer)
        for name in ("n_empty_pred", "n_empty_ref"):
            out[name] = float(buffer[:, self.names.index(name)].sum()) if isinstance(buffer, torch.Tensor) else 0.0
        return out


def _mean_by_name(names: Sequence[str], buffer: Any) -> dict[str, float]:
    if not isinstance(buffer, torch.Tensor) or not len(buffer):
        return {n: float("nan") for n in names}
    return dict(zip(names, torch.nanmean(buffer, dim=0).tolist()))


def baselines(image: torch.Tensor, bone: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """What any method must beat, and its limit, in normalised units: average, maximum, paste (CT bone into the MRI), target F*.

    Args:
        image: normalised MRI and CT, ``[B, 2, X, Y, Z]``.
        bone: 0/1, ``[B, 1, X, Y, Z]``.
        weight: K, the share of the CT in the target.
    """
    mri, ct = fusion_sources(image)
    return {
        "average": (mri + ct) / 2,
        "maximum": torch.maximum(mri, ct),
        "paste": torch.where(bone > 0, ct, mri),
        "target": fusion_target(image, weight),
    }
