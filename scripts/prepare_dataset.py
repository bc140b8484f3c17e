#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""From what scanners, archives and challenges give to registered case folders."""

from _cli import main
from roi_fusion_tools.prepare import PrepareOptions, prepare_dataset


def prepare(
    input_dir: str,
    output_dir: str,
    layout: str = "auto",
    contrast: str = "auto",
    reference: str = "mri",
    spacing_mm: tuple[float, float, float] | None = None,
    register: bool = True,
    affine: bool = False,
    masks_dir: str | None = None,
    num_workers: int = 2,
) -> None:
    """Write <output_dir>/<case>/{mri,ct,brain_mask,bone_mask[,lesion_mask]}.nii.gz, transform.tfm, overlay.png and case.json.

    Args:
        input_dir: folder with the data; nothing in it is changed.
        output_dir: folder of cases; also gets prepare.html, prepare.json and errors.json. No finished case and no file that was
            made or changed by hand is ever removed from it.
        layout: auto, cases, pairs, bids, isles24, apis or dicom.
        contrast: which MRI to take of several: auto (the first of adc, dwi, flair, t2, t1) or one of these.
        reference: mri or ct, whose grid stays.
        spacing_mm: voxel size of the outcome, as 0.9,0.9,6; the reference's own by default.
        register: false trusts the positions in the headers.
        affine: true allows scaling and shear after the rigid registration.
        masks_dir: folder <case>/ with brain and bone masks of TotalSegmentator or SynthStrip, used instead of ours.
        num_workers: processes.
    """
    options = PrepareOptions(reference=reference, spacing_mm=spacing_mm, register=register, affine=affine)
    record = prepare_dataset(
        input_dir, output_dir, layout=layout, contrast=contrast, masks_dir=masks_dir, num_workers=num_workers, options=options
    )
    counts = record["counts"]
    flagged = sum(bool(c["flags"]) for c in record["cases"])
    parts = [*(f"{n} {status}" for status, n in counts.items()), f"{flagged} flagged"]
    parts += [f"{len(record['stale'])} stale"] if record["stale"] else []
    print(f"{', '.join(parts)}: {output_dir}")


if __name__ == "__main__":
    main(prepare)
