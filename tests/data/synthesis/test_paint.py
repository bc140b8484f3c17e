# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from heads_for_tests import write_head
from roi_fusion.data.synthesis.anatomy import draw_anatomy
from roi_fusion.data.synthesis.contrast import draw_age, draw_contrast
from roi_fusion.data.synthesis.ct import paint_ct
from roi_fusion.data.synthesis.geometry import Geometry, Grid, draw_geometry
from roi_fusion.data.synthesis.heads import HeadMaps
from roi_fusion.data.synthesis.mri import Distortion, paint_mri, stripped_brain
from roi_fusion.data.synthesis.tissues import tissue_table


@pytest.fixture(scope="module")
def geometry(tmp_path_factory: pytest.TempPathFactory) -> Geometry:
    head = HeadMaps(write_head(tmp_path_factory.mktemp("head")))["a"]
    anatomy = draw_anatomy(np.random.default_rng(0), head, None, lesion_free_share=0.0)
    return draw_geometry(np.random.default_rng(1), anatomy, Grid((60, 72, 14), (3.0, 3.0, 9.0)))


@pytest.mark.parametrize("name", ["adc", "dwi", "flair", "t2", "t1", "free"])
def test_a_lesion_always_differs_from_healthy_tissue(name: str) -> None:
    rng, table = np.random.default_rng(0), tissue_table()
    for _ in range(50):
        contrast = draw_contrast(rng, draw_age(rng), name=name, ct_seen=bool(rng.random() < 0.5))
        grey, white = contrast.values[table.index("grey")], contrast.values[table.index("white")]
        low, high = min(grey, white), max(grey, white)
        assert contrast.lesion >= 1.1 * high or contrast.lesion <= 0.9 * low
        if name == "adc":
            assert contrast.lesion < low
        if name == "dwi":  # what shines through stays behind the lesion
            assert contrast.values[table.index("white_matter_disease")] < 0.5 * (contrast.lesion + 0.5 * (low + high)) + 1e-3


def test_the_same_seed_paints_the_same_case_and_another_does_not(geometry: Geometry) -> None:
    first, again, other = (paint_mri(np.random.default_rng(s), geometry)[0] for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert bool(torch.isfinite(first).all())
    assert float(first.min()) >= 0


@pytest.mark.parametrize(("name", "sign"), [("dwi", 1), ("adc", -1)])
def test_the_lesion_shows_in_the_mri(geometry: Geometry, name: str, sign: int) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        age = draw_age(rng)
        image, *_ = paint_mri(rng, geometry, draw_contrast(rng, age, name=name), age)
        healthy = (geometry.share_of_groups("brain") > 0.95) & (geometry.lesion == 0)
        lesion = (geometry.truth > 0) & (geometry.share_of_groups("brain") > 0.95)
        assert sign * (float(image[lesion].median()) - float(image[healthy].median())) > 0


def test_a_ct_holds_ct_numbers_and_a_lesion_that_may_be_invisible(geometry: Geometry) -> None:
    rng = np.random.default_rng(0)
    age = draw_age(rng)
    ct, notes = paint_ct(rng, geometry, age, lesion_visible=False)
    assert notes["hu_drop"] == 0
    assert float(ct.min()) >= -1024
    assert float(ct[geometry.bone > 0].median()) > 300
    brain = (geometry.share_of_groups("brain") > 0.95) & (geometry.lesion == 0)
    assert 15 < float(ct[brain].mean()) < 55
    drops = [paint_ct(np.random.default_rng(s), geometry, age, lesion_visible=True)[1]["hu_drop"] for s in range(5)]
    assert min(drops) >= 5


def test_masks_move_with_what_echo_planar_imaging_moved() -> None:
    volume = torch.zeros(8, 9, 3)
    volume[:, 4] = 1.0
    shift = torch.full((8, 9, 3), 2.0)
    shift[..., 2] = 0.0
    distortion = Distortion(axis=1, shift=shift)
    moved, mask = distortion.apply(volume), distortion.apply(volume.to(torch.uint8))
    assert torch.equal(moved[:, 2, :2], torch.ones(8, 2))
    assert torch.equal(moved[:, 4, 2], torch.ones(8))
    assert torch.equal(mask.float(), moved)
    assert mask.dtype == torch.uint8
    assert torch.equal(Distortion().apply(volume), volume)


def test_the_mask_lies_where_a_distorted_image_shows_the_lesion(geometry: Geometry) -> None:
    """A lesion-bright image, warped: the moved mask agrees with what is bright better than the mask that stayed."""
    geometry = replace(geometry, near_air=torch.ones_like(geometry.near_air))
    gains = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        age = draw_age(rng)
        image, _, distortion = paint_mri(rng, geometry, draw_contrast(rng, age, name="dwi"), age)
        if distortion.shift is None:
            continue
        stayed, moved = (float(image[m > 0].mean()) for m in (geometry.truth, distortion.apply(geometry.truth)))
        gains.append(moved / stayed)
    assert len(gains) >= 3
    assert min(gains) > 0.97
    assert max(gains) > 1.05


def test_a_stripped_brain_is_about_the_brain(geometry: Geometry) -> None:
    kept = stripped_brain(np.random.default_rng(0), geometry)
    brain = geometry.brain > 0
    overlap = 2 * int((kept & brain).sum()) / int(kept.sum() + brain.sum())
    assert overlap > 0.85


def test_label_maps_are_not_changed_by_painting(geometry: Geometry, tmp_path: Path) -> None:
    before = geometry.shares.clone()
    paint_mri(np.random.default_rng(0), geometry)
    paint_ct(np.random.default_rng(0), geometry, draw_age(np.random.default_rng(0)))
    assert torch.equal(before, geometry.shares)
