#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Stack numbered 8-bit CT and MR slices into cases."""

from _cli import main
from roi_fusion_tools.slices import slices_to_cases


def slices_to_case(
    ct_dir: str,
    mri_dir: str,
    output_dir: str,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 5.0),
    window_hu: tuple[float, float] = (-5.0, 80.0),
    slice_digits: int = 2,
    fill_gaps: bool = False,
) -> None:
    """Write <output_dir>/<patient>/{mri,ct}.nii.gz from pictures named by patient and slice (16003.png: patient 160, slice 3).

    Args:
        ct_dir: folder of CT pictures in a brain window.
        mri_dir: folder of MR pictures with the same names.
        output_dir: folder of cases.
        spacing_mm: of pixels and slices, as 1,1,5.
        window_hu: HU of black and white; 250 and above counts as bone, outside the head as air.
        slice_digits: how many last digits of a name count slices.
        fill_gaps: true interpolates missing slices; otherwise such a patient is refused.
    """
    for folder in slices_to_cases(
        ct_dir,
        mri_dir,
        output_dir,
        spacing_mm=spacing_mm,
        window_hu=window_hu,
        slice_digits=slice_digits,
        fill_gaps=fill_gaps,
    ):
        print(folder)


if __name__ == "__main__":
    main(slices_to_case)
