# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import base64
import io
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from roi_fusion.report.pair_picture import pair_picture


def test_three_slices_of_both_with_the_lesion_in_the_middle(tiny_dataset: Path) -> None:
    folder = tiny_dataset / "phantom_0000"
    image = nib.load(folder / "mri.nii.gz")
    mri, ct, label = (np.asarray(nib.load(folder / f"{n}.nii.gz").dataobj, np.float32) for n in ("mri", "ct", "lesion_mask"))
    uri = pair_picture(mri, ct, image.affine, label)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"), int)
    green = (shown[..., 1] - shown[..., 0] > 40) & (shown[..., 1] - shown[..., 2] > 20)
    third = shown.shape[1] // 3
    assert green[:, third : 2 * third].sum() > 10
    assert shown[: shown.shape[0] // 2].std() > 20
    assert shown[shown.shape[0] // 2 :].std() > 20


def test_without_a_head_the_whole_grid_is_shown() -> None:
    assert pair_picture(np.zeros((8, 8, 1)), np.full((8, 8, 1), np.nan), np.eye(4)).startswith("data:image/webp;base64,")
