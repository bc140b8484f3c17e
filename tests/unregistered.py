# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Unregistered phantom pairs: one head, an MRI and, in another pose and on another grid, a CT; rendered, not resampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from roi_fusion.data.atlas import mni_tissue
from roi_fusion.data.atlas_head import TISSUES, Anatomy, render_shares
from roi_fusion.data.lesions import procedural_lesion
from roi_fusion_tools.phantoms.render import PhantomConfig, _render_ct, _render_mri


@dataclass
class Pair:
    """An MRI and a CT of one head. `truth` maps MRI millimetres to CT millimetres, both RAS."""

    mri: np.ndarray
    mri_affine: np.ndarray
    ct: np.ndarray
    ct_affine: np.ndarray
    truth: np.ndarray
    brain: np.ndarray  # on the MRI
    lesion: np.ndarray  # on the MRI
    ct_brain: np.ndarray
    ct_bone: np.ndarray
    contrast: str

    def corners_mm(self) -> np.ndarray:
        """Corners of the brain's bounding box on the MRI, ``[8, 3]`` in RAS millimetres."""
        where = np.argwhere(self.brain)
        box = np.stack([where.min(0), where.max(0)])
        index = np.array([[box[i, 0], box[j, 1], box[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        return index @ self.mri_affine[:3, :3].T + self.mri_affine[:3, 3]

    def errors_mm(self, matrix: np.ndarray) -> np.ndarray:
        """Target registration error of an estimated MRI-to-CT matrix at each corner."""
        points = np.c_[self.corners_mm(), np.ones(8)]
        return np.linalg.norm((points @ (matrix - self.truth).T)[:, :3], axis=1)


def random_pose(rng: np.random.Generator, shift_mm: float = 20.0, angle_degrees: float = 15.0) -> tuple[np.ndarray, np.ndarray]:
    """A rotation about a random axis by up to `angle_degrees` and a shift in a random direction by up to `shift_mm`."""
    axis, direction = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
    rotation = Rotation.from_rotvec(np.deg2rad(angle_degrees * rng.random()) * axis).as_matrix()
    return rotation, direction * shift_mm * rng.random()


def centred_affine(config: PhantomConfig, offset_mm: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    affine = np.diag([*config.spacing_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(config.shape) - 1) / 2) + offset_mm
    return affine


def draw_pair(
    seed: int,
    contrast: str,
    mri_config: PhantomConfig,
    ct_config: PhantomConfig,
    rotation: np.ndarray,
    shift_mm: np.ndarray,
    with_lesion: bool = True,
) -> Pair:
    """Draw one head twice: for the MRI where it is, for the CT turned by `rotation` about the origin and shifted."""
    rng = np.random.default_rng([77, seed])
    lesion = procedural_lesion(rng, mni_tissue()) if with_lesion else None
    anatomy = Anatomy(rng, lesion)
    shares, lesioned = render_shares(anatomy, mri_config.shape, mri_config.spacing_mm)
    ct_shares, ct_lesioned = render_shares(anatomy, ct_config.shape, ct_config.spacing_mm, rotation, shift_mm)
    mri, _ = _render_mri(rng, shares, lesioned, contrast, mri_config)
    ct, _ = _render_ct(rng, ct_shares, ct_lesioned, ct_config)
    inside = [TISSUES.index(t) for t in ("grey", "white", "csf", "blood", "calcium")]
    bone = [TISSUES.index(t) for t in ("cortical_bone", "diploe")]
    tissue = shares[:2].sum(0)
    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = rotation, shift_mm
    return Pair(
        mri=mri,
        mri_affine=centred_affine(mri_config),
        ct=ct,
        ct_affine=centred_affine(ct_config),
        truth=truth,
        brain=shares[inside].sum(0) > 0.5,
        lesion=(lesioned.sum(0) > 0.5 * np.maximum(tissue, 0.2)) & (tissue > 0.2),
        ct_brain=ct_shares[inside].sum(0) > 0.5,
        ct_bone=ct_shares[bone].sum(0) > 0.5,
        contrast=contrast,
    )
