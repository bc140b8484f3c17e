# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Paints an MRI from a geometry: tissues, lesion, texture, then what scanners add (warp, gain, blur, ghosts, noise)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .contrast import MriContrast, draw_age, draw_contrast
from .fields import blur, resize, sample_linear, smooth_noise
from .geometry import Geometry
from .tissues import LesionAge, tissue_table

__all__ = ["Distortion", "paint_mri", "stripped_brain"]

_TABLE = tissue_table()
_BRAIN = _TABLE.in_groups("brain", "chronic")


@dataclass(frozen=True)
class Distortion:
    """How echo-planar imaging moved the anatomy along its phase-encoding axis; nothing without a shift.

    Whoever draws a lesion on such an image draws it where the image shows it, so its mask moves along.

    Attributes:
        axis: array axis of the phase encoding.
        shift: where each voxel's content comes from, in voxels along the axis, ``[X, Y, Z]``.
    """

    axis: int = 1
    shift: torch.Tensor | None = None

    def apply(self, volume: torch.Tensor) -> torch.Tensor:
        """Move a volume ``[X, Y, Z]`` with the anatomy, linearly; masks keep their type and become those of half or more."""
        if self.shift is None:
            return volume
        size = volume.shape[self.axis]
        index = torch.arange(size, dtype=torch.float32).view([-1 if a == self.axis else 1 for a in range(3)])
        at = (index + self.shift).clamp(0, size - 1.001)
        low = at.floor().long()
        values = volume.float()
        part = at - low
        moved = torch.gather(values, self.axis, low) * (1 - part) + torch.gather(values, self.axis, low + 1) * part
        return moved if volume.is_floating_point() else (moved >= 0.5).to(volume.dtype)


def paint_mri(
    rng: np.random.Generator, g: Geometry, contrast: MriContrast | None = None, age: LesionAge | None = None
) -> tuple[torch.Tensor, dict, Distortion]:
    """MRI in scanner units, float32 ``[X, Y, Z]``, what was drawn, and how far the scanner moved the anatomy.

    Args:
        rng: source of randomness.
        g: shares on the MRI's grid.
        contrast: brightness; drawn when None.
        age: of the lesion, drawn when None.
    """
    age = age or draw_age(rng)
    contrast = contrast or draw_contrast(rng, age)
    noise_source = torch.Generator().manual_seed(int(rng.integers(2**31)))
    image = _tissues(rng, g, contrast)
    distortion = Distortion()
    spacing = g.grid.spacing_mm
    texture = smooth_noise(rng, image.shape, spacing, float(rng.uniform(3.0, 9.0)))[0]
    image *= 1 + float(rng.uniform(0.01, 0.05)) * texture
    epi = contrast.name in ("adc", "dwi") or (contrast.name == "free" and rng.random() < 0.3)
    if epi and rng.random() < 0.8:
        image, distortion = _epi(rng, g, image, bright_rims=contrast.name != "adc")
    if rng.random() < 0.35:
        sigma = float(rng.uniform(0.3, 0.9))
        image = blur(image, (sigma, sigma, 0.0))
    if contrast.name != "adc":
        gain = smooth_noise(rng, image.shape, spacing, float(rng.uniform(60, 120)))[0]
        image *= torch.exp(float(rng.uniform(0.02, 0.22)) * gain)
        if rng.random() < 0.25:  # slices excited in two runs
            steps = torch.from_numpy(rng.normal(1, 0.03, image.shape[2]).astype(np.float32))
            image *= steps
    if rng.random() < 0.2:
        image = _ghosts(rng, image)
    grey = float(contrast.values[_TABLE.index("grey")])
    sigma = float(np.exp(rng.uniform(np.log(0.008), np.log(0.09)))) * grey
    image = _noise(rng, image, sigma, noise_source, g, contrast.name)
    scale = (
        820.0 * float(rng.uniform(0.9, 1.1)) if contrast.name == "adc" else float(np.exp(rng.uniform(np.log(80), np.log(2000))))
    )
    notes = {"contrast": contrast.name, "age": age.name, "noise": sigma * scale, "lesion_signal": contrast.lesion * scale}
    return image * scale, notes, distortion


def _tissues(rng: np.random.Generator, g: Geometry, contrast: MriContrast) -> torch.Tensor:
    """Sum of share × brightness, with brightness that varies equally on both sides, and the lesion over it."""
    values = contrast.values
    image = torch.zeros(g.shares.shape[1:])
    brain = torch.zeros_like(image)
    tissue = torch.zeros_like(image)
    for i, k in enumerate(g.present):
        if _BRAIN[k]:
            share = g.shares[i].float()
            brain.add_(share, alpha=float(values[k]) / 255)
            tissue.add_(share, alpha=1 / 255)
        elif values[k] > 0:
            image.add_(g.shares[i], alpha=float(values[k]) / 255)
    symmetric = 0.7 * _symmetric(rng, g, 14.0) + 0.5 * _symmetric(rng, g, 40.0)
    brain *= 1 + float(rng.uniform(0.01, 0.09)) * symmetric
    outside = float(rng.uniform(0.05, 0.3)) * smooth_noise(rng, image.shape, g.grid.spacing_mm, 12.0)[0]
    fluid = g.share_of_groups("csf", "cyst", "eye")
    image *= 1 + outside * (1 - fluid).clamp(min=0)  # fluid is even, soft tissue is not
    if int(g.lesion.max()):
        brain += _lesion(rng, g, contrast, brain, tissue)
    return image + brain


def _lesion(
    rng: np.random.Generator, g: Geometry, contrast: MriContrast, brain: torch.Tensor, tissue: torch.Tensor
) -> torch.Tensor:
    """What the lesion changes: towards its own brightness, unevenly and with a fading border."""
    spacing = g.grid.spacing_mm
    member = g.lesion.float() / 255 / tissue.clamp(min=0.2)
    fade_mm = float(rng.uniform(0.0, 1.8))
    where = torch.nonzero(g.lesion > 0)
    reach = [int(np.ceil(3 * fade_mm / s)) + 1 for s in spacing]
    box = tuple(slice(max(0, int(a) - r), int(b) + r + 1) for a, b, r in zip(where.min(0).values, where.max(0).values, reach))
    part = blur(member[box].clamp(max=1), [fade_mm / s for s in spacing[:2]] + [0.0])
    healthy = tissue[box]
    uneven = smooth_noise(rng, part.shape, spacing, float(rng.uniform(4, 16)))[0]
    amount = 1 + float(rng.uniform(0.0, 0.35)) * uneven
    depth = amount.clamp(0.45, 1.6)  # every part of it can be seen
    target = healthy * contrast.lesion
    out = torch.zeros_like(brain)
    out[box] = part * depth * (target - brain[box])
    return out


def _symmetric(rng: np.random.Generator, g: Geometry, knot_mm: float) -> torch.Tensor:
    """A smooth field that is the same on both sides of the head, about unit variance, ``[X, Y, Z]``."""
    shape = [int(s / knot_mm) + 3 for s in (100, 260, 260)]
    values = torch.from_numpy(rng.standard_normal((1, *shape)).astype(np.float32)) / 0.65
    index = (g.sided * 100 + torch.tensor([0.0, 130.0, 130.0]).view(3, 1, 1, 1)) / knot_mm
    return resize(sample_linear(values, index, "border"), g.shares.shape[1:])[0]


def _epi(rng: np.random.Generator, g: Geometry, image: torch.Tensor, bright_rims: bool) -> tuple[torch.Tensor, Distortion]:
    """Echo-planar images near air cells: shifted along the phase axis, piled up, and dark where signal is lost."""
    near = resize(g.near_air[None], image.shape)[0]
    axis = 1 if rng.random() < 0.85 else 0
    shift = float(rng.normal(0, 5.0)) / g.grid.spacing_mm[axis] * near  # voxels
    distortion = Distortion(axis, shift)
    moved = distortion.apply(image)
    if bright_rims:
        slope = torch.gradient(shift, dim=axis)[0]
        moved *= (1 + float(rng.uniform(0.5, 2.5)) * slope).clamp(0.3, 3.0)
    return moved * (1 - float(rng.uniform(0.2, 0.9)) * (near * 1.2).clamp(max=1) ** 2), distortion


def _ghosts(rng: np.random.Generator, image: torch.Tensor) -> torch.Tensor:
    """Motion during the scan: faint copies along the phase axis."""
    axis = int(rng.integers(0, 2))
    out = image
    for _ in range(int(rng.integers(1, 4))):
        step = int(rng.integers(2, max(3, image.shape[axis] // 2)))
        out = out + float(rng.uniform(0.01, 0.06)) * (torch.roll(image, step, axis) + torch.roll(image, -step, axis))
    return out


def _noise(
    rng: np.random.Generator, image: torch.Tensor, sigma: float, source: torch.Generator, g: Geometry, name: str
) -> torch.Tensor:
    """Rician noise; an ADC map has Gaussian noise where there is signal, and zeros or nothing but noise elsewhere."""
    first = torch.randn(image.shape, generator=source) * sigma
    if name != "adc":
        second = torch.randn(image.shape, generator=source) * sigma
        return torch.hypot(image + first, second)
    noisy = (image + first * (0.5 + image)).clamp(min=0)
    inside = g.head > 0
    if rng.random() < 0.6:
        return noisy * inside
    wild = torch.rand(image.shape, generator=source) * float(rng.uniform(0.3, 3.0))
    return torch.where(inside, noisy, wild)


def stripped_brain(rng: np.random.Generator, g: Geometry, distortion: Distortion | None = None) -> torch.Tensor:
    """What a brain extraction keeps, a little more or less than the brain that the MRI shows, boolean ``[X, Y, Z]``."""
    sigma_mm = float(rng.uniform(0.8, 2.5))
    shown = g.brain.float() if distortion is None else distortion.apply(g.brain.float())
    soft = blur(shown, [sigma_mm / s for s in g.grid.spacing_mm])
    rough = 0.12 * smooth_noise(rng, soft.shape, g.grid.spacing_mm, 15.0)[0]
    kept = soft + rough > float(rng.uniform(0.3, 0.65))
    return kept & (g.head > 0)
