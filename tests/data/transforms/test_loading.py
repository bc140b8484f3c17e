# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import LoadImaged

from helpers import head_ct, meta
from roi_fusion.data.transforms.loading import CheckVolumesd, CompleteCased, FillUnknownLabeld, LoadVolumesd
from roi_fusion.errors import InputError

RNG = np.random.default_rng(0)


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
            ("image", np.full((6, 6, 3), 7.0), "a.nii.gz: expected an MRI with contrast, got one constant value (7)"),
            (
                "image",
                np.array([[[1.0, np.nan], [0.0, np.inf]]]),
                "a.nii.gz: expected finite values, got an MRI with 2 NaN or infinite",
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


def test_an_unknown_label_is_marked() -> None:
    image = meta(RNG.random((6, 6, 2)))
    known = FillUnknownLabeld()({"image": image, "label": image > 0.5})
    unknown = FillUnknownLabeld()({"image": image})
    assert (known["label_known"], unknown["label_known"]) == (1.0, 0.0)
    assert unknown["label"].sum() == 0


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
