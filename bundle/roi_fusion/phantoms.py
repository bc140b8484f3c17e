# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Registered MRI and head CT pairs made from the MNI152 brain, with known brain, bone and lesion masks.

A case is drawn in four steps: an anatomy (MNI grey and white matter under a random affine and a smooth warp, wrapped in
CSF, a three-layered skull of varying thickness, scalp, face and neck), its tissue shares on the patient's grid (thick
slices average several thin ones, so that partial volume is right), and from these the MRI signal and the CT numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from tqdm import tqdm

from .errors import InputError
from .lesions import MNI_BOX, Lesion, PackedLesions, procedural_lesion

__all__ = ["CONTRASTS", "Phantom", "PhantomConfig", "draw_phantom", "make_phantoms", "mni_tissue", "write_phantoms"]

CONTRASTS = ("adc", "dwi", "flair", "t2", "t1")

TISSUES = ("grey", "white", "csf", "cortical_bone", "diploe", "soft", "fat", "eye", "cavity", "air", "blood", "calcium")
_HU = dict(zip(TISSUES, (37.0, 29.0, 8.0, 1000.0, 450.0, 45.0, -90.0, 12.0, -950.0, -1000.0, 70.0, 180.0)))
#: Relative MRI signal per tissue; ADC in 1e-6 mm²/s.
_SIGNAL: dict[str, dict[str, float]] = {
    "adc": dict(zip(TISSUES, (800, 720, 2900, 60, 150, 1300, 120, 2700, 30, 0, 500, 300))),
    "dwi": dict(zip(TISSUES, (1.0, 0.88, 0.28, 0.04, 0.10, 0.45, 0.20, 0.30, 0.02, 0, 0.5, 0.3))),
    "flair": dict(zip(TISSUES, (1.0, 0.82, 0.14, 0.05, 0.45, 0.50, 1.10, 0.15, 0.02, 0, 0.9, 0.3))),
    "t2": dict(zip(TISSUES, (1.0, 0.74, 2.20, 0.05, 0.50, 0.45, 1.20, 2.10, 0.02, 0, 0.7, 0.3))),
    "t1": dict(zip(TISSUES, (0.66, 0.90, 0.26, 0.05, 0.60, 0.60, 1.35, 0.28, 0.02, 0, 0.8, 0.5))),
}
#: Signal of lesioned tissue relative to healthy grey matter (ADC: absolute).
_LESION_SIGNAL = {"adc": (350, 550), "dwi": (1.7, 2.8), "flair": (1.35, 1.9), "t2": (1.35, 1.8), "t1": (0.62, 0.8)}


@dataclass(frozen=True)
class PhantomConfig:
    """What all cases of a data set share.

    Attributes:
        shape: voxels along x, y, z.
        spacing_mm: voxel size along x, y, z in mm.
        contrast: one of :data:`CONTRASTS`, several joined by commas, or ``"random"`` for all.
        misregistration_mm: the CT is moved by up to this many mm, and turned by up to as many degrees.
        lesion_free_share: share of cases without a lesion.
        varied_grid: each case gets a grid of its own, see :meth:`grid_of`; `shape` and `spacing_mm` then say nothing.
    """

    shape: tuple[int, int, int] = (256, 256, 26)
    spacing_mm: tuple[float, float, float] = (0.9, 0.9, 6.0)
    contrast: str = "random"
    misregistration_mm: float = 0.0
    lesion_free_share: float = 0.1
    varied_grid: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"shape: wanted three positive integers such as 256,256,26, came {self.shape}")
        if len(self.spacing_mm) != 3 or not min(self.spacing_mm) > 0:
            raise InputError(f"spacing_mm: wanted three positive lengths such as 0.9,0.9,6, came {self.spacing_mm}")
        if not self.contrasts or not set(self.contrasts) <= set(CONTRASTS):
            raise InputError(f"contrast: wanted random or some of {', '.join(CONTRASTS)}, came {self.contrast!r}")
        if not 0 <= self.lesion_free_share <= 1:
            raise InputError(f"lesion_free_share: wanted a share from 0 to 1, came {self.lesion_free_share}")
        if self.misregistration_mm < 0:
            raise InputError(f"misregistration_mm: wanted 0 or more, came {self.misregistration_mm}")

    @property
    def contrasts(self) -> tuple[str, ...]:
        """The contrasts that cases are drawn from."""
        if self.contrast == "random":
            return CONTRASTS
        parts = self.contrast if isinstance(self.contrast, (list, tuple)) else str(self.contrast).split(",")
        return tuple(str(p).strip() for p in parts)

    def grid_of(self, seed: Sequence[int]) -> PhantomConfig:
        """The configuration of one case: its own, or with a grid drawn as scanners differ.

        In plane 0.4 to 1.2 mm, slices of 3 to 7 mm, one case in eight 1 mm isotropic; the shape covers 220×225×150 mm.
        """
        if not self.varied_grid:
            return self
        rng = np.random.default_rng([*seed, len(seed)])
        isotropic = rng.random() < 0.125
        plane, slices = (round(float(rng.uniform(*limits)), 3) for limits in ((0.4, 1.2), (3.0, 7.0)))
        spacing = (1.0, 1.0, 1.0) if isotropic else (plane, plane, slices)
        shape = [round(extent / step) for extent, step in zip((220, 225, 150), spacing)]
        return replace(self, shape=(shape[0], shape[1], shape[2]), spacing_mm=spacing)


@dataclass
class Phantom:
    """One case: volumes ``[X, Y, Z]`` on one grid, and what it was made of.

    Attributes:
        mri: float32, in the contrast's units.
        ct: int16, HU.
        lesion, brain, bone: uint8 masks; lesion and brain lie on the MRI, bone on the CT.
        affine: index to RAS millimetres.
        parameters: everything drawn at random, JSON-serialisable.
    """

    mri: np.ndarray
    ct: np.ndarray
    lesion: np.ndarray
    brain: np.ndarray
    bone: np.ndarray
    affine: np.ndarray
    parameters: dict = field(default_factory=dict)


class _Field:
    """A stack of maps ``[C, X, Y, Z]`` on an axis-aligned millimetre grid, sampled linearly."""

    def __init__(self, values: np.ndarray, origin_mm: Sequence[float] | np.ndarray, step_mm: float) -> None:
        # grid_sample reads coordinates as (last axis … first axis): stored as [C, Z, Y, X] they are (x, y, z).
        self.values = torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 2, 1), dtype=np.float32))[None]
        self.origin_mm = torch.tensor([float(o) for o in origin_mm])
        self.half_extent_mm = torch.tensor([(n - 1) * float(step_mm) / 2 for n in values.shape[1:]])

    def at(self, points_mm: torch.Tensor) -> torch.Tensor:
        """Values at ``[..., 3]`` points → ``[C, ...]``; the nearest edge value outside."""
        grid = ((points_mm - self.origin_mm) / self.half_extent_mm).sub_(1).reshape(1, 1, 1, -1, 3)
        out = F.grid_sample(self.values, grid, mode="bilinear", padding_mode="border", align_corners=True)
        return out.reshape(self.values.shape[1], *points_mm.shape[:-1])

    def at_plane(self, points_mm: torch.Tensor) -> torch.Tensor:
        """As :meth:`at` for a plane grid ``[X, Y, ..., 3]`` of points, read at every fourth point: for smooth fields."""
        x, y = points_mm.shape[:2]
        coarse = self.at(_resize_plane(points_mm.movedim(-1, 0), (-(-x // 4) + 1, -(-y // 4) + 1)).movedim(0, -1))
        return _resize_plane(coarse, (x, y))


def _resize_plane(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Linear resize of the two axes behind the first, corners kept: ``[C, X, Y, ...]`` → ``[C, *size, ...]``."""
    planes = maps.flatten(3).movedim(-1, 1) if maps.ndim > 3 else maps[:, None]  # [C, rest, X, Y]
    out = F.interpolate(planes, size=size, mode="bilinear", align_corners=True)
    return out.movedim(1, -1).reshape(maps.shape[0], *size, *maps.shape[3:])


def _smooth_field(rng: np.random.Generator, channels: int, knot_mm: float, extent_mm: float = 130.0) -> _Field:
    """Smooth Gaussian noise of unit variance at its knots, cubic between knots `knot_mm` apart, over ±`extent_mm`."""
    knots = int(np.ceil(2 * extent_mm / knot_mm)) + 1
    values = rng.standard_normal((channels, knots, knots, knots)).astype(np.float32)
    if knot_mm > 12:  # linear interpolation between near knots is smooth enough
        fine = int(np.ceil(8 * extent_mm / knot_mm)) + 1
        values = np.stack([ndimage.zoom(c, fine / knots, order=3, mode="nearest") for c in values])
    return _Field(values, (-extent_mm,) * 3, 2 * extent_mm / (values.shape[1] - 1))


@lru_cache(maxsize=1)
def _template() -> tuple[_Field, _Field, np.ndarray]:
    """MNI152: (grey, white) at 1 mm; distance in mm from the brain's surface (negative inside) at 2 mm; tissue on MNI_BOX."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template

    grey_image = load_mni152_gm_template(resolution=1)
    affine = grey_image.affine
    grey, white = (im.get_fdata(dtype=np.float32) for im in (grey_image, load_mni152_wm_template(resolution=1)))
    brain = load_mni152_brain_mask(resolution=1).get_fdata() > 0
    tissue = _Field(np.stack([grey, white]), affine[:3, 3], 1.0)
    margin = 40
    coarse = ndimage.binary_closing(np.pad(brain, margin), iterations=4)[::2, ::2, ::2]
    distance = 2.0 * (ndimage.distance_transform_edt(~coarse) - ndimage.distance_transform_edt(coarse))
    shell = _Field(distance[None], affine[:3, 3] - margin, 2.0)
    box_shape, box_affine = MNI_BOX
    start = np.round(box_affine[:3, 3] - affine[:3, 3]).astype(int)
    box = tuple(slice(s, s + n) for s, n in zip(start, box_shape))
    return tissue, shell, (grey + white)[box] > 0.5


def mni_tissue() -> np.ndarray:
    """Where grey or white matter is, boolean on :data:`~roi_fusion.lesions.MNI_BOX`."""
    return _template()[2]


def _rotation(degrees: Sequence[float] | np.ndarray) -> np.ndarray:
    """Rotation about x, then y, then z."""
    a, b, c = np.deg2rad(degrees)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rz @ ry @ rx


class _Anatomy:
    """A random head: answers how much of each tissue lies at points given in patient millimetres."""

    def __init__(self, rng: np.random.Generator, lesion: Lesion | None) -> None:
        self.tissue, self.shell, _ = _template()
        self.scale = rng.uniform(0.92, 1.06, 3)
        self.tilt_degrees = rng.uniform(-8, 8, 3)
        self.shift_mm = rng.uniform([-4, -6, -6], [4, 6, 6])
        self.warp = _smooth_field(rng, 3, 32.0)
        self.warp_mm = float(rng.uniform(1.0, 3.0))
        self.thickness = _smooth_field(rng, 3, 40.0)
        self.sheets = _smooth_field(rng, 1, 11.0)
        self.csf_gap_mm = float(rng.uniform(0.8, 3.0))
        self.skull_mm = float(rng.uniform(5.0, 9.0))
        self.scalp_mm = float(rng.uniform(4.0, 9.0))
        self.sharpness = float(rng.uniform(2.0, 3.0))
        self.atrophy = float(rng.uniform(-0.5, 0.9))
        self.lesion: _Field | None = None
        if lesion is not None:
            # Half a voxel of blur only: an outline drawn on images is about this sharp.
            soft = ndimage.gaussian_filter(lesion.mask.astype(np.float32), 0.5)
            self.lesion = _Field(soft[None], MNI_BOX[1][:3, 3], 1.0)
        self.spots: list[tuple[str, np.ndarray, np.ndarray]] = []  # tissue, centre and radii in MNI mm
        if rng.random() < 0.15:
            centre = np.array([rng.choice([-1, 1]) * rng.uniform(15, 40), rng.uniform(-50, 30), rng.uniform(-5, 40)])
            self.spots.append(("blood", centre, rng.uniform(4, 14, 3)))
        if rng.random() < 0.5:
            radius = rng.uniform(1.5, 4)
            spread = radius * rng.uniform(0.7, 1.3, 3)
            self.spots += [("calcium", np.array([side * 24.0, -42, 8]), spread) for side in (-1, 1)]
        if rng.random() < 0.4:
            self.spots.append(("calcium", np.array([0.0, -27, 3]), rng.uniform(2, 4, 3)))

    def _to_mni_without_warp(self, points_mm: torch.Tensor) -> torch.Tensor:
        matrix = torch.tensor(_rotation(self.tilt_degrees) / self.scale, dtype=torch.float32)
        return points_mm @ matrix.T + torch.tensor(self.shift_mm + [0, -18, 8], dtype=torch.float32)

    def shares(self, points_mm: torch.Tensor, blur_mm: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Tissue shares ``[12, X, Y]`` (they sum to 1) and the lesioned part of (grey, white) ``[2, X, Y]`` of one slice.

        Args:
            points_mm: ``[X, Y, thin, 3]`` in patient millimetres; the planes of a thick slice are averaged.
            blur_mm: width over which a surface fades, one voxel for partial volume.
        """
        mni = self._to_mni_without_warp(points_mm)
        # Skull and scalp end 33 mm off the CSF at most; nothing beyond needs a tissue.
        reach_mm = self.csf_gap_mm + 33 + 4 * self.warp_mm
        near = self.shell.at_plane(mni)[0] * float(np.mean(self.scale)) < reach_mm
        if float(mni[..., 2].min()) < _FACE_TOP_MM:
            near |= _face(mni, blur_mm) > 0
        index = near.any(-1).flatten().nonzero()[:, 0]
        planes, thin = (points_mm.shape[0], points_mm.shape[1]), points_mm.shape[2]
        shares = torch.zeros(len(TISSUES), planes[0] * planes[1])
        shares[TISSUES.index("air")] = 1
        lesioned = torch.zeros(2, planes[0] * planes[1])
        if len(index):
            warped = mni + self.warp_mm * self.warp.at_plane(mni).movedim(0, -1)
            head = warped.flatten(0, 1)[index].flatten(0, 1)
            thickness = self.thickness.at_plane(mni).flatten(1, 2)[:, index].flatten(1)
            part = self._head_shares(head, thickness, blur_mm)
            shares[:, index] = part.reshape(-1, len(index), thin).mean(-1)
            if self.lesion is not None:
                lesioned[:, index] = (part[:2] * self.lesion.at(head)).reshape(2, len(index), thin).mean(-1)
        return shares.reshape(-1, *planes), lesioned.reshape(-1, *planes)

    def _head_shares(self, mni: torch.Tensor, thickness: torch.Tensor, blur_mm: float) -> torch.Tensor:
        distance = self.shell.at(mni)[0] * float(np.mean(self.scale))
        skull_noise, layer_noise, scalp_noise = thickness
        skull_end = self.csf_gap_mm + (self.skull_mm * (1 + 0.3 * skull_noise)).clamp(3.0, 16.0)
        table = (0.24 + 0.05 * layer_noise).clamp(0.15, 0.4) * (skull_end - self.csf_gap_mm)
        scalp = (self.scalp_mm * (1 + 0.3 * scalp_noise)).clamp(2.5, 14.0)

        def within(limit_mm: torch.Tensor | float) -> torch.Tensor:
            return ((limit_mm - distance) / blur_mm + 0.5).clamp(0, 1)

        cranial, skull = within(self.csf_gap_mm), within(skull_end)
        inner, diploe = within(self.csf_gap_mm + table), within(skull_end - table)
        out = {name: torch.zeros_like(distance) for name in TISSUES}
        out["cortical_bone"] = (inner - cranial) + (skull - diploe)
        out["diploe"] = diploe - inner
        out["fat"] = within(skull_end + scalp - 1.5) - within(skull_end + 0.45 * scalp)
        self._fill_brain(out, mni, cranial, blur_mm)
        out["soft"] = (within(skull_end + scalp) - skull - out["fat"]).clamp(min=0)
        if float(mni[:, 2].min()) < _FACE_TOP_MM:
            self._fill_face(out, mni, skull, blur_mm)
        shares = torch.stack([out[name] for name in TISSUES]).clamp(min=0)
        shares[TISSUES.index("air")] = (1 - shares.sum(0)).clamp(min=0)
        return shares / shares.sum(0, keepdim=True)

    def _fill_brain(self, out: dict[str, torch.Tensor], mni: torch.Tensor, cranial: torch.Tensor, blur_mm: float) -> None:
        """Grey, white, CSF, blood and calcium; the averaged template is sharpened so that one person's sulci appear."""
        grey, white = self.tissue.at(mni).clamp(1e-4, 1)
        logits = self.sharpness * torch.stack([grey, white, (1 - grey - white).clamp(1e-4, 1)]).log()
        logits[2] += self.atrophy
        brain = torch.softmax(logits, 0) * cranial
        for name, centre, radii in self.spots:
            spot = _ellipsoid(mni, centre, radii, blur_mm)
            out[name] = torch.maximum(out[name], spot * (cranial if name == "calcium" else brain[0] + brain[1]))
        brain = brain * (1 - (out["blood"] + out["calcium"]) / cranial.clamp(min=1e-4)).clamp(0, 1)
        out["grey"], out["white"], out["csf"] = brain

    def _fill_face(self, out: dict[str, torch.Tensor], mni: torch.Tensor, skull: torch.Tensor, blur_mm: float) -> None:
        """Face and neck below the skull: soft tissue, eyes, orbital fat, sinuses, mastoid cells, facial and petrous bone."""

        def pair(x: float, y: float, z: float, *radii: float) -> torch.Tensor:
            return torch.maximum(_ellipsoid(mni, (x, y, z), radii, blur_mm), _ellipsoid(mni, (-x, y, z), radii, blur_mm))

        face = _face(mni, blur_mm)
        rest = (torch.maximum(out["soft"] + skull + out["fat"], face) - skull - out["fat"]).clamp(min=0)
        sheet = self.sheets.at(mni)[0].abs()
        facial = _ellipsoid(mni, (0, 48, -50), (55, 42, 48), blur_mm) * (face - skull > 0.5)
        septa = ((0.16 - sheet) / 0.08 + 0.5).clamp(0, 1) * facial
        sinus = torch.maximum(
            _ellipsoid(mni, (0, 62, -48), (13, 26, 26), blur_mm), _ellipsoid(mni, (0, 74, 2), (22, 7, 11), blur_mm)
        )
        mastoid = pair(52, -36, -40, 11, 13, 13) * ((sheet - 0.35) / 0.2).clamp(0, 1)
        for name, share in (
            ("eye", pair(32, 66, -32, 11, 11, 11)),
            ("fat", pair(32, 58, -32, 17, 20, 16)),
            ("cavity", torch.maximum(sinus, mastoid)),
            ("cortical_bone", torch.maximum(septa, pair(31, -26, -36, 26, 9, 9))),
        ):
            part = rest * share
            out[name] = out[name] + part
            rest = rest - part
        out["soft"] = rest


def _ellipsoid(
    points: torch.Tensor, centre: Sequence[float] | np.ndarray, radii: Sequence[float] | np.ndarray, blur_mm: float
) -> torch.Tensor:
    """1 inside the ellipsoid, 0 outside, fading over about `blur_mm`; ``[N, 3]`` → ``[N]``."""
    square = sum(((x - float(c)) / float(r)) ** 2 for x, c, r in zip(points.unbind(-1), centre, radii))
    return ((1 - square.sqrt()) * (float(min(radii)) / blur_mm) + 0.5).clamp_(0, 1)  # type: ignore[union-attr]


#: Nothing of the face, the sinuses or the petrous bone reaches above this MNI height.
_FACE_TOP_MM = 14.0


def _face(mni: torch.Tensor, blur_mm: float) -> torch.Tensor:
    """Face and neck: soft tissue below and in front of the brain."""
    return torch.maximum(
        _ellipsoid(mni, (0, 42, -62), (62, 52, 62), blur_mm), _ellipsoid(mni, (0, -22, -112), (56, 62, 70), blur_mm)
    )


def _grid_points(shape: Sequence[int], spacing_mm: Sequence[float], index: int, thin: int) -> torch.Tensor:
    """Points of slice `index` in mm about the volume's centre, ``[X, Y, thin, 3]``: `thin` planes through the slice."""
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(shape[:2], spacing_mm[:2])]
    depth = (index - (shape[2] - 1) / 2 + (torch.arange(thin) + 0.5) / thin - 0.5) * spacing_mm[2]
    return torch.stack(torch.meshgrid(*axes, depth, indexing="ij"), -1).float()


def _render_shares(
    anatomy: _Anatomy, config: PhantomConfig, rotation: np.ndarray, shift_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tissue shares ``[12, X, Y, Z]`` and lesioned shares ``[2, X, Y, Z]`` of the head moved by a rigid transform."""
    thin = int(np.clip(round(config.spacing_mm[2] / 2.0), 1, 4))
    matrix, shift = (torch.tensor(a, dtype=torch.float32) for a in (rotation.T, shift_mm))
    slices = []
    for k in range(config.shape[2]):
        points = (_grid_points(config.shape, config.spacing_mm, k, thin) - shift) @ matrix.T
        slices.append(anatomy.shares(points, blur_mm=float(np.mean(config.spacing_mm[:2]))))
    return tuple(torch.stack(part, -1).numpy() for part in zip(*slices))  # type: ignore[return-value]


def _render_mri(
    rng: np.random.Generator, shares: np.ndarray, lesioned: np.ndarray, contrast: str, config: PhantomConfig
) -> tuple[np.ndarray, dict]:
    """MRI signal with a bias field, Rician noise and single-voxel outliers."""
    names = list(TISSUES)
    signal = np.array([_SIGNAL[contrast][t] for t in names], np.float32) * rng.uniform(0.94, 1.06, len(names)).astype(
        np.float32
    )
    grey = float(signal[0])
    lesion_signal = float(rng.uniform(*_LESION_SIGNAL[contrast])) * (1.0 if contrast == "adc" else grey)
    points = torch.cat([_grid_points(config.shape, config.spacing_mm, k, 1) for k in range(config.shape[2])], 2)
    texture = 1 + 0.03 * _smooth_field(rng, 1, 9.0).at_plane(points)[0].numpy()
    image = np.tensordot(signal, shares, 1) * texture
    mottled = lesion_signal * (1 + 0.08 * _smooth_field(rng, 1, 7.0).at_plane(points)[0].numpy())
    image += sum(lesioned[i] * (mottled - signal[i]) for i in (0, 1))
    bias_strength = 0.0 if contrast == "adc" else float(rng.uniform(0.03, 0.12))
    image *= np.exp(bias_strength * _smooth_field(rng, 1, 90.0).at_plane(points)[0].numpy())
    gain = 1.0 if contrast == "adc" else float(np.exp(rng.uniform(np.log(120), np.log(1500))))
    noise = float(rng.uniform(0.01, 0.04)) * grey
    noisy = np.hypot(image + noise * rng.standard_normal(image.shape), noise * rng.standard_normal(image.shape))
    masked = bool(contrast == "adc" and rng.random() < 0.5)
    if masked:
        noisy = noisy * (shares[names.index("air")] < 0.5)
    noisy = (noisy * gain).astype(np.float32)
    outliers = int(rng.poisson(3)) if rng.random() < 0.5 else 0
    if outliers:
        where = tuple(rng.integers(0, n, outliers) for n in noisy.shape)
        noisy[where] = noisy.max() * rng.uniform(1.2, 3.0, outliers).astype(np.float32)
    return noisy, {
        "gain": gain, "noise": noise * gain, "bias_strength": bias_strength, "background_masked": masked,
        "mri_outliers": outliers, "lesion_signal": lesion_signal * gain,
    }  # fmt: skip


def _render_ct(
    rng: np.random.Generator, shares: np.ndarray, lesioned: np.ndarray, config: PhantomConfig
) -> tuple[np.ndarray, dict]:
    """CT numbers with noise, a head holder in some cases, metal specks and out-of-range artefacts."""
    names = list(TISSUES)
    hu = np.array([_HU[t] for t in names], np.float32)
    hu[names.index("cortical_bone")] = rng.uniform(850, 1150)
    hu[names.index("diploe")] = rng.uniform(400, 650)
    hu[names.index("blood")] = rng.uniform(60, 80)
    hu[names.index("calcium")] = rng.uniform(110, 320)
    drop = float(rng.uniform(3, 14))
    image = np.tensordot(hu, shares, 1) - drop * lesioned.sum(0)
    points = torch.cat([_grid_points(config.shape, config.spacing_mm, k, 1) for k in range(config.shape[2])], 2)
    bone = shares[names.index("cortical_bone")] + shares[names.index("diploe")]
    image += (bone * 90 * _smooth_field(rng, 1, 10.0).at_plane(points)[0].numpy()).astype(np.float32)
    holder = bool(rng.random() < 0.4)
    if holder:
        x, y = points[..., 0].numpy(), points[..., 1].numpy()
        radius = np.hypot(x, y - rng.uniform(15, 25))
        shell = (np.abs(radius - rng.uniform(118, 124)) < rng.uniform(1.2, 2.5)) & (y < -20)
        image = np.where(shell & (shares[names.index("air")] > 0.9), rng.uniform(-250, 150), image)
    noise = float(rng.uniform(2.5, 5.0))
    grain = rng.standard_normal(image.shape).astype(np.float32)
    grain = ndimage.gaussian_filter(grain, (0.5, 0.5, 0))  # reconstruction kernels correlate neighbours in the plane
    image = image + noise * grain / grain.std()
    specks = int(rng.integers(1, 6)) if rng.random() < 0.2 else 0
    inside = np.argwhere(shares[names.index("soft")] > 0.5)
    if specks and len(inside):
        image[tuple(inside[rng.integers(0, len(inside), specks)].T)] = rng.uniform(2000, 3000, specks)
    artefacts = int(rng.poisson(2)) if rng.random() < 0.5 else 0
    if artefacts:
        image[tuple(rng.integers(0, n, artefacts) for n in image.shape)] = -1183
    image = np.clip(np.round(image), -1183, 3071).astype(np.int16)
    return image, {
        "hu_noise": noise,
        "hu_drop_in_lesion": drop,
        "head_holder": holder,
        "metal_specks": specks,
        "ct_artefacts": artefacts,
    }


def draw_phantom(config: PhantomConfig, seed: Sequence[int], lesions: PackedLesions | None = None) -> Phantom:
    """Draw one case; the same `seed`, `config` and `lesions` give the same voxels.

    Args:
        config: grid and contrast.
        seed: integers that name the case, usually ``(data set seed, case number)``.
        lesions: real masks to draw from; procedural shapes when ``None``.
    """
    config = config.grid_of(seed)
    rng = np.random.default_rng(list(seed))
    contrast = str(rng.choice(config.contrasts))
    lesion: Lesion | None = None
    if rng.random() >= config.lesion_free_share:
        if lesions is None:
            lesion = procedural_lesion(rng, mni_tissue())
        else:  # walk through a fixed shuffle of the file, so that no mask comes twice before all came once
            order = np.random.default_rng(seed[0]).permutation(len(lesions))
            lesion = lesions[int(order[seed[-1] % len(lesions)])]
    anatomy = _Anatomy(rng, lesion)
    still = (np.eye(3), np.zeros(3))
    shares, lesioned = _render_shares(anatomy, config, *still)
    direction = rng.standard_normal(3)
    shift = direction / np.linalg.norm(direction) * config.misregistration_mm * rng.random()
    angles = rng.uniform(-1, 1, 3) * config.misregistration_mm
    moved = config.misregistration_mm > 0
    ct_shares, ct_lesioned = _render_shares(anatomy, config, _rotation(angles), shift) if moved else (shares, lesioned)
    mri, mri_parameters = _render_mri(rng, shares, lesioned, contrast, config)
    ct, ct_parameters = _render_ct(rng, ct_shares, ct_lesioned, config)

    names = list(TISSUES)
    cranial = sum(shares[names.index(t)] for t in ("grey", "white", "csf", "blood", "calcium"))
    bone = ct_shares[names.index("cortical_bone")] + ct_shares[names.index("diploe")]
    tissue = shares[:2].sum(0)
    mask = (lesioned.sum(0) > 0.5 * np.maximum(tissue, 0.2)) & (tissue > 0.2)
    affine = np.diag([*config.spacing_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(config.shape) - 1) / 2)
    voxel_ml = float(np.prod(config.spacing_mm)) / 1000
    parameters = {
        "seed": [int(s) for s in seed],
        "contrast": contrast,
        "lesion": lesion.kind if lesion is not None else "none",
        "lesion_ml": round(float(mask.sum()) * voxel_ml, 4),
        "shape": list(config.shape),
        "spacing_mm": list(config.spacing_mm),
        "ct_shift_mm": (shift if moved else np.zeros(3)).tolist(),
        "ct_rotation_degrees": (angles if moved else np.zeros(3)).tolist(),
        "anatomy": {
            "scale": anatomy.scale.tolist(), "tilt_degrees": anatomy.tilt_degrees.tolist(), "warp_mm": anatomy.warp_mm,
            "skull_mm": anatomy.skull_mm, "scalp_mm": anatomy.scalp_mm, "csf_gap_mm": anatomy.csf_gap_mm,
            "atrophy": anatomy.atrophy, "spots": [name for name, *_ in anatomy.spots],
        },
        **mri_parameters,
        **ct_parameters,
    }  # fmt: skip
    as_mask = lambda m: np.asarray(m, dtype=np.uint8)  # noqa: E731
    return Phantom(mri, ct, as_mask(mask), as_mask(cranial > 0.5), as_mask(bone > 0.5), affine, parameters)


def write_phantoms(
    output_dir: str | Path,
    num_cases: int,
    config: PhantomConfig,
    *,
    lesions: PackedLesions | None = None,
    seed: int = 0,
    num_workers: int = 0,
) -> Iterator[str]:
    """Write cases as ``<output_dir>/<case>/{mri,ct,lesion_mask,brain_mask,bone_mask}.nii.gz`` and ``dataset.json``.

    A folder that an interrupted call left is completed: cases of the same seed and configuration are kept.

    Args:
        output_dir: folder to write to.
        num_cases: number of cases.
        config: grid and contrast.
        lesions: real masks to draw from; procedural shapes when ``None``.
        seed: of the data set.
        num_workers: processes that draw beside this one's; 0 draws here.

    Yields:
        The name of each case once its files are written.
    """
    if int(num_cases) != num_cases or num_cases < 1:
        raise InputError(f"num_cases: wanted a whole number of 1 or more, came {num_cases}")
    if seed < 0:
        raise InputError(f"seed: wanted a whole number of 0 or more, came {seed}")
    if int(num_workers) != num_workers or num_workers < 0:
        raise InputError(f"num_workers: wanted 0 or more, came {num_workers}")
    root = Path(output_dir)
    root.mkdir(parents=True, exist_ok=True)
    shapes = "procedural" if lesions is None else f"packed {lesions.positions[0]}:{lesions.positions[-1] + 1}"
    record: dict = {"generator": "roi_fusion.phantoms", "seed": seed, "config": asdict(config), "lesions": shapes, "cases": {}}
    record = json.loads(json.dumps(record))  # as it will be read back
    listing = root / "dataset.json"
    if listing.is_file():
        found = json.loads(listing.read_text())
        if {k: v for k, v in found.items() if k != "cases"} == {k: v for k, v in record.items() if k != "cases"}:
            record["cases"] = {k: v for k, v in found["cases"].items() if (root / k / "bone_mask.nii.gz").is_file()}
    names = [f"phantom_{n:04d}" for n in range(num_cases)]
    missing = {name: (seed, n) for n, name in enumerate(names) if name not in record["cases"]}
    write = partial(_write_case, root, config, lesions)
    pool = None
    if num_workers and missing:
        pool = ProcessPoolExecutor(num_workers, get_context("spawn"), torch.set_num_threads, (1,))
    try:
        results = (pool.map if pool else map)(write, missing.keys(), missing.values())
        for name in names:
            if name in missing:
                record["cases"][name] = next(results)
                listing.write_text(json.dumps(record, indent=2))
            yield name
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def make_phantoms(output_dir: str | Path, num_cases: int, config: PhantomConfig, **how: Any) -> None:
    """:func:`write_phantoms` to its end, with a progress bar."""
    cases = write_phantoms(output_dir, num_cases, config, **how)
    for _ in tqdm(cases, total=num_cases, desc=Path(output_dir).name, unit="case"):
        pass


def _write_case(
    root: Path, config: PhantomConfig, lesions: PackedLesions | None, name: str, seed: Sequence[int]
) -> dict[str, Any]:
    """Draw one case and write its volumes; returns its parameters."""
    phantom = draw_phantom(config, seed, lesions)
    folder = root / name
    folder.mkdir(exist_ok=True)
    volumes = {
        "mri": phantom.mri, "ct": phantom.ct, "lesion_mask": phantom.lesion,
        "brain_mask": phantom.brain, "bone_mask": phantom.bone,
    }  # fmt: skip
    for stem, volume in volumes.items():
        image = nib.Nifti1Image(volume, phantom.affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / f"{stem}.nii.gz")
    return phantom.parameters
