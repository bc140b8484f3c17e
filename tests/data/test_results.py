# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, Invertd
from scipy.spatial.transform import Rotation

from helpers import predicted_case
from roi_fusion.data.results import RESULT_FILES, result_folders, save_case, write_volume
from roi_fusion.data.transforms.geometry import ThickAxisLastd
from roi_fusion.data.transforms.loading import LoadVolumesd
from roi_fusion.data.transforms.results import FusionResultd


def test_files_carry_the_mris_place_and_are_named_by_case(tmp_path: Path) -> None:
    affine = np.diag([-0.9, 0.9, 6.0, 1.0])
    affine[:3, 3] = 11, -22, 33
    result = FusionResultd(threshold=0.5)(predicted_case())
    for key in RESULT_FILES:
        result[key] = MetaTensor(result[key].as_tensor(), affine=affine, meta={"affine": affine, "sform_code": 1})
    for name in ("a", "b"):
        save_case(tmp_path, name, result, {"case": name})
    for key, (stem, dtype) in RESULT_FILES.items():
        image = nib.load(tmp_path / "a" / f"{stem}.nii.gz")
        assert image.get_data_dtype() == dtype
        np.testing.assert_allclose(image.affine, affine, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(image.dataobj), result[key][0].numpy().astype(dtype))
    assert json.loads((tmp_path / "b" / "result.json").read_text()) == {"case": "b"}


def _header(kind: str) -> tuple[np.ndarray, int, np.ndarray, int]:
    """sform, its code, qform and its code of an MRI."""
    plain = np.array([[-0.9, 0, 0, 20.0], [0, 0.8, 0, -13], [0, 0, 5, 3], [0, 0, 0, 1]])
    oblique, sheared, moved = plain.copy(), plain.copy(), plain.copy()
    oblique[:3, :3] = Rotation.from_euler("xyz", [10, -20, 33], degrees=True).as_matrix() @ plain[:3, :3]
    sheared[1, 2] = 1.6
    moved[:3, 3] += 12, 8, 0
    return {
        "oblique": (oblique, 1, oblique, 1),
        "left-handed": (oblique @ np.diag([-1.0, 1, 1, 1]), 1, oblique @ np.diag([-1.0, 1, 1, 1]), 1),
        "qform only": (plain, 0, oblique, 1),
        "sform only": (oblique, 2, plain, 0),
        "both, which differ": (moved, 2, plain, 1),
        "sheared, qform upright": (sheared, 1, plain, 1),
        "sheared, sform only": (sheared, 1, plain, 0),
        "neither": (plain, 0, plain, 0),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "oblique",
        "left-handed",
        "qform only",
        "sform only",
        "both, which differ",
        "sheared, qform upright",
        "sheared, sform only",
        "neither",
    ],
)
def test_every_program_puts_a_result_where_it_puts_the_mri(kind: str, tmp_path: Path) -> None:
    sform, sform_code, qform, qform_code = _header(kind)
    array = np.random.default_rng(0).random((6, 7, 5), np.float32)
    image = nib.Nifti1Image(array, None)
    image.set_qform(qform, qform_code)
    image.set_sform(sform, sform_code)
    nib.save(image, tmp_path / "mri.nii.gz")
    transform = Compose([LoadVolumesd("image"), ThickAxisLastd("image")])
    case = transform({"image": str(tmp_path / "mri.nii.gz")})
    case["pred"] = MetaTensor(case["image"].clone(), meta=case["image"].meta)
    batch = decollate_batch(list_data_collate([case]))[0]  # as an evaluation does
    pred = Invertd("pred", orig_keys="image", transform=transform, nearest_interp=False)(batch)["pred"]
    write_volume(tmp_path / "out.nii.gz", pred, np.float32)

    mri, out = nib.load(tmp_path / "mri.nii.gz"), nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asarray(out.dataobj), array)
    np.testing.assert_allclose(out.affine, mri.affine, atol=1e-5)
    for form in ("sform", "qform"):
        assert int(out.header[f"{form}_code"]) == int(mri.header[f"{form}_code"])
        own, expected = (getattr(i, f"get_{form}")(coded=False) for i in (out, mri))
        np.testing.assert_allclose(own, expected, atol=1e-5)
    itk = pytest.importorskip("itk")
    places = []
    for name in ("mri", "out"):
        try:
            seen = itk.imread(str(tmp_path / f"{name}.nii.gz"))
            direction = itk.array_from_matrix(seen.GetDirection())
            places.append(np.concatenate([direction.ravel(), np.array(seen.GetOrigin()), np.array(seen.GetSpacing())]))
        except RuntimeError:  # a sheared sform without a qform: ITK refuses the MRI and the result alike
            places.append(np.zeros(15))
    np.testing.assert_allclose(places[1], places[0], atol=1e-4)


def test_a_result_on_another_grid_does_not_carry_the_mris_matrices(tmp_path: Path) -> None:
    own, other = np.diag([1.0, 1, 5, 1]), np.diag([2.0, 2, 5, 1])
    meta = {"sform": other, "qform": other, "sform_code": 1, "qform_code": 1}
    write_volume(tmp_path / "x.nii.gz", MetaTensor(torch.ones(1, 4, 4, 3), affine=own, meta=meta), np.float32)
    image = nib.load(tmp_path / "x.nii.gz")
    for matrix in (image.affine, image.get_qform(), image.get_sform()):
        np.testing.assert_allclose(matrix, own, atol=1e-6)


def test_viewers_are_told_what_to_show(tmp_path: Path) -> None:
    for name, more in (("with", {"cal_min": 12.5, "cal_max": 300.0}), ("without", {})):
        volume = MetaTensor(torch.rand(1, 4, 4, 3), affine=torch.eye(4, dtype=torch.float64), meta=more)
        write_volume(tmp_path / f"{name}.nii.gz", volume, np.float32)
    headers = [nib.load(tmp_path / f"{name}.nii.gz").header for name in ("with", "without")]
    assert [(float(h["cal_min"]), float(h["cal_max"])) for h in headers] == [(12.5, 300.0), (0.0, 0.0)]


def test_a_folder_that_a_killed_run_left_half_is_no_result(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden", ".c.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text("{}")
    (tmp_path / "d").mkdir()
    assert [p.name for p in result_folders(tmp_path)] == [".hidden", "a", "b"]
