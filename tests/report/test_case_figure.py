# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers import result_folder
from roi_fusion.errors import InputError
from roi_fusion.report.case_figure import case_figure


@pytest.mark.parametrize("codes", [("L", "P", "S"), ("R", "S", "A"), ("S", "P", "R")])
def test_any_orientation_is_drawn(codes: tuple[str, str, str], tmp_path: Path, tiny_dataset: Path) -> None:
    moved = tmp_path / "data" / "phantom_0000"
    moved.mkdir(parents=True)
    for stem in ("mri", "ct", "lesion_mask"):
        image = nib.load(tiny_dataset / "phantom_0000" / f"{stem}.nii.gz")
        change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes))
        nib.save(image.as_reoriented(change), moved / f"{stem}.nii.gz")
    folder = result_folder(tmp_path / "out", tmp_path / "data", "phantom_0000")
    figure = case_figure(folder, moved / "lesion_mask.nii.gz")
    assert len(figure.axes) == 3 * 7
    straight = case_figure(
        result_folder(tmp_path / "straight", tiny_dataset, "phantom_0000"), tiny_dataset / "phantom_0000" / "lesion_mask.nii.gz"
    )
    first, second = (np.asarray(f.axes[0].images[-1].get_array()) for f in (figure, straight))
    np.testing.assert_array_equal(first, second)  # the same patient looks the same however the file is stored


def test_the_lesions_slice_is_among_the_rows_and_outlined_in_both_colours(tmp_path: Path, tiny_dataset: Path) -> None:
    label = tiny_dataset / "phantom_0000" / "lesion_mask.nii.gz"
    mask = nib.as_closest_canonical(nib.load(label))
    largest = int(np.argmax(np.asarray(mask.dataobj).sum((0, 1))))
    folder = result_folder(tmp_path, tiny_dataset, "phantom_0000")
    axes = np.reshape(case_figure(folder, label, num_slices=1).axes, (1, 7))
    fused = np.asarray(nib.as_closest_canonical(nib.load(folder / "fused.nii.gz")).dataobj)[..., largest]
    shown = np.asarray(axes[0, 3].images[-1].get_array())
    x, y = (np.flatnonzero((fused != 0).any(a)) for a in (1, 0))
    assert shown.sum() == pytest.approx(fused.sum(), rel=1e-5)  # cropped to the head, so nothing of it is lost
    assert shown.shape >= (len(y), len(x))
    colours = [[tuple(c.get_edgecolor()[0][:3]) for c in ax.collections] for ax in axes[0]]
    assert [len(c) for c in colours] == [2, 0, 0, 2, 0, 0, 0]
    assert colours[3] == [(0.0, 1.0, 0.0), (1.0, 0.0, 0.0)]


def test_what_is_no_result_folder_is_refused(tmp_path: Path, tiny_dataset: Path) -> None:
    with pytest.raises(InputError, match=r"expected a result folder with result\.json"):
        case_figure(tmp_path)
    folder = result_folder(tmp_path, tiny_dataset, "phantom_0000")
    (folder / "fused.nii.gz").unlink()
    with pytest.raises(InputError, match=r"expected a result folder with fused\.nii\.gz, found no such file"):
        case_figure(folder)
