# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from roi_fusion.data import registration
from roi_fusion.data.itk_bridge import read_transform, write_transform
from roi_fusion.data.registration import Registration, register
from roi_fusion.data.transforms.geometry import MatchGridd, RegisterToReferenced
from roi_fusion.errors import InputError
from roi_fusion_tools.phantoms.render import CONTRASTS, PhantomConfig
from unregistered import Pair, draw_pair, random_pose

itk = pytest.importorskip("itk")

#: Coarser than in the accuracy test, for speed.
MRI_COARSE = PhantomConfig((96, 96, 20), (2.4, 2.4, 7.5))
CT_COARSE = PhantomConfig((144, 144, 30), (1.6, 1.6, 5.6))


def drawn(number: int, mri: PhantomConfig = MRI_COARSE, ct: PhantomConfig = CT_COARSE) -> Pair:
    return draw_pair(number, CONTRASTS[number % 5], mri, ct, *random_pose(np.random.default_rng([5, number])))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return drawn(101)  # 29 mm at the corner


@pytest.fixture(scope="module")
def found(pair: Pair) -> Registration:
    return register(pair.mri, pair.mri_affine, pair.ct, pair.ct_affine)


def test_a_moved_pair_is_found(pair: Pair, found: Registration) -> None:
    assert pair.errors_mm(np.eye(4)).max() > 20
    assert pair.errors_mm(found.matrix).max() < 1.5
    assert found.after > 1.3 * found.before
    facts = found.facts()
    assert facts["overlap"] > 0.9
    assert facts["shift_mm"] > 2


def test_partial_coverage_with_a_sagittal_mri(pair: Pair) -> None:
    """The CT begins at two fifths of the head's height, and the MRI's slice axis comes first: neither matters."""
    kept = int(0.4 * pair.ct.shape[2])
    affine = pair.ct_affine.copy()
    affine[:3, 3] += affine[:3, 2] * kept
    mri, mri_affine = pair.mri.transpose(2, 0, 1), pair.mri_affine[:, [2, 0, 1, 3]]
    half = register(mri, mri_affine, pair.ct[..., kept:], affine)
    assert pair.errors_mm(half.matrix).max() < 2.5
    assert half.overlap < 0.75


def test_an_aligned_pair_stays(pair: Pair, found: Registration, monkeypatch: pytest.MonkeyPatch) -> None:
    near = np.eye(4)
    near[:3, 3] = (1.2, 0, 0)
    monkeypatch.setattr(registration, "_search", lambda mri, ct: np.eye(4))
    monkeypatch.setattr(registration, "_refine", lambda *a, **k: near)
    again = register(pair.mri, pair.mri_affine, pair.ct, np.linalg.inv(found.matrix) @ pair.ct_affine)
    np.testing.assert_array_equal(again.matrix, np.eye(4))
    assert again.aligned_before
    assert again.after == again.before


def test_worse_than_before_is_refused(pair: Pair, found: Registration, monkeypatch: pytest.MonkeyPatch) -> None:
    away = np.eye(4)
    away[:3, 3] = (25, 0, 0)
    monkeypatch.setattr(registration, "_search", lambda mri, ct: np.eye(4))
    monkeypatch.setattr(registration, "_refine", lambda *a, **k: away)
    with pytest.raises(InputError, match=r"registration: expected a pose better than the given one, got mutual information"):
        register(pair.mri, pair.mri_affine, pair.ct, np.linalg.inv(found.matrix) @ pair.ct_affine)


def test_no_head_is_refused(pair: Pair) -> None:
    with pytest.raises(InputError, match="CT: expected a head to register"):
        register(pair.mri, pair.mri_affine, np.full((20, 20, 5), -1000), pair.ct_affine)


def test_the_file_maps_points_as_itk_does(found: Registration, tmp_path: Path) -> None:
    for kind in ("rigid", "affine"):
        path = tmp_path / f"{kind}.tfm"
        write_transform(path, found.matrix, found.centre_mm, kind=kind)
        np.testing.assert_allclose(read_transform(path), found.matrix, atol=1e-6)
        point = np.array([12.0, -30.0, 25.0])  # RAS on the MRI
        lps = itk.transformread(str(path))[0].TransformPoint([-12.0, 30.0, 25.0])
        there = found.matrix[:3, :3] @ point + found.matrix[:3, 3]
        np.testing.assert_allclose([-lps[0], -lps[1], lps[2]], there, atol=1e-5)


def test_the_transform_moves_the_ct_and_what_lies_on_it(
    pair: Pair, found: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "register", lambda *a, **k: found)

    def volume(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
        return MetaTensor(torch.from_numpy(array.astype(np.float32))[None], affine=torch.from_numpy(affine))

    case = {
        "image": volume(pair.mri, pair.mri_affine),
        "ct": volume(pair.ct, pair.ct_affine),
        "label": volume(pair.lesion, pair.mri_affine),
        "bone": volume(pair.ct_bone, pair.ct_affine),
    }
    keys = ["ct", "label", "bone"]
    assert RegisterToReferenced(keys, enabled="false")(case)["ct"] is case["ct"]
    moved = RegisterToReferenced(keys, enabled="true")(case)
    np.testing.assert_allclose(moved["ct"].affine, np.linalg.inv(found.matrix) @ pair.ct_affine, atol=1e-6)
    np.testing.assert_allclose(moved["bone"].affine, moved["ct"].affine)
    assert moved["label"] is case["label"]
    assert moved["registration"]["mutual_information_after"] == round(found.after, 4)
    np.testing.assert_allclose(case["ct"].affine, pair.ct_affine)
    on_mri = MatchGridd(["bone"], mode="nearest")(moved)["bone"]
    overlap = np.asarray(on_mri[0] > 0) & pair.brain
    assert overlap.sum() < 0.03 * pair.brain.sum()


def test_the_transform_wants_an_orientation(pair: Pair) -> None:
    blank = MetaTensor(torch.zeros(1, 4, 4, 4), meta={"sform_code": 0, "qform_code": 0, "filename_or_obj": "x.nii.gz"})
    with pytest.raises(InputError, match=r"x\.nii\.gz: expected an orientation"):
        RegisterToReferenced("ct")({"image": blank, "ct": blank})


def accuracy(numbers: range, mri: PhantomConfig, ct: PhantomConfig) -> tuple[np.ndarray, np.ndarray]:
    """Largest corner error in mm and seconds of each pair."""
    errors, seconds = [], []
    for n in numbers:
        moved = drawn(n, mri, ct)
        start = time.perf_counter()
        matrix = register(moved.mri, moved.mri_affine, moved.ct, moved.ct_affine).matrix
        seconds.append(time.perf_counter() - start)
        errors.append(moved.errors_mm(matrix))
        print(f"{n:3d} {moved.contrast:5s} {errors[-1].max():.2f} mm {seconds[-1]:.1f} s", flush=True)
    return np.array(errors), np.array(seconds)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_pairs_at_the_grids_of_the_clinic() -> None:
    errors, seconds = accuracy(
        range(100, 120), PhantomConfig((256, 256, 26), (0.9, 0.9, 6.0)), PhantomConfig((512, 512, 34), (0.45, 0.45, 5.0))
    )
    print(f"corner error: median {np.median(errors):.2f}, worst {errors.max():.2f} mm; {np.median(seconds):.1f} s a case")
    assert np.median(errors) <= 1.0
    assert errors.max() <= 2.5
    assert np.median(seconds) <= 30
