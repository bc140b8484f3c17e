#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Export fused volumes to 8-bit slices by one fixed window in MRI units."""

from _cli import main
from roi_fusion_tools import slices


def export_slices(results_dir: str, output_dir: str, window_mri: tuple[float, float], volume: str = "fused") -> None:
    """Write one picture a slice.

    Args:
        results_dir: folder of results.
        output_dir: folder of pictures.
        window_mri: MRI units of black and white, as 0,255.
        volume: which result volume.
    """
    pictures = slices.export_slices(results_dir, output_dir, window_mri, volume)
    print(f"{len(pictures)} pictures in {output_dir}")


if __name__ == "__main__":
    main(export_slices)
