# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers import result_folder
from roi_fusion.errors import InputError
from roi_fusion.report.volumes import ResultVolumes, View, load_volumes, reference_beside


def marked(spacing: tuple[float, float, float] = (1.0, 1.0, 5.0)) -> ResultVolumes:
    """A head with one bright voxel to the patient's right, in front, at the top."""
    fused = np.ones((20, 24, 6), np.float32)
    fused[18, 22, 5] = 9
    nothing = dict.fromkeys(("mri", "ct", "lesion", "lesion_prob", "provenance", "uncertainty", "reference"))
    return ResultVolumes(affine=np.diag([*spacing, 1.0]), stored_shape=(20, 24, 6), stored_axes="RAS", fused=fused, **nothing)


@pytest.mark.parametrize(
    ("spacing", "axis", "row", "column", "letters"),
    [
        ((1.0, 1.0, 5.0), 2, 1, 1, "RLAP"),  # left, right, top, bottom
        ((1.0, 5.0, 1.0), 1, 0, 1, "RLSI"),
        ((5.0, 1.0, 1.0), 0, 0, 22, "PASI"),
    ],
)
def test_the_letters_name_the_side_that_is_shown(
    spacing: tuple[float, float, float], axis: int, row: int, column: int, letters: str
) -> None:
    volumes = marked(spacing)
    view = View.of(volumes)
    assert view.axis == axis
    plane = view.plane(volumes.fused, (18, 22, 5)[axis])
    assert np.argwhere(plane == 9).tolist() == [[row, column]]
    found = view.letters(volumes.affine)
    assert "".join(found[side] for side in ("left", "right", "top", "bottom")) == letters


def test_a_result_is_read_on_the_grid_of_its_mri(tmp_path: Path, tiny_dataset: Path) -> None:
    folder = result_folder(tmp_path, tiny_dataset, "phantom_0000")
    beside = reference_beside({"mri": str(tiny_dataset / "phantom_0000" / "mri.nii.gz")})
    assert beside == tiny_dataset / "phantom_0000" / "lesion_mask.nii.gz"
    volumes = load_volumes(folder, beside)
    mri = nib.as_closest_canonical(nib.load(tiny_dataset / "phantom_0000" / "mri.nii.gz"))
    np.testing.assert_allclose(volumes.affine, mri.affine)
    assert volumes.mri is not None
    np.testing.assert_array_equal(volumes.mri, np.asarray(mri.dataobj, np.float32))
    assert volumes.lesion_prob is None
    assert volumes.reference is not None
    assert set(np.unique(volumes.reference)) == {0, 1}


def test_what_is_no_result_folder_is_refused(tmp_path: Path, tiny_dataset: Path) -> None:
    with pytest.raises(InputError, match=r"expected a result folder with result\.json"):
        load_volumes(tmp_path)
    folder = result_folder(tmp_path, tiny_dataset, "phantom_0000")
    (folder / "fused.nii.gz").unlink()
    with pytest.raises(InputError, match=r"expected a result folder with fused\.nii\.gz, found no such file"):
        load_volumes(folder)
    assert reference_beside({"mri": str(tmp_path / "gone" / "mri.nii.gz")}) is None
