# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import numpy as np
import pytest

from heads_for_tests import write_head
from roi_fusion.core.reading import READING_MM, reading_factors
from roi_fusion.data.synthesis.anatomy import Anatomy, draw_anatomy
from roi_fusion.data.synthesis.heads import HeadMaps
from roi_fusion.data.synthesis.scan_grid import draw_grid


@pytest.fixture(scope="module")
def anatomy(tmp_path_factory: pytest.TempPathFactory) -> Anatomy:
    head = HeadMaps(write_head(tmp_path_factory.mktemp("head")))["a"]
    return draw_anatomy(np.random.default_rng(0), head, None, lesion_free_share=0.0)


@pytest.mark.parametrize("seed", range(6))
def test_grids_are_scanners_grids(anatomy: Anatomy, seed: int) -> None:
    grid = draw_grid(np.random.default_rng(seed), anatomy, largest_voxels=500_000)
    assert np.prod(grid.shape) <= 500_000 or grid.shape[2] == 8
    assert 0.4 <= grid.spacing_mm[0] <= 2.4
    assert grid.spacing_mm[2] >= grid.spacing_mm[0]


@pytest.mark.parametrize("seed", range(6))
def test_the_grids_that_lesions_are_read_on_are_not_joined_further(anatomy: Anatomy, seed: int) -> None:
    grid = draw_grid(np.random.default_rng(seed), anatomy, reading_share=1.0)
    assert READING_MM * 2 / 3 <= grid.spacing_mm[0] <= READING_MM * 4 / 3
    assert reading_factors(grid.spacing_mm) == (1, 1, 1)
