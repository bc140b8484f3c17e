# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import shared
from heads_for_tests import ellipsoid_labels, write_head
from roi_fusion.data.synthesis.heads import HeadMaps, brain_box_mm, choose_ids, make_head
from roi_fusion.data.synthesis.tissues import tissue_table
from roi_fusion.errors import InputError


def test_a_folder_of_label_maps_is_read(tmp_path: Path) -> None:
    maps = HeadMaps(write_head(tmp_path, "b"))
    head = maps["b"]
    assert maps.ids == ("b",)
    assert head.voxel_mm.tolist() == [3, 3, 3]
    assert 2.0 < head.brain.sum() * 27 / 1e6 * 1.6 < 4.0
    assert int(head.from_ventricles[head.tissue == tissue_table().index("ventricle")].max()) == 0


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.full((8, 8, 8), 777), "expected labels of the table tissues.json, got unknown labels 777"),
        (np.where(ellipsoid_labels() < 500, 0, ellipsoid_labels()), "expected a head with a brain, got 0 mL of brain"),
        (np.zeros((4, 4)), r"expected a 3-D label map, got shape \(4, 4\)"),
        (np.full((4, 4, 4), 0.5), "expected whole numbers as labels, got others"),
    ],
)
def test_an_unusable_map_is_one_sentence(labels: np.ndarray, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make_head("a", labels, np.diag([3.0, 3.0, 3.0, 1.0]))


def test_missing_files_empty_folders_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of NIfTI label maps, got a folder without any"):
        HeadMaps(tmp_path)
    with pytest.raises(InputError, match="got no such path"):
        HeadMaps(tmp_path / "nothing")
    (tmp_path / "x.npz").write_text("no archive")
    with pytest.raises(InputError, match=r"expected a packed file of label maps \(\.npz\)"):
        HeadMaps(tmp_path / "x.npz")
    (tmp_path / "broken.nii.gz").write_text("no image")
    with pytest.raises(InputError, match="expected a readable NIfTI label map"):
        HeadMaps(tmp_path)["broken"]


def test_parts_of_the_heads(tmp_path: Path) -> None:
    for n in range(1, 8):
        (tmp_path / f"{n}.nii").touch()
    maps = HeadMaps(tmp_path)
    assert choose_ids(maps, None, "train") == ("1", "2", "3", "4")
    assert choose_ids(maps, None, "val") == ("5",)
    assert choose_ids(maps, "2, 7", "train") == ("2", "7")
    assert choose_ids(maps, 3, "train") == ("3",)
    with pytest.raises(InputError, match=r"heads: expected ids among 1, 2, .*, got 9"):
        choose_ids(maps, "9", "train")


def test_the_box_of_a_brain_leaves_out_the_outermost_voxels() -> None:
    brain = np.zeros((50, 50, 50), bool)
    brain[10:40, 10:40, 10:40] = True
    brain[0, 0, 0] = True
    low, high = brain_box_mm(brain, (2.0, 2.0, 2.0))
    assert low.tolist() == [20, 20, 20]
    assert high.tolist() == [78, 78, 78]


def test_the_packed_heads_have_their_roles() -> None:
    maps = HeadMaps(shared("data/head_labels.npz"))
    assert choose_ids(maps, None, "train") == ("1", "2", "4", "5", "6", "8", "9", "10", "11", "13")
    assert choose_ids(maps, None, "val") == ("14", "15")
    assert maps["14"].brain.sum() > 700_000
