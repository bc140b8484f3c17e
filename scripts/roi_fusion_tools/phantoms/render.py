# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Registered MRI and head CT pairs made from the MNI152 brain, with known brain, bone and lesion masks.

A case is drawn in four steps: an anatomy (MNI grey and white matter under a random affine and a smooth warp, wrapped in
CSF, a three-layered skull of varying thickness, scalp, face and neck), its tissue shares on the patient's grid (thick
slices average several thin ones, so that partial volume is right), and from these the MRI signal and the CT numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import ndimage

from roi_fusion.data.atlas import mni_tissue
from roi_fusion.data.atlas_head import TISSUES, Anatomy, grid_points, render_shares, rotation, smooth_field
from roi_fusion.data.lesions import Lesion, PackedLesions, procedural_lesion
from roi_fusion.errors import InputError

__all__ = ["CONTRASTS", "Phantom", "PhantomConfig", "draw_phantom"]

CONTRASTS = ("adc", "dwi", "flair", "t2", "t1")


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
        lesion_signal: MRI signal of lesions relative to grey matter (ADC: absolute), lowest and highest; None for the
            contrast's own.
        csf_signal: MRI signal of CSF as in the contrast's table; None for the contrast's own.
    """

    shape: tuple[int, int, int] = (256, 256, 26)
    spacing_mm: tuple[float, float, float] = (0.9, 0.9, 6.0)
    contrast: str = "random"
    misregistration_mm: float = 0.0
    lesion_free_share: float = 0.1
    varied_grid: bool = False
    lesion_signal: tuple[float, float] | None = None
    csf_signal: float | None = None

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"shape: expected three positive integers such as 256,256,26, got {self.shape}")
        if len(self.spacing_mm) != 3 or not min(self.spacing_mm) > 0:
            raise InputError(f"spacing_mm: expected three positive lengths such as 0.9,0.9,6, got {self.spacing_mm}")
        if not self.contrasts or not set(self.contrasts) <= set(CONTRASTS):
            raise InputError(f"contrast: expected random or some of {', '.join(CONTRASTS)}, got {self.contrast!r}")
        if not 0 <= self.lesion_free_share <= 1:
            raise InputError(f"lesion_free_share: expected a share from 0 to 1, got {self.lesion_free_share}")
        if self.misregistration_mm < 0:
            raise InputError(f"misregistration_mm: expected 0 or more, got {self.misregistration_mm}")

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
        hyperdense: uint8 mask of blood and calcium, on the CT.
        affine: index to RAS millimetres.
        parameters: everything drawn at random, JSON-serialisable.
    """

    mri: np.ndarray
    ct: np.ndarray
    lesion: np.ndarray
    brain: np.ndarray
    bone: np.ndarray
    hyperdense: np.ndarray
    affine: np.ndarray
    parameters: dict = field(default_factory=dict)


def _render_mri(
    rng: np.random.Generator, shares: np.ndarray, lesioned: np.ndarray, contrast: str, config: PhantomConfig
) -> tuple[np.ndarray, dict]:
    """MRI signal with a bias field, Rician noise and single-voxel outliers."""
    names = list(TISSUES)
    table = {**_SIGNAL[contrast], **({} if config.csf_signal is None else {"csf": config.csf_signal})}
    signal = np.array([table[t] for t in names], np.float32) * rng.uniform(0.94, 1.06, len(names)).astype(np.float32)
    grey = float(signal[0])
    lesion_signal = float(rng.uniform(*(config.lesion_signal or _LESION_SIGNAL[contrast]))) * (
        1.0 if contrast == "adc" else grey
    )
    points = torch.cat([grid_points(config.shape, config.spacing_mm, k, 1) for k in range(config.shape[2])], 2)
    texture = 1 + 0.03 * smooth_field(rng, 1, 9.0).at_plane(points)[0].numpy()
    image = np.tensordot(signal, shares, 1) * texture
    mottled = lesion_signal * (1 + 0.08 * smooth_field(rng, 1, 7.0).at_plane(points)[0].numpy())
    image += sum(lesioned[i] * (mottled - signal[i]) for i in (0, 1))
    bias_strength = 0.0 if contrast == "adc" else float(rng.uniform(0.03, 0.12))
    image *= np.exp(bias_strength * smooth_field(rng, 1, 90.0).at_plane(points)[0].numpy())
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
        "gain": gain,
        "noise": noise * gain,
        "bias_strength": bias_strength,
        "background_masked": masked,
        "mri_outliers": outliers,
        "lesion_signal": lesion_signal * gain,
    }


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
    points = torch.cat([grid_points(config.shape, config.spacing_mm, k, 1) for k in range(config.shape[2])], 2)
    bone = shares[names.index("cortical_bone")] + shares[names.index("diploe")]
    image += (bone * 90 * smooth_field(rng, 1, 10.0).at_plane(points)[0].numpy()).astype(np.float32)
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
    anatomy = Anatomy(rng, lesion)
    shares, lesioned = render_shares(anatomy, config.shape, config.spacing_mm)
    direction = rng.standard_normal(3)
    shift = direction / np.linalg.norm(direction) * config.misregistration_mm * rng.random()
    angles = rng.uniform(-1, 1, 3) * config.misregistration_mm
    moved = config.misregistration_mm > 0
    pose = (rotation(angles), shift)
    ct_shares, ct_lesioned = render_shares(anatomy, config.shape, config.spacing_mm, *pose) if moved else (shares, lesioned)
    mri, mri_parameters = _render_mri(rng, shares, lesioned, contrast, config)
    ct, ct_parameters = _render_ct(rng, ct_shares, ct_lesioned, config)

    names = list(TISSUES)
    cranial = sum(shares[names.index(t)] for t in ("grey", "white", "csf", "blood", "calcium"))
    bone = ct_shares[names.index("cortical_bone")] + ct_shares[names.index("diploe")]
    dense = ct_shares[names.index("blood")] + ct_shares[names.index("calcium")]
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
            "scale": anatomy.scale.tolist(),
            "tilt_degrees": anatomy.tilt_degrees.tolist(),
            "warp_mm": anatomy.warp_mm,
            "skull_mm": anatomy.skull_mm,
            "scalp_mm": anatomy.scalp_mm,
            "csf_gap_mm": anatomy.csf_gap_mm,
            "atrophy": anatomy.atrophy,
            "spots": [name for name, *_ in anatomy.spots],
        },
        **mri_parameters,
        **ct_parameters,
    }
    as_mask = lambda m: np.asarray(m, dtype=np.uint8)  # noqa: E731
    regions = [as_mask(region > 0.5) for region in (cranial, bone, dense)]
    return Phantom(mri, ct, as_mask(mask), regions[0], regions[1], regions[2], affine, parameters)
