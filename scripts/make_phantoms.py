#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Make a data set of registered MRI and head CT phantoms with known brain, bone and lesion masks."""

from _cli import main
from roi_fusion.data.lesions import PackedLesions
from roi_fusion.errors import InputError
from roi_fusion_tools.phantoms.render import PhantomConfig
from roi_fusion_tools.phantoms.write import make_phantoms as write_data_set


def make_phantoms(
    output_dir: str,
    num_cases: int,
    shape: tuple[int, int, int] = (256, 256, 26),
    spacing_mm: tuple[float, float, float] = (0.9, 0.9, 6.0),
    contrast: str = "random",
    lesions: str = "procedural",
    lesion_ids: str | None = None,
    misregistration_mm: float = 0.0,
    varied_grid: bool = False,
    lesion_free_share: float = 0.1,
    seed: int = 0,
    num_workers: int = 0,
) -> None:
    """Write cases <output_dir>/phantom_NNNN/{mri,ct,lesion_mask,brain_mask,bone_mask}.nii.gz and dataset.json.

    Args:
        output_dir: folder to write to.
        num_cases: number of cases.
        shape: voxels along x, y, z, as 256,256,26.
        spacing_mm: voxel size along x, y, z in mm, as 0.9,0.9,6.
        contrast: adc, dwi, flair, t2, t1, several as adc,dwi to draw from, or random for all five.
        lesions: procedural, or a packed .npz file of real masks in MNI space.
        lesion_ids: FIRST:LAST, which masks of the file to draw from, as 0:800.
        misregistration_mm: move the CT by up to this many mm and turn it by up to as many degrees.
        varied_grid: a grid for each case: 0.4-1.2 mm in plane, 3-7 mm slices, one in eight 1 mm isotropic.
        lesion_free_share: share of cases without a lesion.
        seed: the same seed gives the same voxels.
        num_workers: processes to draw with; an interrupted call is completed by the same call.
    """
    if lesion_ids is not None and lesions == "procedural":
        raise InputError(f"lesion_ids: expected a packed file of --lesions to draw {lesion_ids} from, got none")
    config = PhantomConfig(
        shape=shape,
        spacing_mm=spacing_mm,
        contrast=contrast,
        misregistration_mm=misregistration_mm,
        lesion_free_share=lesion_free_share,
        varied_grid=varied_grid,
    )
    packed = None if lesions == "procedural" else PackedLesions(lesions, lesion_ids)
    write_data_set(output_dir, num_cases, config, lesions=packed, seed=seed, num_workers=num_workers)
    print(f"{num_cases} cases in {output_dir}")


if __name__ == "__main__":
    main(make_phantoms)
