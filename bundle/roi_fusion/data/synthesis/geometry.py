# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The tissue shares of a varied head on a scanner's grid: the expensive part of a synthetic case, painted several times.

The head is scaled, turned and warped; each voxel holds the share of every tissue in it, taken from points spread over its
plane and its thickness. Large lesions push their surroundings away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.transforms import create_rotate

from ...core.masks import fill_slices, largest_component
from .anatomy import Anatomy
from .fields import sample_linear
from .heads import Head, brain_box_mm
from .tissues import tissue_table

__all__ = ["Geometry", "Grid", "draw_geometry", "draw_grid"]

_TABLE = tissue_table()
_COARSE_MM = 6.0  # between knots of the coarse grid on which smooth maps are kept
_ORIENTATIONS = {"RAS": (0, 1, 2), "RSA": (0, 2, 1), "ASR": (1, 2, 0)}


@dataclass(frozen=True)
class Grid:
    """A scanner's grid in working order: the slice axis last.

    Attributes:
        shape: voxels along the array axes.
        spacing_mm: voxel size along the array axes.
        orientation: ``RAS`` for axial, ``RSA`` for coronal, ``ASR`` for sagittal slices.
        centre_mm: centre of the field of view relative to the brain's centre, to the right, to the front and up.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str = "RAS"
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def affine(self) -> np.ndarray:
        """Index to RAS millimetres, ``[4, 4]``."""
        affine = np.zeros((4, 4))
        for axis, world in enumerate(_ORIENTATIONS[self.orientation]):
            affine[world, axis] = self.spacing_mm[axis]
        affine[:3, 3] = np.array(self.centre_mm) - affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        affine[3, 3] = 1
        return affine


@dataclass
class Geometry:
    """Tissue shares of one head on one grid; all volumes are ``[X, Y, Z]``.

    Attributes:
        grid: of the volumes.
        present: tissue indices that occur.
        shares: of those, uint8 ``[P, X, Y, Z]``, 255 for the whole voxel.
        lesion: share of the brain tissue that is lesioned, uint8.
        truth, brain, bone, head: masks, uint8.
        interest: 1 where look-alikes are, 2 in the lesion, 3 in other brain, 0 elsewhere, uint8.
        near_air: closeness to sinuses and mastoid cells, 0…1, on the coarse grid.
        sided: distance from the midplane, depth and height in units of 100 mm on the coarse grid, ``[3, x, y, z]``.
        notes: what was drawn.
    """

    grid: Grid
    present: np.ndarray
    shares: torch.Tensor
    lesion: torch.Tensor
    truth: torch.Tensor
    brain: torch.Tensor
    bone: torch.Tensor
    head: torch.Tensor
    interest: torch.Tensor
    near_air: torch.Tensor
    sided: torch.Tensor
    lesion_ml: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)

    def share(self, *names: str) -> torch.Tensor:
        """Share 0…1 of some tissues together, float32 ``[X, Y, Z]``."""
        expected = [i for i, k in enumerate(self.present) if _TABLE.names[k] in names]
        if not expected:
            return torch.zeros(self.shares.shape[1:])
        return sum(self.shares[i].float() for i in expected) / 255  # type: ignore[return-value]

    def share_of_groups(self, *groups: str) -> torch.Tensor:
        """Share 0…1 of all tissues of some groups, float32 ``[X, Y, Z]``."""
        return self.share(*(n for n, g in zip(_TABLE.names, _TABLE.groups) if g in groups))


def draw_grid(rng: np.random.Generator, anatomy: Anatomy, largest_voxels: int = 1_600_000) -> Grid:
    """A grid as scanners have them: 0.4 to 2.4 mm in plane, slices of 1 to 9 mm, mostly axial.

    A grid of more than `largest_voxels` is cut along the slice axis, around the lesion where there is one.
    """
    kind = rng.random()
    if kind < 0.2:  # isotropic
        step = float(rng.uniform(0.9, 2.2))
        spacing = (step, step, step)
    elif kind < 0.45:  # diffusion
        plane = float(rng.uniform(1.2, 2.4))
        spacing = (plane, plane, float(rng.uniform(max(2.0, plane), 7.0)))
    else:
        plane = float(np.exp(rng.uniform(np.log(0.42), np.log(1.3))))
        spacing = (plane, plane, float(np.clip(rng.normal(5.0, 1.5), 1.0, 9.0)))
        spacing = (plane, plane, max(spacing[2], plane))
    orientation = "RAS" if rng.random() < 0.85 else str(rng.choice(["RSA", "ASR"]))
    head = anatomy.head
    low, high = brain_box_mm(head.brain, head.voxel_mm)
    # Whole head in plane; along the slices from the vertex to the skull base or further down.
    extent = np.array([170.0, 215.0, 175.0]) if rng.random() < 0.7 else np.array([150.0, 190.0, 145.0])
    centre = rng.normal(0, 4, 3) + np.array([0.0, 5.0, float(rng.uniform(-18, 4))])
    order = _ORIENTATIONS[orientation]
    expected = [max(8, round(float(extent[w]) / s)) for w, s in zip(order, spacing)]
    fitting = max(8, int(largest_voxels / (expected[0] * expected[1])))
    if expected[2] > fitting or rng.random() < 0.15:
        slices = max(4, min(expected[2], fitting))
        if expected[2] <= fitting:
            slices = max(4, int(expected[2] * rng.uniform(0.4, 0.9)))
        room = (expected[2] - slices) * spacing[2] / 2
        world = order[2]
        middle = float(rng.uniform(-room, room))
        if anatomy.lesion is not None:
            at = float(anatomy.lesion_centre[world] * head.voxel_mm[world] - (low + high)[world] / 2)
            middle = at - float(centre[world]) + float(rng.uniform(-0.3, 0.3)) * slices * spacing[2]
        centre[world] += float(np.clip(middle, -room, room))
        expected[2] = slices
    return Grid((expected[0], expected[1], expected[2]), spacing, orientation, tuple(float(c) for c in centre))  # type: ignore[arg-type]


def draw_geometry(rng: np.random.Generator, anatomy: Anatomy, grid: Grid | None = None) -> Geometry:
    """Sample a varied head on a grid.

    Args:
        rng: source of randomness.
        anatomy: from :func:`~.anatomy.draw_anatomy`.
        grid: drawn when None.
    """
    grid = draw_grid(rng, anatomy) if grid is None else grid
    head = anatomy.head
    index = _coarse_index(rng, anatomy, grid)  # head voxels at the coarse knots, [3, x, y, z]
    shares, lesion = _sample(anatomy, grid, index)
    present = np.flatnonzero(shares.reshape(shares.shape[0], -1).any(1))
    out = Geometry(
        grid=grid,
        present=present,
        shares=shares[present],
        lesion=lesion,
        truth=lesion,
        brain=lesion,
        bone=lesion,
        head=lesion,
        interest=lesion,
        near_air=_near_air(head, index),
        sided=_sided(head, index),
        notes={"head": head.name, "lesion": anatomy.lesion_kind, **anatomy.notes},
    )
    _add_masks(out)
    return out


def _coarse_index(rng: np.random.Generator, anatomy: Anatomy, grid: Grid) -> torch.Tensor:
    """Where in the head, in voxels, each knot of a coarse grid over the field of view lies: affine, warp and mass effect."""
    head = anatomy.head
    low, high = brain_box_mm(head.brain, head.voxel_mm)
    middle = torch.tensor((low + high) / 2, dtype=torch.float32)
    order = _ORIENTATIONS[grid.orientation]
    knots = [max(2, round(n * s / _COARSE_MM) + 1) for n, s in zip(grid.shape, grid.spacing_mm)]
    axes = [torch.linspace(-0.5, n - 0.5, k) for n, k in zip(grid.shape, knots)]  # outer faces of the outer voxels
    along = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    points = torch.zeros(3, *knots)
    for axis, world in enumerate(order):
        points[world] = (along[axis] - (grid.shape[axis] - 1) / 2) * grid.spacing_mm[axis] + grid.centre_mm[world]
    angles = np.deg2rad(rng.normal(0, 1, 3) * np.array([9.0, 5.0, 6.0]))  # about x most: gantry tilt
    matrix = np.asarray(create_rotate(3, tuple(float(a) for a in angles)))[:3, :3]
    shear = np.eye(3) + np.triu(rng.normal(0, 0.03, (3, 3)), 1)
    scale = rng.uniform(0.9, 1.1) * rng.uniform(0.95, 1.05, 3)
    to_head = torch.tensor(matrix @ shear / scale, dtype=torch.float32)
    if rng.random() < 0.5:
        to_head[:, 0] *= -1  # mirrored
    millimetres = torch.einsum("ij,jxyz->ixyz", to_head, points) + middle.view(3, 1, 1, 1)
    from .fields import smooth_noise

    coarse_mm = [_COARSE_MM] * 3
    for knot_mm, amplitude in ((55.0, rng.uniform(1.0, 5.0)), (25.0, rng.uniform(0.3, 1.8))):
        millimetres = millimetres + float(amplitude) * smooth_noise(rng, knots, coarse_mm, knot_mm, 3)
    index = millimetres / torch.tensor(head.voxel_mm, dtype=torch.float32).view(3, 1, 1, 1)
    if anatomy.lesion is not None and anatomy.lesion_ml > 15 and rng.random() < 0.75:
        index = index - _push(rng, anatomy, index)
    return index


def _push(rng: np.random.Generator, anatomy: Anatomy, index: torch.Tensor) -> torch.Tensor:
    """Mass effect: what lies around the lesion is read from nearer to its centre, and fades towards the skull. In voxels."""
    head = anatomy.head
    centre = torch.tensor(anatomy.lesion_centre, dtype=torch.float32).view(3, 1, 1, 1)
    radius = (3000 * anatomy.lesion_ml / (4 * np.pi)) ** (1 / 3) / float(np.mean(head.voxel_mm))
    away = index - centre
    distance = away.norm(dim=0, keepdim=True)
    strength = float(rng.uniform(0.05, 0.25)) * radius
    inside = sample_linear(torch.from_numpy(head.from_skull).float()[None].clamp(max=14) / 14, index, "border")
    return (
        strength
        * inside
        * away
        / (distance + 1)
        * torch.exp(-0.5 * (distance / (1.3 * radius)) ** 2)
        * (distance / radius).clamp(max=1)
    )


def _sample(anatomy: Anatomy, grid: Grid, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares uint8 ``[K, X, Y, Z]`` and lesion map uint8 ``[X, Y, Z]``.

    Every voxel is read at 1 to 4 points in its plane and 1 to 5 along its thickness; a point spreads over the eight label
    voxels around it by its distances to them.
    """
    kinds, (nx, ny, nz) = len(_TABLE.names), grid.shape
    thin = int(np.clip(round(grid.spacing_mm[2] / 1.4), 1, 5))
    plane = 2 if grid.spacing_mm[0] > 1.25 else 1
    tissue = anatomy.tissue
    labels = torch.from_numpy(tissue.reshape(-1))
    sizes = torch.tensor(tissue.shape, dtype=torch.float32).view(3, 1)
    even = torch.from_numpy(_even(tissue).reshape(-1))
    stride = (tissue.shape[1] * tissue.shape[2], tissue.shape[2], 1)
    shares = torch.zeros(kinds, nx, ny, nz, dtype=torch.uint8)
    lesion = torch.zeros(nx, ny, nz, dtype=torch.uint8)
    lesion_box = _lesion_box(anatomy)
    base = (torch.arange(nx * ny * kinds, dtype=torch.int64)[::kinds]).view(nx, 1, ny, 1, 1)
    spots = thin * plane * plane
    base = base.expand(nx, plane, ny, plane, thin).reshape(-1)
    for k in range(nz):
        points = _slice_points(index, grid, k, plane, thin)  # [3, N]
        points = torch.minimum(points.clamp(min=0), sizes - 1.001)
        low = points.floor()
        part = points - low
        start = (low[0] * stride[0] + low[1] * stride[1] + low[2]).long()
        alone = even[start]  # all eight voxels around are of one tissue
        mixed = (~alone).nonzero()[:, 0]
        alone = alone.nonzero()[:, 0]
        keys, weight = [base[alone] + labels[start[alone]]], [torch.ones(len(alone))]
        start, part, at = start[mixed], part[:, mixed], base[mixed]
        for a in (0, 1):
            for b in (0, 1):
                plane_weight = (part[0] if a else 1 - part[0]) * (part[1] if b else 1 - part[1])
                for c in (0, 1):
                    keys.append(at + labels[start + (a * stride[0] + b * stride[1] + c)])
                    weight.append(plane_weight * (part[2] if c else 1 - part[2]))
        count = np.bincount(torch.cat(keys).numpy(), torch.cat(weight).numpy(), minlength=nx * ny * kinds)
        slab = torch.from_numpy(np.rint(count * (255 / spots)).astype(np.uint8)).view(nx, ny, kinds)
        shares[..., k] = slab.permute(2, 0, 1)
        if lesion_box is not None:
            volume, corner = lesion_box
            near = points - corner
            hit = ((near > -1) & (near < torch.tensor(volume.shape).view(3, 1))).all(0)
            if bool(hit.any()):
                soft = torch.zeros(points.shape[1])
                soft[hit] = sample_linear(volume[None], near[:, hit])[0]
                mean = soft.view(nx, plane, ny, plane, thin).mean((1, 3, 4))
                lesion[..., k] = (255 * mean).round().to(torch.uint8)
    return shares, lesion


def _even(tissue: np.ndarray) -> np.ndarray:
    """Where a voxel and its seven neighbours towards higher indices are of one tissue, boolean ``[X, Y, Z]``."""
    same = np.zeros(tissue.shape, bool)
    first = tissue[:-1, :-1, :-1]
    inner = same[:-1, :-1, :-1]
    inner[...] = True
    for a, b, c in np.ndindex(2, 2, 2):
        size = tissue.shape
        inner &= first == tissue[a : size[0] - 1 + a, b : size[1] - 1 + b, c : size[2] - 1 + c]
    return same


def _slice_points(index: torch.Tensor, grid: Grid, k: int, plane: int, thin: int) -> torch.Tensor:
    """Head voxels of the points of slice `k`, ``[3, nx·plane·ny·plane·thin]``."""
    nx, ny, nz = grid.shape
    depth = index.shape[3]
    # Positions of the thin planes on the coarse slice axis, whose knots run from face to face.
    at = (k + (torch.arange(thin) + 0.5) / thin) / nz * (depth - 1)
    low = at.floor().clamp(max=depth - 2).long()
    part = (at - low).view(1, 1, 1, -1)
    coarse = index[..., low] * (1 - part) + index[..., low + 1] * part  # [3, kx, ky, thin]
    maps = coarse.permute(0, 3, 1, 2).flatten(0, 1)[None]  # [1, 3·thin, kx, ky]
    # Cell centres of the fine plane lie inside of the faces: align_corners on a grid of twice as many points, odd ones kept.
    fine = torch.nn.functional.interpolate(
        maps, size=(2 * nx * plane + 1, 2 * ny * plane + 1), mode="bilinear", align_corners=True
    )
    fine = fine[0, :, 1::2, 1::2].reshape(3, thin, nx * plane, ny * plane)
    return fine.permute(0, 2, 3, 1).reshape(3, -1)


def _lesion_box(anatomy: Anatomy) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The part of the lesion map that is not 0, and its corner in voxels ``[3, 1]``."""
    if anatomy.lesion is None:
        return None
    found = anatomy.lesion > 0.01
    spans = []
    for axis in range(3):
        there = np.flatnonzero(found.any(tuple(a for a in range(3) if a != axis)))
        if not len(there):
            return None
        spans.append(slice(max(0, there[0] - 1), there[-1] + 2))
    volume = torch.from_numpy(np.ascontiguousarray(anatomy.lesion[tuple(spans)]))
    return volume, torch.tensor([float(s.start) for s in spans]).view(3, 1)


def _near_air(head: Head, index: torch.Tensor) -> torch.Tensor:
    from scipy import ndimage

    cavity = (head.tissue == _TABLE.index("cavity"))[::4, ::4, ::4].astype(np.float32)
    soft = ndimage.gaussian_filter(cavity, 9.0 / (4 * head.voxel_mm))
    soft = soft / max(float(soft.max()), 1e-6)
    return sample_linear(torch.from_numpy(soft)[None], index / 4, "border")[0].clamp(0, 1)


def _sided(head: Head, index: torch.Tensor) -> torch.Tensor:
    low, high = brain_box_mm(head.brain, head.voxel_mm)
    voxel = torch.tensor(head.voxel_mm, dtype=torch.float32).view(3, 1, 1, 1)
    place = index * voxel - torch.tensor((low + high) / 2, dtype=torch.float32).view(3, 1, 1, 1)
    place[0] = place[0].abs()
    return place / 100


def _add_masks(g: Geometry) -> None:
    """Truth, brain, bone, head and interest of a geometry from its shares."""
    tissue = g.share_of_groups("brain", "chronic")
    cranial = tissue + g.share_of_groups("csf", "choroid", "blood", "calcium", "cyst") + g.share("venous_sinus")
    bone = g.share_of_groups("bone") > 0.5
    brain = (cranial > 0.5) & ~bone
    lesioned = g.lesion.float() / 255  # lesion map over all of the voxel: 0 in its fluid
    truth = (lesioned > 0.5 * tissue.clamp(min=0.2)) & (tissue > 0.2)
    filled = 1 - g.share_of_groups("air") > 0.69  # -300 HU between air and skin
    head = torch.from_numpy(fill_slices(largest_component(filled.numpy())))
    alike = (g.share_of_groups("chronic", "cyst", "choroid", "blood") > 0.4) | (g.share("eye") > 0.6)
    interest = torch.where(brain & (tissue > 0.3), 3, 0)
    interest[alike] = 1
    interest[truth] = 2
    g.truth, g.brain, g.bone, g.head = (m.to(torch.uint8) for m in (truth & head, brain & head, bone & head, head))
    g.interest = (interest * head).to(torch.uint8)
    g.lesion_ml = float(truth.sum()) * float(np.prod(g.grid.spacing_mm)) / 1000
