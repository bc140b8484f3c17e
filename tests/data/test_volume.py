# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest

from roi_fusion.data.volume import MAX_VOXELS, Volume, check_affine, check_overflow, check_size, straightened
from roi_fusion.errors import InputError

SHAPE = (40, 50, 20)


def affine(**changes: float) -> np.ndarray:
    """Voxels of 1 × 1 × 5 mm, with single numbers changed by their place: ``r0c2=1.0``."""
    out = np.diag([1.0, 1.0, 5.0, 1.0])
    for place, value in changes.items():
        out[int(place[1]), int(place[3])] = value
    return out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"r0c0": np.nan}, "affine of finite numbers"),
        ({"r1c3": np.inf}, "affine of finite numbers"),
        ({"r2c2": 0.0}, "voxels of 0.01 to 100 mm, got 1 × 1 × 0 mm"),
        ({"r0c0": 1e-6}, "voxels of 0.01 to 100 mm, got "),
        ({"r0c0": 900.0}, "voxels of 0.01 to 100 mm, got "),
        ({"r0c1": 1.0, "r1c1": 0.0}, "got 90° by the affine"),  # two columns the same: singular
        ({"r1c2": 6.0}, "lean by up to 45° .* got 50°"),
        ({"r0c0": 90.0}, "got 3600 × 50 × 100 mm at 0, 0, 0"),
        ({"r0c3": 1e6}, "at 1e\\+06, 0, 0"),
    ],
)
def test_affines_of_no_scan_are_refused(changes: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=rf"^x\.nii: expected .*{sentence}"):
        check_affine(affine(**changes), SHAPE, "x.nii")


@pytest.mark.parametrize("changes", [{}, {"r1c2": 2.0}, {"r0c0": -1.0}, {"r0c3": -2000.0}, {"r0c0": 0.05}])
def test_affines_of_scans_are_taken(changes: dict[str, float]) -> None:
    check_affine(affine(**changes), SHAPE, "x.nii")


def test_a_left_out_unit_is_named() -> None:
    with pytest.raises(InputError, match=r"got 900 × 900 × 5000 mm by the affine \(the header's unit is metre\)"):
        check_affine(np.diag([900.0, 900, 5000, 1]), SHAPE, "x.nii", "metre")


@pytest.mark.parametrize(
    ("shape", "dtype", "sentence"),
    [
        ((2, 3), "f4", "expected a 3-D volume, got shape"),
        ((2, 3, 0), "f4", "expected a 3-D volume, got shape"),
        ((2, 3, 4, 2), "f4", r"expected a 3-D volume, got shape \[2, 3, 4, 2\]"),
        ((2, 3, -4), "f4", "expected a 3-D volume"),
        ((30_000, 30_000, 1), "u1", "expected at most 268,435,456 voxels, got a header that says 30000×30000×1"),
        ((2**15, 2**15, 2**15), "u1", "got a header that says 32768×32768×32768"),
        ((2, 3, 4), "c8", "got complex voxels"),
        ((2, 3, 4), "u1,u1,u1", r"got colour \(RGB\) voxels"),
    ],
)
def test_sizes_and_types_are_judged(shape: tuple[int, ...], dtype: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_size(shape, np.dtype(dtype), "x.nii")


def test_the_largest_size_is_taken() -> None:
    check_size((1024, 1024, 256), np.dtype("i2"), "x.nii")
    check_size((512, 512, 1000), np.dtype("f4"), "x.nii")
    assert MAX_VOXELS * 4 == 2**30  # bytes as float32


def test_one_placement_stands_for_both_forms_unless_it_is_sheared() -> None:
    array = np.zeros(SHAPE, np.float32)
    plain, sheared = Volume(array, affine(), "x"), Volume(array, affine(r1c2=1.0), "x")
    assert (plain.forms["sform_code"], plain.forms["qform_code"], plain.placed) == (1, 1, True)
    assert (sheared.forms["sform_code"], sheared.forms["qform_code"]) == (1, 0)


def test_a_straightened_volume_stands_upright_and_says_so() -> None:
    array = np.full(SHAPE, -1000, np.float32)
    array[15:25, 20:30] = 500
    tilted = Volume(array, affine(r1c2=1.5), "x", "ct", ["before"])
    out = straightened(tilted)
    assert out.notes == ["before", "gantry tilt of 16.7° corrected"]
    assert out.resampled
    np.testing.assert_allclose(out.affine[:3, :3], np.diag([1.0, 1.0, 5.0]), atol=1e-9)
    np.testing.assert_array_equal(out.forms["sform"], out.affine)
    for index in ((20, 25, 0), (20, 25, 19)):  # each voxel lies where the tilted scanner saw it
        place = np.linalg.inv(out.affine) @ tilted.affine @ [*index, 1]
        assert out.array[tuple(np.round(place[:3]).astype(int))] == 500
    upright = Volume(array, affine(), "x")
    assert straightened(upright) is upright


def test_padding_does_not_count_as_overflow() -> None:
    array = np.full(SHAPE, 32_001, np.float32)
    array[0] = -32_768
    volume = Volume(array, affine(), "x")
    check_overflow(volume, np.dtype("i2"), padding=-32_768.0)
    check_overflow(volume, np.dtype("f4"))
    with pytest.raises(InputError, match="expected values that fit their 16 bits"):
        check_overflow(volume, np.dtype("i2"))
