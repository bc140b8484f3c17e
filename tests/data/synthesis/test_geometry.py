# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from heads_for_tests import write_head
from roi_fusion.data.lesions import MNI_BOX, Lesion
from roi_fusion.data.synthesis.anatomy import Anatomy, draw_anatomy, draw_lesion, place_lesion
from roi_fusion.data.synthesis.geometry import Geometry, Grid, draw_geometry, draw_grid
from roi_fusion.data.synthesis.heads import Head, HeadMaps
from roi_fusion.data.synthesis.tissues import tissue_table
from roi_fusion.errors import InputError

GRID = Grid((60, 72, 12), (3.0, 3.0, 9.0))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Head:
    return HeadMaps(write_head(tmp_path_factory.mktemp("head")))["a"]


@pytest.fixture(scope="module")
def anatomy(head: Head) -> Anatomy:
    return draw_anatomy(np.random.default_rng(0), head, None, lesion_free_share=0.0)


@pytest.fixture(scope="module")
def geometry(anatomy: Anatomy) -> Geometry:
    return draw_geometry(np.random.default_rng(1), anatomy, GRID)


def test_shares_add_up_and_masks_fit_together(geometry: Geometry) -> None:
    total = geometry.shares.float().sum(0) / 255
    assert float((total - 1).abs().max()) < 0.02  # rounding of eight bits
    assert tuple(geometry.truth.shape) == GRID.shape
    assert not bool(((geometry.brain > 0) & (geometry.bone > 0)).any())
    assert bool((geometry.head >= torch.maximum(geometry.brain, geometry.bone)).all())
    inside = geometry.truth > 0
    assert bool(inside.any())
    assert float(geometry.share_of_groups("brain", "chronic")[inside].min()) > 0.2
    assert set(geometry.interest[inside].tolist()) == {2}


def test_thick_slices_hold_the_average_of_thin_ones(anatomy: Anatomy) -> None:
    """Brain volume does not depend on the slices' thickness."""
    volumes = []
    for spacing, count in ((9.0, 20), (3.0, 60)):
        grid = Grid((60, 72, count), (3.0, 3.0, spacing))
        g = draw_geometry(np.random.default_rng(1), anatomy, grid)
        volumes.append(float(g.share_of_groups("brain").sum()) * 9 * spacing / 1e6)
    assert volumes[0] == pytest.approx(volumes[1], rel=0.03)


def test_a_lesion_lands_where_it_belongs(head: Head) -> None:
    mask = np.zeros(MNI_BOX[0], bool)
    mask[30:45, 90:105, 80:95] = True  # on the patient's left
    left = place_lesion(Lesion(mask, "box"), head, np.zeros(3))
    right = place_lesion(Lesion(mask, "box"), head, np.zeros(3), mirrored=True)
    middle = head.tissue.shape[0] / 2
    assert np.argwhere(left > 0.5)[:, 0].max() < middle < np.argwhere(right > 0.5)[:, 0].min()
    assert not left[~head.brain].any()


def test_lesions_that_fit_no_head_are_refused(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roi_fusion.data.synthesis.anatomy.place_lesion", lambda *_, **__: np.zeros(head.tissue.shape))
    with pytest.raises(InputError, match="lesions: expected a lesion that lies in the brain of a, got none in 6 tries"):
        draw_lesion(np.random.default_rng(0), head, head.tissue, None)


def test_lookalikes_stay_out_of_the_lesion(head: Head) -> None:
    table, rng = tissue_table(), np.random.default_rng(5)
    for _ in range(4):
        varied = draw_anatomy(rng, head, None, lesion_free_share=0.0)
        assert varied.lesion is not None
        core = varied.lesion > 0.5
        assert not np.isin(varied.tissue[core], [table.index(n) for n in ("lacune", "cyst", "old_core", "blood")]).any()


@pytest.mark.parametrize("seed", range(6))
def test_grids_are_scanners_grids(anatomy: Anatomy, seed: int) -> None:
    grid = draw_grid(np.random.default_rng(seed), anatomy, largest_voxels=500_000)
    assert np.prod(grid.shape) <= 500_000 or grid.shape[2] == 8
    assert 0.4 <= grid.spacing_mm[0] <= 2.4
    assert grid.spacing_mm[2] >= grid.spacing_mm[0]


def test_slices_of_any_orientation_show_the_same_head(anatomy: Anatomy) -> None:
    volumes = []
    for orientation, shape in (("RAS", (60, 72, 58)), ("RSA", (60, 58, 72)), ("ASR", (72, 58, 60))):
        grid = replace(GRID, shape=shape, spacing_mm=(3.0, 3.0, 3.0), orientation=orientation)
        g = draw_geometry(np.random.default_rng(2), replace_lesion(anatomy), grid)
        volumes.append(float(g.share_of_groups("brain").sum()))
        assert abs(np.linalg.det(grid.affine[:3, :3])) == pytest.approx(27)
    assert np.ptp(volumes) < 0.12 * np.mean(volumes)  # warps are drawn anew for each shape


def replace_lesion(anatomy: Anatomy) -> Anatomy:
    return replace(anatomy, lesion=None)
