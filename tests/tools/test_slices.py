# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from helpers import slice_pictures
from roi_fusion.errors import InputError
from roi_fusion_tools.slices import best_slices, export_slices, grey_to_hu, slices_to_cases


def test_grey_becomes_hu() -> None:
    grey = np.array([0, 51, 249, 250, 255, 0])
    head = np.array([1, 1, 1, 1, 1, 0], bool)
    assert grey_to_hu(grey, head).tolist() == [-5, 12, 78, 1000, 1000, -1000]


def test_cases_are_stacked_in_order_and_in_place(tmp_path: Path) -> None:
    ct_dir, mri_dir = slice_pictures(tmp_path, {"16": range(3, 6), "200": range(4)})
    folders = slices_to_cases(ct_dir, mri_dir, tmp_path / "cases", spacing_mm=(0.9, 0.9, 6.0))
    assert [f.name for f in folders] == ["16", "200"]
    ct, mri = (nib.load(folders[0] / f"{n}.nii.gz") for n in ("ct", "mri"))
    assert ct.shape == mri.shape == (64, 64, 3)
    assert nib.aff2axcodes(ct.affine) == ("L", "P", "S")
    assert ct.header.get_zooms() == pytest.approx((0.9, 0.9, 6.0))
    array = np.asarray(ct.dataobj)
    assert [int(array[40, 32, k]) for k in range(3)] == [round(-5 + 85 * (200 + n) / 255) for n in (3, 4, 5)]
    assert array[0, 0, 0] == -1000
    assert array[32, 32 - 20, 1] == 1000  # skull in front
    assert array[32, 32 - 24, 1] == -5  # scalp: black in the window, but not air
    assert np.asarray(mri.dataobj)[32, 12, 0] == 250
    assert json.loads((folders[0] / "slices.json").read_text())["pictures"] == ["1603.png", "1604.png", "1605.png"]


def test_fused_volumes_become_pictures_by_a_fixed_window(tmp_path: Path) -> None:
    ct_dir, mri_dir = slice_pictures(tmp_path, {"16": range(3, 6)})
    case = slices_to_cases(ct_dir, mri_dir, tmp_path / "cases")[0]
    result = tmp_path / "results" / "16"
    result.mkdir(parents=True)
    mri = nib.load(case / "mri.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(mri.dataobj, np.float32) * 2 - 20, mri.affine), result / "fused.nii.gz")
    (result / "result.json").write_text(json.dumps({"mri": str(case / "mri.nii.gz")}))
    written = export_slices(tmp_path / "results", tmp_path / "out", (-20, 490))
    assert [p.name for p in written] == ["1603.png", "1604.png", "1605.png"]
    original = np.asarray(Image.open(mri_dir / "1604.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(written[1])), original)  # -20…490 maps 2·grey - 20 back to grey
    dark = export_slices(tmp_path / "results", tmp_path / "dark", (1000, 2000))
    assert np.asarray(Image.open(dark[0])).max() == 0
    share = np.full(mri.shape, np.nan, np.float32)
    share[10:20, 10:20] = 1
    nib.save(nib.Nifti1Image(share, mri.affine), result / "provenance.nii.gz")
    shown = np.asarray(Image.open(export_slices(tmp_path / "results", tmp_path / "share", (0, 1), "provenance")[0]))
    assert sorted(np.unique(shown)) == [0, 255]
    with pytest.raises(InputError, match=r"nothing\.nii\.gz: expected a result volume, found no such file"):
        export_slices(tmp_path / "results", tmp_path / "out", (0, 1), "nothing")
    with pytest.raises(InputError, match="window_mri"):
        export_slices(tmp_path / "results", tmp_path / "out", (5, 5))
    with pytest.raises(InputError, match="found none"):
        export_slices(tmp_path / "cases", tmp_path / "out", (0, 1))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    ct_dir, mri_dir = slice_pictures(tmp_path, {"16": range(3, 8)})
    (ct_dir / "1605.png").unlink()
    with pytest.raises(InputError, match="every slice of patient 16, found no slice 5"):
        slices_to_cases(ct_dir, mri_dir, tmp_path / "cases")
    case = slices_to_cases(ct_dir, mri_dir, tmp_path / "filled", fill_gaps=True)[0]
    array = np.asarray(nib.load(case / "mri.nii.gz").dataobj, float)
    np.testing.assert_allclose(array[..., 2], (array[..., 1] + array[..., 3]) / 2, atol=0.51)
    assert json.loads((case / "slices.json").read_text())["pictures"] == ["1603.png", "1604.png", None, "1606.png", "1607.png"]
    (mri_dir / "1607.png").unlink()
    with pytest.raises(InputError, match=r"1607\.png: expected an MR slice of the same name"):
        slices_to_cases(ct_dir, mri_dir, tmp_path / "cases")
    with pytest.raises(InputError, match="expected a folder of pictures"):
        slices_to_cases(tmp_path / "none", mri_dir, tmp_path / "cases")
    with pytest.raises(InputError, match="spacing_mm"):
        slices_to_cases(ct_dir, mri_dir, tmp_path / "cases", spacing_mm=(1, 0, 5))
    (ct_dir / "0_overview.png").write_text("x")
    with pytest.raises(InputError, match=r"overview\.png: expected a name of patient"):
        slices_to_cases(ct_dir, mri_dir, tmp_path / "cases")


def test_only_8_bit_pictures_are_taken(tmp_path: Path) -> None:
    ct_dir, mri_dir = slice_pictures(tmp_path, {"16": range(3, 5)})
    case = slices_to_cases(ct_dir, mri_dir, tmp_path / "grey")[0]
    expected = np.asarray(nib.load(case / "mri.nii.gz").dataobj)
    grey = Image.open(mri_dir / "1603.png")
    grey.load()
    for mode in ("LA", "P", "RGB", "RGBA"):
        grey.convert(mode).save(mri_dir / "1603.png")
        slices_to_cases(ct_dir, mri_dir, tmp_path / mode)
        np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / mode / "16" / "mri.nii.gz").dataobj), expected)
    grey.convert("1").save(mri_dir / "1603.png")
    slices_to_cases(ct_dir, mri_dir, tmp_path / "bits")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 16).save(mri_dir / "1603.png")
    with pytest.raises(InputError, match=r"1603\.png: expected an 8-bit picture, got mode I;16$"):
        slices_to_cases(ct_dir, mri_dir, tmp_path / "deep")


def test_the_limit_is_above_pasting_in_the_sum_of_both_regions_and_black_outside() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96] - 48
    radius = np.hypot(x, y)
    brain, bone, inside = radius < 28, (radius >= 30) & (radius < 36), radius < 42
    mri = np.clip(120 + 600 * gaussian_filter(rng.standard_normal((96, 96)), 2), 0, 255).astype(np.uint8)
    ct = np.where(bone, 250, np.where(brain, 110, 0)).astype(np.uint8)
    mri[~inside] = 0

    def scores(picture: np.ndarray) -> list[float]:
        found = []
        for reference, region in ((mri, brain), (ct, bone)):
            _, similarity = structural_similarity(
                picture, reference, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
            )
            found.append(float(similarity[region].mean()))
        return found

    (best,) = best_slices(*(a[None] for a in (mri, ct, brain, bone, inside)))
    paste = np.where(bone, ct, mri)
    assert not best[~inside].any()
    assert sum(scores(best)) > sum(scores(paste)) + 0.05
    assert max(sum(scores(p)) for p in (mri, ct, paste)) < sum(scores(best)) < 2
    (bony,) = best_slices(*(a[None] for a in (mri, ct, brain, bone, inside)), bone_weight=4)
    assert scores(bony)[1] > scores(best)[1]
    assert scores(bony)[0] < scores(best)[0]
