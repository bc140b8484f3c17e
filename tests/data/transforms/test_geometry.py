# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from helpers import meta
from roi_fusion.data.grids import spacing_of
from roi_fusion.data.transforms.geometry import MatchGridd, ThickAxisLastd
from roi_fusion.data.transforms.loading import LoadVolumesd
from roi_fusion.errors import InputError

RNG = np.random.default_rng(0)


class TestMatchGrid:
    def test_a_ct_on_another_grid_is_resampled_onto_the_mri(self) -> None:
        x, y, z = np.meshgrid(np.arange(40) * 0.5 - 10, np.arange(40) * 0.5 - 10, np.arange(9) * 2.0 - 8, indexing="ij")
        fine = np.diag([0.5, 0.5, 2.0, 1.0])
        fine[:3, 3] = -10, -10, -8
        coarse = np.diag([1.0, 1.0, 4.0, 1.0])
        coarse[:3, 3] = -12, -7, -4
        ct = meta(10 * x + 3 * y + z, fine, sform_code=1)
        out = MatchGridd("ct", padding_value=-1024.0)({"image": meta(RNG.random((14, 14, 3)), coarse, sform_code=1), "ct": ct})
        assert out["ct"].shape == (1, 14, 14, 3)
        expected = 10 * (np.arange(14) - 12)[:, None, None] + 3 * (np.arange(14) - 7)[None, :, None] + (4 * np.arange(3) - 4)
        inside = np.zeros((14, 14, 3), bool)
        inside[3:, :, :] = True
        np.testing.assert_allclose(out["ct"][0].numpy()[inside], expected[inside], atol=1e-3)
        assert float(out["ct"][0, 0, 0, 0]) == -1024  # outside of the CT's field of view lies air

    def test_masks_stay_masks(self) -> None:
        mask = np.zeros((20, 20, 4))
        mask[5:12, 6:14, 1:3] = 1
        shifted = np.eye(4)
        shifted[0, 3] = 0.4
        out = MatchGridd("bone", mode="nearest")({"image": meta(RNG.random((20, 20, 4))), "bone": meta(mask, shifted)})["bone"]
        assert out.dtype == torch.uint8
        assert set(out.unique().tolist()) == {0, 1}

    def test_the_same_grid_is_left_alone(self) -> None:
        ct = meta(RNG.random((6, 6, 2)))
        assert MatchGridd("ct")({"image": meta(RNG.random((6, 6, 2))), "ct": ct})["ct"] is ct
        rounded = np.eye(4) + 1e-5 * RNG.standard_normal((4, 4)) * [[1], [1], [1], [0]]
        ct = meta(RNG.random((6, 6, 2)), rounded)
        assert MatchGridd("ct")({"image": meta(RNG.random((6, 6, 2))), "ct": ct})["ct"] is ct

    def test_spacings_that_add_up_to_millimetres_are_another_grid(self) -> None:
        x = np.arange(512.0)[:, None, None] * np.ones((1, 4, 3))
        ct, wide = meta(x, np.diag([0.4598, 1, 1, 1])), np.diag([0.45, 1, 1, 1])  # 5 mm apart at the last voxel
        out = MatchGridd("ct")({"image": meta(RNG.random((512, 4, 3)), wide), "ct": ct})["ct"]
        assert float(out[0, 500, 2, 1]) == pytest.approx(500 * 0.45 / 0.4598, abs=0.01)

    def test_the_outermost_slice_is_no_mixture_with_air(self) -> None:
        shifted = np.diag([1.0, 1.0, 6.0, 1.0])
        shifted[2, 3] = 2.4  # four tenths of a slice
        image = meta(RNG.random((8, 8, 4)), np.diag([1.0, 1.0, 6.0, 1.0]))
        ct = meta(np.full((8, 8, 4), 40.0), shifted)
        out = MatchGridd("ct", padding_value=-1024.0)({"image": image, "ct": ct})["ct"]
        assert out.unique().tolist() == [40.0]

    def test_thin_slices_are_averaged_and_not_skipped(self) -> None:
        noise = np.random.default_rng(3).normal(0, 10, (32, 32, 60))
        image = meta(RNG.random((32, 32, 10)), np.diag([1.0, 1.0, 6.0, 1.0]))
        out = MatchGridd("ct")({"image": image, "ct": meta(noise)})["ct"]
        assert float(out[..., 1:9].std()) < 5

    def test_no_overlap_and_no_orientation_are_refused(self) -> None:
        far = np.eye(4)
        far[0, 3] = 500
        data = {
            "image": meta(RNG.random((8, 8, 3)), filename_or_obj="m.nii"),
            "ct": meta(RNG.random((8, 8, 3)), far, filename_or_obj="c.nii"),
        }
        with pytest.raises(InputError, match=r"c\.nii: expected a field of view that overlaps m\.nii, got an overlap of 0 %"):
            MatchGridd("ct")(data)
        data["ct"] = meta(RNG.random((9, 8, 3)), filename_or_obj="c.nii", sform_code=0, qform_code=0)
        with pytest.raises(InputError, match=r"c\.nii: expected an orientation .*\(9, 8, 3\) and \(8, 8, 3\)\), got none"):
            MatchGridd("ct")(data)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR", "SPL", "PIR", "RSA", "IRP"])
@pytest.mark.parametrize("thick", [0, 1, 2])
def test_the_slice_axis_comes_last_and_goes_back(codes: str, thick: int, tmp_path: Path) -> None:
    shape = [12, 10, 8]
    shape[thick] = 3
    zooms = [0.9, 0.9, 0.9]
    zooms[thick] = 6.0
    signs = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(codes):
        row, sign = signs[code]
        affine[row, axis] = sign * zooms[axis]
    angle = np.deg2rad(12)  # oblique
    affine[:3, :3] = (
        np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]) @ affine[:3, :3]
    )
    array = np.random.default_rng(0).random(shape).astype(np.float32)
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "v.nii.gz")
    transform = Compose([LoadVolumesd("image"), ThickAxisLastd("image")])
    out = transform({"image": str(tmp_path / "v.nii.gz")})
    assert out["image"].shape[-1] == 3
    assert spacing_of(out["image"])[-1] == pytest.approx(6.0, abs=1e-4)
    axes = nib.aff2axcodes(np.asarray(out["image"].affine))
    assert set(axes) <= set("RAS")  # no axis runs backwards
    out["pred"] = MetaTensor(out["image"].clone(), meta=out["image"].meta)
    back = Invertd("pred", orig_keys="image", transform=transform, nearest_interp=False)(out)["pred"]
    assert back.shape[1:] == tuple(shape)
    np.testing.assert_array_equal(back[0].numpy(), array)
    np.testing.assert_allclose(np.asarray(back.affine), affine, atol=1e-5)


def test_threads_that_share_it_do_not_take_each_others_orientation() -> None:
    transform = ThickAxisLastd("image")
    volumes = [meta(np.zeros((6, 6, 6)), np.diag([*spacing, 1.0])) for spacing in ((1, 1, 5), (1, 5, 1), (5, 1, 1))]

    def thickest(i: int) -> float:
        return spacing_of(transform({"image": volumes[i % 3]})["image"])[-1]

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(thickest, range(300))) == {5.0}


def test_equal_spacings_count_as_axial() -> None:
    assert ThickAxisLastd.axcodes(meta(np.zeros((4, 4, 4)), np.diag([1.0, 1.0, 1.0, 1.0]))) == "RAS"
