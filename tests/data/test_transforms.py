# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, Invertd, LoadImaged
from scipy.spatial.transform import Rotation

from roi_fusion.core.intensity import IntensityMap
from roi_fusion.data.grids import left_right_axis, spacing_of
from roi_fusion.data.transforms.geometry import MatchGridd, ThickAxisLastd
from roi_fusion.data.transforms.intensity import CompandHUd
from roi_fusion.data.transforms.loading import CheckVolumesd, CompleteCased, FillUnknownLabeld, LoadVolumesd
from roi_fusion.data.transforms.masks import HeadMaskd, RoiMasksd
from roi_fusion.errors import InputError

RNG = np.random.default_rng(0)


def meta(array: np.ndarray, affine: np.ndarray | None = None, **info: object) -> MetaTensor:
    volume = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(array))[None].float(), affine=np.eye(4) if affine is None else affine
    )
    volume.meta.update(info)
    return volume


def head_ct(shape: tuple[int, int, int] = (24, 24, 5)) -> np.ndarray:
    ct = np.full(shape, -1000.0)
    ct[4:20, 4:20] = 900
    ct[6:18, 6:18] = np.random.default_rng(0).normal(35, 3, (12, 12, shape[2]))
    return ct


class TestCompleteCase:
    def test_a_ct_beside_the_mri_is_found(self, tmp_path: Path) -> None:
        for name in ("a_mri.nii.gz", "a_ct.nii.gz"):
            (tmp_path / name).touch()
        out = CompleteCased()({"image": str(tmp_path / "a_mri.nii.gz")})
        assert out["ct"] == out["ct_file"] == str(tmp_path / "a_ct.nii.gz")
        assert out["case"] == "a"
        (tmp_path / "p7").mkdir()
        for name in ("mri.nii", "ct.nii"):
            (tmp_path / "p7" / name).touch()
        assert CompleteCased()({"image": str(tmp_path / "p7" / "mri.nii")})["case"] == "p7"

    def test_a_folder_without_volume_files_is_a_dicom_series(self, tmp_path: Path) -> None:
        (tmp_path / "MR").mkdir()
        (tmp_path / "MR" / "IM1").touch()
        out = CompleteCased()({"image": str(tmp_path / "MR"), "ct": str(tmp_path / "CT")})
        assert (out["case"], out["image"], out["ct"]) == ("MR", str(tmp_path / "MR"), str(tmp_path / "CT"))
        with pytest.raises(InputError, match="expected a CT beside it"):
            CompleteCased()({"image": str(tmp_path / "MR")})

    def test_names_may_have_dots(self, tmp_path: Path) -> None:
        for name in ("1.2.840_mri.nii.gz", "1.2.840_ct.nii.gz", "1.2.841.mha", "ct.mha", "a.B_mri.mgz", "a.B_ct.mgz"):
            (tmp_path / name).touch()
        out = CompleteCased()({"image": str(tmp_path / "1.2.840_mri.nii.gz")})
        assert (out["case"], out["ct"]) == ("1.2.840", str(tmp_path / "1.2.840_ct.nii.gz"))
        assert CompleteCased()({"image": str(tmp_path / "1.2.841.mha"), "ct": str(tmp_path / "ct.mha")})["case"] == "1.2.841"
        out = CompleteCased()({"image": str(tmp_path / "a.B_mri.mgz")})  # whatever ending a reader takes
        assert (out["case"], out["ct"]) == ("a.B", str(tmp_path / "a.B_ct.mgz"))
        alone = CompleteCased(allow_missing=True)({"image": None, "ct": str(tmp_path / "1.2.840_ct.nii.gz")})
        assert alone["case"] == "1.2.840"

    def test_what_is_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"a_mri\.nii\.gz: expected its CT at .*a_ct\.nii\.gz, found no such file"):
            CompleteCased()({"image": str(tmp_path / "a_mri.nii.gz")})
        with pytest.raises(InputError, match="only files named"):
            CompleteCased()({"image": str(tmp_path / "flair.nii.gz")})
        with pytest.raises(InputError, match=r"expected mri\.nii\.gz and ct\.nii\.gz, found no mri\.nii\.gz and ct\.nii\.gz"):
            CompleteCased()({"case": "x", "folder": str(tmp_path)})


class TestCheckVolumes:
    good: ClassVar = {"image": meta(np.random.default_rng(1).random((24, 24, 5))), "ct": meta(head_ct())}

    def test_good_volumes_pass(self) -> None:
        label = np.zeros((24, 24, 5))
        out = CheckVolumesd(("image", "ct", "label"))({**self.good, "label": meta(label)})
        assert out["label"].dtype == torch.uint8
        label[3:5] = 255
        assert CheckVolumesd("label")({"label": meta(label)})["label"].max() == 1

    @pytest.mark.parametrize(
        ("key", "array", "sentence"),
        [
            ("image", np.full((6, 6, 3), 7.0), "a.nii.gz: expected a MRI with contrast, got one constant value (7)"),
            (
                "image",
                np.array([[[1.0, np.nan], [0.0, np.inf]]]),
                "a.nii.gz: expected finite values, got a MRI with 2 NaN or infinite",
            ),
            ("ct", np.linspace(0, 1, 8).reshape(2, 2, 2), "CT in HU (air near -1000, bone above 300), got values from 0 to 1"),
            ("ct", np.linspace(0, 4095, 8).reshape(2, 2, 2), "got values from 0 to 4095"),
            ("ct", np.linspace(-1, 1.5, 8).reshape(2, 2, 2), "got values from -1 to 1.5"),
            ("label", np.linspace(0, 1, 8).reshape(2, 2, 2), "expected a lesion mask of 0 and 1, got values 0, 0.14"),
            ("brain", np.zeros((4, 4, 2)), "expected at least one voxel in the brain mask, got an empty one"),
            ("bone", np.zeros((4, 4, 2)), "expected at least one voxel in the bone mask"),
        ],
    )
    def test_bad_ones_are_refused_in_one_sentence(self, key: str, array: np.ndarray, sentence: str) -> None:
        with pytest.raises(InputError) as e:
            CheckVolumesd(key)({key: meta(array, filename_or_obj="a.nii.gz")})
        assert str(e.value).startswith("a.nii.gz: ")
        assert sentence in str(e.value)
        assert "\n" not in str(e.value)

    def test_four_and_two_dimensions_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"expected a 3-D MRI, got shape \[4, 4, 2, 3\]"):
            CheckVolumesd("image")({"image": MetaTensor(torch.rand(3, 4, 4, 2))})
        with pytest.raises(InputError, match=r"expected a 3-D CT, got shape \[4, 4\]"):
            CheckVolumesd("ct")({"ct": MetaTensor(torch.rand(1, 4, 4))})

    def test_an_empty_lesion_mask_is_a_brain_without_lesion(self) -> None:
        assert CheckVolumesd("label")({"label": meta(np.zeros((4, 4, 2)))})["label"].sum() == 0


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


def test_head_and_regions_are_added() -> None:
    data = {"image": meta(RNG.random((24, 24, 5))), "ct": meta(head_ct())}
    out = RoiMasksd()(HeadMaskd()(data))
    assert set(out) == {"image", "ct", "head", "bone", "brain", "dense", "bone_known", "brain_known"}
    assert out["brain_known"] == out["bone_known"] == 0
    assert all(out[k].dtype == torch.uint8 and out[k].shape == (1, 24, 24, 5) for k in ("head", "bone", "brain", "dense"))
    assert out["brain"][0, 12, 12, 2] == 1
    assert out["bone"][0, 5, 12, 2] == 1
    given = torch.zeros(1, 24, 24, 5)
    given[:, 8:16, 8:16] = 1
    kept = RoiMasksd()({**HeadMaskd()(data), "brain": MetaTensor(given)})
    assert torch.equal(kept["brain"].float().as_tensor(), given)
    assert (kept["brain_known"], kept["bone_known"]) == (1, 0)


def test_no_head_and_no_brain_are_refused() -> None:
    air = np.full((24, 24, 5), -1000.0)
    with pytest.raises(InputError, match="expected a head, got 0 voxels"):
        HeadMaskd()({"image": meta(RNG.random((24, 24, 5))), "ct": meta(air)})
    block = air.copy()
    block[4:20, 4:20] = 900
    with pytest.raises(InputError, match="expected a brain inside the skull"):
        RoiMasksd()(HeadMaskd()({"image": meta(RNG.random((24, 24, 5))), "ct": meta(block)}))


def test_companding_points_must_rise() -> None:
    with pytest.raises(InputError, match="two rising lists of one length"):
        CompandHUd("ct", hu_points=[0, 100, 50], scaled_points=[0.1, 0.2, 0.3])
    with pytest.raises(InputError, match="two rising lists of one length"):
        CompandHUd("ct", hu_points=[0, 100], scaled_points=[0.1])


def test_an_unknown_label_is_marked() -> None:
    image = meta(RNG.random((6, 6, 2)))
    known = FillUnknownLabeld()({"image": image, "label": image > 0.5})
    unknown = FillUnknownLabeld()({"image": image})
    assert (known["label_known"], unknown["label_known"]) == (1.0, 0.0)
    assert unknown["label"].sum() == 0


@pytest.mark.parametrize("kind", ["noisy air", "Rician background", "bright lesion", "outliers"])
def test_both_volumes_end_with_mean_0_and_deviation_1_over_the_head(kind: str, shared_preprocessing) -> None:
    rng = np.random.default_rng(0)
    ct = head_ct((48, 48, 6))
    ct[4:44, 4:44] = 900
    ct[7:41, 7:41] = rng.normal(35, 4, (34, 34, 6))
    mri = np.zeros((48, 48, 6))
    mri[4:44, 4:44] = rng.normal(400, 60, (40, 40, 6))
    if kind == "noisy air":
        ct[ct == -1000] = rng.normal(-1000, 30, (ct == -1000).sum())
    if kind == "Rician background":
        mri = np.hypot(mri + 20 * rng.standard_normal(mri.shape), 20 * rng.standard_normal(mri.shape))
    if kind == "bright lesion":
        mri[20:26, 20:26] = 1500
    if kind == "outliers":
        mri[10, 10, 2], ct[5, 5, 2] = 4547, -1183
    out = shared_preprocessing({"image": meta(mri), "ct": meta(ct)})
    head = out["head"] > 0
    for key in ("image", "ct"):
        inside = out[key][head]
        assert abs(float(inside.mean())) < 0.02
        assert abs(float(inside.std()) - 1) < 0.02
        assert bool((out[key][~head] == 0).all())
        assert float(inside.abs().max()) < 12
    ratio = float(out["image"][head].std() / out["ct"][head].std())
    assert 0.5 < ratio < 2
    if kind == "bright lesion":  # a hard clip at the 99th percentile would flatten it to the brightest tissue
        assert float(out["image"][0, :, :, :].max()) > 1.2 * float(torch.quantile(out["image"][head], 0.95))
    back = IntensityMap.from_case(out["intensity"]).normalised_to_mri_units(out["image"].as_tensor())
    cropped = (
        torch.from_numpy(mri).float()[None][:, : head.shape[1], : head.shape[2]] if head.shape[1:] == (48, 48, 6) else None
    )
    assert cropped is None or torch.allclose(back[head], cropped[head], rtol=1e-3, atol=0.5)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR", "PIR", "ALS"])
def test_the_left_right_axis_of_any_orientation(codes: str) -> None:
    oriented = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (10, 10, 10)) @ np.diag([0.5, 2.0, 6.0, 1.0])
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("xyz", (12, -9, 15), degrees=True).as_matrix()
    affine = tilt @ oriented
    (axis,) = (k for k, code in enumerate(nib.aff2axcodes(affine)) if code in "LR")
    assert left_right_axis(torch.as_tensor(affine)) == axis


class TestLoadVolumes:
    def test_voxels_place_and_names_are_those_of_the_files(self, tmp_path: Path) -> None:
        """Against MONAI's own loader, which agrees on headers that do not contradict themselves."""
        array, affine = RNG.random((9, 8, 7)).astype(np.float32), np.diag([-0.9, 0.8, 5.0, 1.0])
        nib.save(nib.Nifti1Image(array, affine), tmp_path / "x.nii.gz")
        expected = LoadImaged("image", image_only=True, ensure_channel_first=True)({"image": str(tmp_path / "x.nii.gz")})
        out = LoadVolumesd(("image", "ct"))({"image": str(tmp_path / "x.nii.gz")})
        assert set(out) == {"image", "reader_notices"}
        found, wanted = out["image"], expected["image"]
        assert torch.equal(found.as_tensor(), wanted.as_tensor())
        assert found.as_tensor().is_contiguous()
        assert torch.equal(found.affine, wanted.affine)
        assert found.meta["filename_or_obj"] == wanted.meta["filename_or_obj"]
        assert out["reader_notices"] == ""

    def test_notices_name_their_file_and_survive_a_batch(self, tmp_path: Path) -> None:
        array, affine = RNG.random((9, 8, 7)).astype(np.float32), np.diag([0.9, 0.8, 5.0, 1.0])
        cases = []
        for n, shift in enumerate((0.0, 9.0)):
            image = nib.Nifti1Image(array, affine)
            moved = affine.copy()
            moved[0, 3] = shift
            image.set_qform(moved, 1)
            nib.save(image, tmp_path / f"{n}.nii.gz")
            cases.append(LoadVolumesd("image")({"image": str(tmp_path / f"{n}.nii.gz")}))
        quiet, told = decollate_batch(list_data_collate(cases))
        assert quiet["reader_notices"] == ""
        assert (
            told["reader_notices"] == f"{tmp_path / '1.nii.gz'}: sform and qform disagree by up to 9.0 mm; the sform is taken"
        )

    def test_what_cannot_be_read_is_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none\.nii\.gz: expected a volume, found no such file"):
            LoadVolumesd("image")({"image": str(tmp_path / "none.nii.gz")})
