# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""How much of both sources a fused picture keeps: VIF and Qabf, the two measures that the fusion literature states beside SSIM.

Both are of 8-bit slices. A paste does not win them by construction: they are over whole slices, edges and seams included.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage

from ..core.intensity import IntensityMap, fusion_sources
from ..core.ssim import gaussian_window

__all__ = ["edge_transfer", "eight_bit_slices", "visual_fidelity", "volume_transfer"]

#: Variance of the visual noise in VIF, for grey values up to 255.
_VISUAL_NOISE = 2.0
_TINY = 1e-10
#: Least side of a slice in pixels for the four scales of VIF.
_LEAST_SIDE = 41
#: Slices that show less of the head than this share of their pixels are left out.
_LEAST_HEAD = 0.05


def _means(picture: np.ndarray, size: int) -> np.ndarray:
    """Gaussian means over windows of `size` pixels that lie inside the picture."""
    window = gaussian_window(size, size / 5, torch.float64, torch.device("cpu")).numpy()
    half = size // 2
    out = ndimage.correlate1d(ndimage.correlate1d(picture, window, 0), window, 1)
    return out[half : picture.shape[0] - half, half : picture.shape[1] - half]


def visual_fidelity(reference: np.ndarray, fused: np.ndarray) -> float:
    """Pixel-domain visual information fidelity (Sheikh & Bovik 2006) of one picture in another, at four scales.

    Args:
        reference, fused: pictures ``[X, Y]`` of 0 to 255, 41 pixels and more a side.

    Returns:
        1 for a copy; 1 where the reference holds nothing.

    Example:
        >>> picture = np.random.default_rng(0).integers(0, 256, (64, 64))
        >>> round(visual_fidelity(picture, picture), 3)
        1.0
    """
    a, b = reference.astype(np.float64), fused.astype(np.float64)
    kept = total = 0.0
    for size in (17, 9, 5, 3):
        if size < 17:
            a, b = (_means(p, size)[::2, ::2] for p in (a, b))
        mean_a, mean_b = _means(a, size), _means(b, size)
        var_a, var_b = (np.maximum(_means(p * p, size) - m * m, 0) for p, m in ((a, mean_a), (b, mean_b)))
        gain = (_means(a * b, size) - mean_a * mean_b) / (var_a + _TINY)
        gain[(var_a < _TINY) | (var_b < _TINY)] = 0
        falling = gain < 0
        gain[falling] = 0
        noise = var_b - gain * (_means(a * b, size) - mean_a * mean_b)
        noise = np.where(var_a < _TINY, var_b, noise)
        noise = np.where(var_b < _TINY, 0, noise)
        noise = np.maximum(np.where(falling, var_b, noise), _TINY)
        var_a = np.where(var_a < _TINY, 0, var_a)
        kept += float(np.log10(1 + gain**2 * var_a / (noise + _VISUAL_NOISE)).sum())
        total += float(np.log10(1 + var_a / _VISUAL_NOISE).sum())
    return kept / total if total > 0 else 1.0


def _edges(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength and orientation of the Sobel gradient, the picture surrounded by 0."""
    across, along = (ndimage.sobel(picture.astype(np.float64), axis, mode="constant") for axis in (1, 0))  # along: downwards
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.where(across == 0, np.pi / 2, np.arctan(-along / across))
    return np.hypot(across, along), angle


def edge_transfer(mri: np.ndarray, ct: np.ndarray, fused: np.ndarray) -> float:
    """Qabf (Xydeas & Petrovic 2000): share of both sources' edges that the fused picture keeps, weighted by their strength.

    Args:
        mri, ct, fused: pictures ``[X, Y]`` of 0 to 255.

    Returns:
        0 to about 0.97; NaN where neither source has an edge.

    Example:
        >>> flat = np.full((16, 16), 0)
        >>> edge_transfer(flat, flat, flat)
        nan
    """
    strength, angle = _edges(fused)
    kept = total = 0.0
    for source in (mri, ct):
        own, own_angle = _edges(source)
        more = np.maximum(own, strength)
        ratio = np.divide(np.minimum(own, strength), more, out=np.zeros_like(more), where=more > 0)
        aligned = np.abs(np.abs(own_angle - angle) - np.pi / 2) * 2 / np.pi
        quality = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + np.exp(-22 * (aligned - 0.8)))
        kept, total = kept + float((quality * own).sum()), total + float(own.sum())
    return kept / total if total > 0 else math.nan


def eight_bit_slices(fused: torch.Tensor, image: torch.Tensor, intensity: IntensityMap) -> np.ndarray:
    """MRI, CT and fused volume as 8-bit slices in one scale: that of the MRI, 0 to 1 as 0 to 255, with the CT as it is blended.

    Args:
        fused: normalised, ``[1, 1, X, Y, Z]``.
        image: normalised MRI and CT, ``[1, 2, X, Y, Z]``.
        intensity: constants of the case.

    Returns:
        uint8 ``[3, Z, X, Y]``, 0 outside the head.
    """
    head = (image != 0).any(dim=1, keepdim=True)
    volumes = torch.cat([*fusion_sources(image), fused], dim=1)
    grey = (255 * intensity.normalised_to_mri_scale(volumes).clamp(0, 1)).round() * head
    return grey[0].movedim(-1, 1).cpu().numpy().astype(np.uint8)


def volume_transfer(fused: torch.Tensor, image: torch.Tensor, intensity: IntensityMap) -> dict[str, float]:
    """``vif`` (of MRI and CT, summed) and ``qabf``, means over the slices that show the head.

    Args:
        fused, image, intensity: as in :func:`eight_bit_slices`.

    Returns:
        NaN where no slice can be measured, or one of both images is missing.
    """
    found: list[tuple[float, float]] = []
    if bool((image[:, 0] != 0).any()) and bool((image[:, 1] != 0).any()) and min(image.shape[2:4]) >= _LEAST_SIDE:
        slices = eight_bit_slices(fused, image, intensity)
        shown = (image != 0).any(dim=1)[0].float().mean((0, 1)).cpu().numpy() >= _LEAST_HEAD
        for mri, ct, own in slices[:, shown].swapaxes(0, 1):
            found.append((visual_fidelity(mri, own) + visual_fidelity(ct, own), edge_transfer(mri, ct, own)))
    means = np.nanmean(found, axis=0) if found else (math.nan, math.nan)
    return {"vif": float(means[0]), "qabf": float(means[1])}
