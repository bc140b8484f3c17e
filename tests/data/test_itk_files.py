# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raw_layouts import save
from roi_fusion.data.io import read_volume
from roi_fusion.errors import InputError

itk = pytest.importorskip("itk")

AFFINE = np.array([[-0.9, 0, 0, 20.0], [0, -0.8, 0, 13], [0, 0, 5, 3], [0, 0, 0, 1]])
ARRAY = np.random.default_rng(5).integers(-1000, 2000, (14, 16, 10)).astype(np.int16)
NAMES = ["x.mha", "x.mhd", "x.nrrd", "x.nhdr"]


def written(folder: Path, name: str, packed: bool) -> Path:
    image = itk.image_from_array(np.ascontiguousarray(ARRAY.T))
    lps = np.diag([-1.0, -1, 1, 1]) @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / spacing)))
    itk.imwrite(image, str(folder / name), compression=packed)
    return folder / name


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_voxels_and_place_are_those_of_the_nifti(name: str, packed: bool, tmp_path: Path) -> None:
    volume, nifti = read_volume(written(tmp_path, name, packed)), read_volume(save(tmp_path / "y.nii.gz", ARRAY, AFFINE))
    np.testing.assert_array_equal(volume.array, nifti.array)
    np.testing.assert_allclose(volume.affine, nifti.affine, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_voxels_that_are_cut_off_are_refused(name: str, packed: bool, tmp_path: Path) -> None:
    path = written(tmp_path, name, packed)
    data = next((p for p in sorted(tmp_path.iterdir()) if "raw" in p.suffix), path)
    data.write_bytes(data.read_bytes()[:-40])
    with pytest.raises(InputError, match="expected a readable volume, got"):
        read_volume(path)


@pytest.mark.parametrize("name", ["x.mha", "x.nrrd"])
def test_a_damaged_bit_is_refused(name: str, tmp_path: Path) -> None:
    """ITK returns whatever it could unpack of a damaged MHA."""
    data = written(tmp_path, name, True).read_bytes()
    start = data.find(b"LOCAL\n" if name == "x.mha" else b"\n\n") + 16
    for bit in np.random.default_rng(1).integers(8 * start, 8 * len(data), 20):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        (tmp_path / f"y{name}").write_bytes(damaged)
        with pytest.raises(InputError, match="expected a readable volume"):
            read_volume(tmp_path / f"y{name}")


def test_sizes_are_judged_before_itk_makes_room(tmp_path: Path) -> None:
    path = written(tmp_path, "x.mha", False)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 14 16 10", b"DimSize = 30000 30000 10"))
    with pytest.raises(InputError, match="got a header that says 30000×30000×10"):
        read_volume(path)


def test_colours_and_lost_voxels_are_refused(tmp_path: Path) -> None:
    rgb = itk.image_from_array(np.zeros((4, 5, 6, 3), np.uint8), is_vector=True)
    itk.imwrite(rgb, str(tmp_path / "c.mha"))
    with pytest.raises(InputError, match="expected one real number a voxel"):
        read_volume(tmp_path / "c.mha")
    path = written(tmp_path, "x.mhd", False)
    (tmp_path / "x.raw").unlink()
    with pytest.raises(InputError, match=r"x\.raw: expected the voxels of the header beside it, found no such file"):
        read_volume(path)
