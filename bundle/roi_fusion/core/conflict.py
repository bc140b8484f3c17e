# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Where MRI and CT contradict each other: the CT's bone lies over what the MRI shows as brain.

It happens where the CT lies some millimetres off, and in thick slices at vertex and base, which are partly skull. Bone comes
from the CT in the fused volume, so brain that the MRI shows there is covered, and a reader has to know.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.morphology import isotropic_dilation, isotropic_erosion

from .masks import fill_slices, grow_slices

__all__ = ["CONFLICT_WARNING_ML", "brain_in_mri", "conflict_mask", "conflict_sentence"]

#: Volume in mL from which a conflict is worth a warning. On heads that lie exactly on each other noise and marrow make up to
#: 5 mL, on phantoms 2 mm and 2 degrees off up to 26 mL; less would warn of good pairs, more would be silent on a slab at the
#: vertex.
CONFLICT_WARNING_ML = 20.0

#: How far from the CT's brain the MRI's may lie in plane, in mm: pairs that are farther off are refused, and there lies scalp.
_REACH_MM = 6.0

#: Brain at least this far from the CT's bone, in mm, shows how bright the MRI's brain is.
_SURE_MM = 4.0

#: Half the thickness of what partial volume explains: the rim of bone is brain by half in both images.
_RIM_MM = 1.0

#: The voxel itself and those in the neighbouring slices.
_ALONG_SLICES = np.ones((1, 1, 3), bool)

#: CT number of tissue without bone; above it the share of bone in a voxel rises to 1 at the densest bone.
_TISSUE_HU = 40.0


def brain_in_mri(
    mri: np.ndarray,
    ct_hu: np.ndarray,
    brain: np.ndarray,
    bone: np.ndarray,
    spacing_mm: Sequence[float],
    reach_mm: float = _REACH_MM,
) -> np.ndarray:
    """The brain as the MRI shows it: the CT's, continued into the CT's bone where the MRI is too bright for bone.

    Bone is dark in every MRI. A voxel that is bone by a share s in the CT may hold 1 - s of tissue or fluid, so its MRI may
    rise by that share of the way from bone to the brain's brightest without any contradiction. What lies above this by half
    of the way from bone to brain, and hangs together with the brain in the same or a neighbouring slice, is taken for brain.
    Fluid counts where it is bright (ADC, T2). Marrow as bright as brain (T1) hides brain beneath it: its share of bone is low.

    Args:
        mri: MRI in any units, ``[X, Y, Z]``.
        ct_hu: CT in HU, same shape.
        brain: boolean mask of the CT's brain, same shape.
        bone: boolean mask of the CT's bone, same shape.
        spacing_mm: voxel size along the array axes, in mm.
        reach_mm: how far from the CT's brain the MRI's may lie in a slice, in mm.

    Returns:
        Boolean mask of the same shape; the CT's brain with its holes filled where the MRI does not tell bone from brain.
    """
    inside = fill_slices(brain)
    sure = isotropic_erosion(inside, _SURE_MM, spacing=spacing_mm)
    sure = sure if sure.any() else inside
    if not sure.any() or not bone.any():
        return inside
    dense = max(float(np.percentile(ct_hu[bone], 90)), _TISSUE_HU + 1)
    share = np.clip((ct_hu - _TISSUE_HU) / (dense - _TISSUE_HU), 0, 1)
    solid = bone & (share > 0.8)
    if not solid.any():  # a mask of bone over numbers of no bone
        return inside
    # A quarter of the brain may be fluid or lesion, and three quarters of the bone may be covered.
    dark = float(np.percentile(mri[solid], 25))
    bright, brightest = (float(v) for v in np.percentile(mri[sure], (25, 95)))
    if not bright - dark > 0.1 * (brightest - dark) > 0:  # the MRI does not tell bone from brain
        return inside
    middle = (dark + bright) / 2
    too_bright = bone & (mri > middle + (1 - share) * (brightest - dark))
    near = ndimage.binary_dilation(inside, _ALONG_SLICES) | grow_slices(inside, reach_mm, spacing_mm)
    shown = inside & (mri > middle)  # scalp that a CT far off lays beside its own brain does not hang together with this
    return inside | ndimage.binary_propagation(shown & sure, mask=shown | (too_bright & near))


def conflict_mask(
    mri: np.ndarray, ct_hu: np.ndarray, brain: np.ndarray, bone: np.ndarray, spacing_mm: Sequence[float]
) -> np.ndarray:
    """Bone of the CT over brain of the MRI, without parts so thin that partial volume explains them.

    Args:
        mri, ct_hu, brain, bone, spacing_mm: as in :func:`brain_in_mri`.

    Returns:
        Boolean mask of the same shape.

    Example:
        >>> bone, brain = np.zeros((24, 24, 1), bool), np.zeros((24, 24, 1), bool)
        >>> bone[4:10], brain[10:20] = True, True
        >>> mri = np.zeros(bone.shape)
        >>> mri[6:20] = 400.0  # reaches four voxels below the bone
        >>> ct = np.where(bone, 1000.0, 35.0)
        >>> int(conflict_mask(mri, ct, brain, bone, (1.0, 1.0, 5.0))[:, 12, 0].sum())
        4
    """
    covered = brain_in_mri(mri, ct_hu, brain, bone, spacing_mm) & bone & ~brain
    out = np.zeros_like(covered)
    radius = max(_RIM_MM, max(spacing_mm[:2]))
    for k in np.flatnonzero(covered.any((0, 1))):
        # Beyond the edge of the image lies nothing that would thin the part.
        part = np.pad(covered[..., k], 1, mode="edge")
        core = isotropic_erosion(part, radius, spacing=spacing_mm[:2])
        out[..., k] = (isotropic_dilation(core, radius, spacing=spacing_mm[:2]) & part)[1:-1, 1:-1]
    return out


def conflict_sentence(conflict_ml: float) -> str:
    """What is said of a conflict of `conflict_ml` mL; empty below :data:`CONFLICT_WARNING_ML`."""
    if not conflict_ml >= CONFLICT_WARNING_ML:
        return ""
    return (
        f"the CT's bone lies over {conflict_ml:.0f} mL of brain that the MRI shows, and covers it in the fused volume "
        "(conflict.nii.gz): the images lie beside each other (--register true), or thick slices hold both"
    )
