# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import shared
from roi_fusion.data.atlas import mni_tissue
from roi_fusion.data.lesions import MNI_BOX, PackedLesions, parse_range, procedural_lesion
from roi_fusion.errors import InputError


def pack(path: Path, masks: list[np.ndarray], lowers: list[tuple[int, int, int]], affine: np.ndarray) -> None:
    bits = [np.packbits(m.ravel()) for m in masks]
    np.savez(
        path,
        ids=np.array([f"sub-{i}" for i in range(len(masks))]),
        lower=np.array(lowers, np.int16),
        shape=np.array([m.shape for m in masks], np.int16),
        offset=np.cumsum([0, *map(len, bits)]),
        bits=np.concatenate(bits),
        affine=affine,
        grid=np.array([157, 189, 136]),
    )


def test_packed_masks_land_where_their_affine_says(tmp_path: Path) -> None:
    mask = np.zeros((3, 4, 2), bool)
    mask[0, 1, 1] = True
    affine = np.array([[-1.0, 0, 0, 78], [0, 1, 0, -112], [0, 0, 1, -50], [0, 0, 0, 1]])
    pack(tmp_path / "l.npz", [mask, ~mask], [(10, 20, 30), (0, 0, 0)], affine)
    lesions = PackedLesions(tmp_path / "l.npz", "0:1")
    assert len(lesions) == 1
    lesion = lesions[0]
    assert lesion.kind == "packed:sub-0"
    where = np.argwhere(lesion.mask)
    assert len(where) == 1
    millimetres = MNI_BOX[1] @ [*where[0], 1]
    assert millimetres[:3].tolist() == (affine @ [10, 21, 31, 1])[:3].tolist()


def test_real_masks_have_plausible_volumes() -> None:
    lesions = PackedLesions(shared("data/soop_lesions.npz"), "800:900")
    assert len(lesions) == 100
    volumes = [lesions[i].mask.sum() / 1000 for i in range(0, 100, 10)]
    assert all(0.02 < v < 250 for v in volumes)


def test_procedural_lesions_are_mostly_small_and_lie_in_tissue() -> None:
    tissue = mni_tissue()
    lesions = [procedural_lesion(np.random.default_rng(i), tissue) for i in range(60)]
    volumes = np.array([lesion.mask.sum() / 1000 for lesion in lesions])
    assert 0.4 < (volumes < 5).mean() < 0.8
    assert volumes.max() > 20
    assert all((lesion.mask <= tissue).all() for lesion in lesions)
    assert {lesion.kind for lesion in lesions} == {"territorial", "lacunar", "multifocal"}
    again = procedural_lesion(np.random.default_rng(7), tissue)
    assert (again.mask == lesions[7].mask).all()


@pytest.mark.parametrize("text", ["5", "a:b", "3:3", "-1:4", "0:11", ""])
def test_a_bad_range_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="lesion_ids: expected"):
        parse_range(text, 10)
    assert parse_range(None, 10) == (0, 10)
    assert parse_range("2:10", 10) == (2, 10)


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        PackedLesions(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not a lesion file")
    with pytest.raises(InputError, match="expected a packed lesion file"):
        PackedLesions(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="expected a packed lesion file"):
        PackedLesions(tmp_path / "other.npz")
