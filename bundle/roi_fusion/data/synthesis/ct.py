# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Paints a CT in HU from a geometry: tissues, lesion, then noise, streaks, head holder, dental metal and blur."""

from __future__ import annotations

import numpy as np
import torch

from .fields import blur, smooth_noise
from .geometry import Geometry
from .tissues import LesionAge, tissue_table

__all__ = ["paint_ct"]

_TABLE = tissue_table()
_BRAIN = _TABLE.in_groups("brain", "chronic")


def paint_ct(
    rng: np.random.Generator, g: Geometry, age: LesionAge, *, lesion_visible: bool | None = None
) -> tuple[torch.Tensor, dict]:
    """CT in HU, float32 ``[X, Y, Z]``, and what was drawn.

    Args:
        rng: source of randomness.
        g: shares on the grid.
        age: of the lesion.
        lesion_visible: None leaves one lesion in three without any trace, as early strokes are.
    """
    mean, spread = _TABLE.values["ct"].T
    values = mean + spread * rng.standard_normal(len(mean))
    values[_TABLE.in_groups("brain", "chronic", "csf", "cyst")] += float(rng.normal(0, 2.0))  # the scanner's offset
    bone = _TABLE.in_groups("bone")
    values[bone] *= float(rng.uniform(0.75, 1.15))
    values[0] = -1000
    image = torch.zeros(g.shares.shape[1:])
    tissue = torch.zeros_like(image)
    hard = torch.zeros_like(image)
    for i, k in enumerate(g.present):
        share = g.shares[i].float()
        image.add_(share, alpha=float(values[k]) / 255)
        if _BRAIN[k]:
            tissue.add_(share, alpha=1 / 255)
        if bone[k]:
            hard.add_(share, alpha=1 / 255)
    spacing = g.grid.spacing_mm
    image += hard * 110 * smooth_noise(rng, image.shape, spacing, 9.0)[0]
    notes: dict[str, float] = {"hu_drop": 0.0, "blood": 0.0}
    if int(g.lesion.max()):
        visible = rng.random() < 0.67 if lesion_visible is None else lesion_visible
        low, high = age.hu_drop
        drop = float(rng.uniform(max(low, 2.0), high)) if visible else 0.0
        if lesion_visible:
            drop = max(drop, 5.0)
        member = g.lesion.float() / 255 / tissue.clamp(min=0.2)
        fade = float(rng.uniform(0.3, 2.5))
        member = blur(member.clamp(max=1), [fade / s for s in spacing[:2]] + [0.0]) * tissue
        if drop:
            uneven = smooth_noise(rng, image.shape, spacing, 10.0)[0]
            image -= drop * member * (1 + 0.3 * uneven).clamp(0.3, 1.6)
            # Grey matter loses its contrast to white matter first.
            image += 0.3 * member * g.share("white") * min(drop, 6.0)
        if rng.random() < 0.1:  # bleeding into the lesion
            spots = smooth_noise(rng, image.shape, spacing, float(rng.uniform(4, 9)))[0] > float(rng.uniform(0.9, 1.8))
            image += member * spots * float(rng.uniform(12, 38))
            notes["blood"] = 1.0
        notes["hu_drop"] = drop
    image += float(rng.uniform(0.5, 2.5)) * smooth_noise(rng, image.shape, spacing, 25.0)[0] * (g.head > 0)  # cupping, scatter
    image = _streaks(rng, g, image, hard)
    if rng.random() < 0.45:
        image = _holder(rng, g, image)
    kernel = float(rng.uniform(0.2, 0.9))
    image = blur(image, (kernel / spacing[0], kernel / spacing[1], 0.0))
    level = float(np.exp(rng.uniform(np.log(2.0), np.log(9.0))))
    source = torch.Generator().manual_seed(int(rng.integers(2**31)))
    grain = blur(torch.randn(image.shape, generator=source), [min(0.7 / s, 1.5) for s in spacing[:2]] + [0.0])
    image += level * grain / grain.std().clamp(min=1e-6)
    notes["noise_hu"] = level
    return image.round().clamp(-1024, 3071), notes


def _streaks(rng: np.random.Generator, g: Geometry, image: torch.Tensor, hard: torch.Tensor) -> torch.Tensor:
    """Dark and bright bands between dense bones at the skull base, and rays from dental metal in some cases."""
    thick = hard.mean(0, keepdim=True).clamp(max=0.5) * 2  # how much bone the rays from side to side pass
    wave = smooth_noise(rng, (2, *image.shape[1:]), (200.0, *g.grid.spacing_mm[1:]), 5.0)[0][:1]
    image = image - float(rng.uniform(3, 22)) * thick * wave * (g.head > 0)
    if g.grid.orientation != "RAS" or rng.random() >= 0.15:
        return image
    # Metal in the mouth: the lowest slices, in front.
    count = min(image.shape[2], max(1, round(25 / g.grid.spacing_mm[2])))
    x, y = np.meshgrid(*(np.arange(n) * s for n, s in zip(image.shape[:2], g.grid.spacing_mm)), indexing="ij")
    for k in range(int(rng.integers(1, count + 1))):
        cx, cy = x.max() * rng.uniform(0.35, 0.65), y.max() * rng.uniform(0.75, 0.92)
        angle = np.arctan2(y - cy, x - cx)
        rays = np.interp(angle, np.linspace(-np.pi, np.pi, 97), rng.standard_normal(97))
        far = np.hypot(x - cx, y - cy)
        image[..., k] += torch.from_numpy((rng.uniform(60, 500) * rays * np.exp(-far / 60)).astype(np.float32))
        image[..., k][torch.from_numpy(far < 4)] = 3000.0
    return image


def _holder(rng: np.random.Generator, g: Geometry, image: torch.Tensor) -> torch.Tensor:
    """The shell that the head lies in, behind it."""
    if g.grid.orientation != "RAS":
        return image
    x, y = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(image.shape[:2], g.grid.spacing_mm)), indexing="ij")
    radius = np.hypot(x, y - rng.uniform(0, 25))
    shell = (np.abs(radius - rng.uniform(100, 118)) < rng.uniform(1.0, 2.5)) & (y < -rng.uniform(10, 50))
    where = torch.from_numpy(shell)[..., None] & (g.head == 0)
    return torch.where(where, torch.full_like(image, float(rng.uniform(-300, 200))), image)
