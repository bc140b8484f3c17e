# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import result_folder
from roi_fusion.report.sheets import Sheets, make_sheets, panels_of
from roi_fusion.report.volumes import ResultVolumes, View, load_volumes, reference_beside


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> ResultVolumes:
    folder = result_folder(tmp_path_factory.mktemp("sheets"), tiny_dataset, "phantom_0000")
    return load_volumes(folder, reference_beside({"mri": str(tiny_dataset / "phantom_0000" / "mri.nii.gz")}))


@pytest.fixture(scope="module")
def sheets(volumes: ResultVolumes) -> Sheets:
    return make_sheets(volumes)


def picture(uri: object) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(str(uri).split(",")[1]))).convert("RGB"), float)


def tile(sheets: Sheets, title: str, n: int) -> np.ndarray:
    sheet = picture(next(p["picture"] for p in sheets.panels if p["title"] == title))
    x, y = n % sheets.columns * sheets.width, n // sheets.columns * sheets.height
    return sheet[y : y + sheets.height, x : x + sheets.width]


def test_every_slice_of_the_head_is_a_tile(volumes: ResultVolumes, sheets: Sheets) -> None:
    view = View.of(volumes)
    shown = np.flatnonzero(view.counts(volumes.head))
    assert len(sheets) == shown[-1] - shown[0] + 1
    assert max(sheets.width, sheets.height) <= 256
    low, high = (next(p for p in panels_of(volumes) if p.title == "CT, brain window"))[3:5]
    assert (low, high) == (0, 80)
    assert volumes.ct is not None
    for n, k in enumerate(range(shown[0], shown[-1] + 1)):
        plane = np.clip(view.plane(volumes.ct, k) / 80, 0, 1) * 255
        if plane.shape == (sheets.height, sheets.width):  # voxels as large as a tile's pixels
            assert np.abs(tile(sheets, "CT, brain window", n)[..., 0] - plane).mean() < 12


def test_slices_are_placed_in_millimetres(volumes: ResultVolumes, sheets: Sheets) -> None:
    steps = np.diff(sheets.positions_mm)
    assert sheets.axis == "S"
    np.testing.assert_allclose(steps, volumes.spacing_mm[2], atol=0.11)
    extent = sheets.width * 100 / sheets.scale_percent * sheets.scale_mm / sheets.width
    columns = View.of(volumes).plane(volumes.fused, 0).shape[1]
    assert extent == pytest.approx(columns * volumes.spacing_mm[0], rel=0.01)


def test_outlines_lie_around_the_mask(volumes: ResultVolumes, sheets: Sheets) -> None:
    assert list(sheets.outlines) == ["reference", "lesion"]
    view = View.of(volumes)
    assert volumes.reference is not None
    shown = np.flatnonzero(view.counts(volumes.head))
    n = int(np.argmax(view.counts(volumes.reference)[shown[0] :]))
    points = np.array([[float(v) for v in p.split()] for p in re.split("[MLZ]", sheets.outlines["reference"]) if p])
    corner = np.array([n % sheets.columns * sheets.width, n // sheets.columns * sheets.height])
    inside = points[((points >= corner) & (points < corner + [sheets.width, sheets.height])).all(1)] - corner
    rows, columns = np.nonzero(view.plane(volumes.reference, shown[0] + n))
    scale = sheets.width / view.plane(volumes.reference, 0).shape[1]
    np.testing.assert_allclose(inside[:, 0].min() / scale, columns.min(), atol=0.6)
    np.testing.assert_allclose(inside[:, 0].max() / scale, columns.max() + 1, atol=0.6)
    np.testing.assert_allclose(inside[:, 1].max() / scale, rows.max() + 1, atol=0.6)


def test_what_nothing_is_told_of_is_grey(volumes: ResultVolumes) -> None:
    share = np.where(volumes.head, 1.0, np.nan)
    share[:, : share.shape[1] // 2] = np.nan
    found = make_sheets(replace(volumes, provenance=share))
    colours = tile(found, "Provenance: share of the MRI", found.first).reshape(-1, 3)
    grey = (np.ptp(colours, axis=1) < 12) & (colours.mean(1) > 60) & (colours.mean(1) < 120)
    yellow = (colours[:, 0] > 200) & (colours[:, 1] > 190) & (colours[:, 2] < 110)
    assert grey.mean() > 0.1
    assert yellow.mean() > 0.1


def test_a_case_without_lesion_shows_its_middle_and_a_thumbnail(volumes: ResultVolumes) -> None:
    found = make_sheets(replace(volumes, lesion=np.zeros_like(volumes.fused), reference=None))
    assert found.outlines == {}
    assert found.first == len(found) // 2
    assert not any(found.areas_cm2)
    assert Image.open(io.BytesIO(found.thumbnail)).height == 88
