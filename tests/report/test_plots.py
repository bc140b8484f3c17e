# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from roi_fusion.report.plots import dice_by_volume, evaluation_figures, fusion_by_method, reliability_diagram

ROWS = [
    {
        "case": "a",
        "method": "roi_fusion",
        "lesion_ml": "2.5",
        "lesion_dice": "0.7",
        "brain_ssim_context": "0.9",
        "bone_ssim_context": "0.8",
        "seam_ratio": "0.9",
    },
    {
        "case": "b",
        "method": "roi_fusion",
        "lesion_ml": "0",
        "lesion_dice": "",
        "brain_ssim_context": "0.8",
        "bone_ssim_context": "",
        "seam_ratio": "1.0",
    },
    {
        "case": "a",
        "method": "paste",
        "lesion_ml": "2.5",
        "lesion_dice": "",
        "brain_ssim_context": "0.95",
        "bone_ssim_context": "0.5",
        "seam_ratio": "1.5",
    },
]


def test_methods_stand_beside_each_other_and_missing_values_stay_out() -> None:
    figure = fusion_by_method(ROWS)
    brain, bone, seam = figure.axes
    assert [t.get_text() for t in brain.get_xticklabels()] == ["ours", "paste"]
    assert sorted(brain.lines[0].get_ydata()) == [0.8, 0.9]
    assert list(bone.lines[0].get_ydata()) == [0.8]
    assert list(seam.lines[1].get_ydata()) == [1.5]


def test_dice_is_drawn_where_it_was_measured() -> None:
    figure = dice_by_volume(ROWS)
    assert figure is not None
    assert list(figure.axes[0].lines[0].get_xdata()) == [2.5]
    assert dice_by_volume(ROWS[1:]) is None


def test_reliability_lies_on_the_diagonal_for_honest_probabilities() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random((60, 60, 20))
    figure = reliability_diagram([(probability, rng.random(probability.shape) < probability, np.ones(probability.shape, bool))])
    assert figure is not None
    curve = figure.axes[0].lines[1]
    assert np.abs(curve.get_xdata() - curve.get_ydata()).max() < 0.02
    assert reliability_diagram([(probability, probability > 2, probability > 2)]) is None


def test_the_plots_of_a_folder(tmp_path: Path) -> None:
    assert evaluation_figures(tmp_path) == {}
    columns = list(ROWS[0])
    (tmp_path / "metrics.csv").write_text("\n".join([",".join(columns), *(",".join(r[c] for c in columns) for r in ROWS)]))
    assert list(evaluation_figures(tmp_path)) == ["fusion", "Dice by volume"]
    label = np.zeros((20, 20, 4))
    label[5:9, 5:9, 1:3] = 1
    for folder, name, volume in (("data/a", "lesion_mask", label), ("a", "lesion_prob", label * 0.9)):
        (tmp_path / folder).mkdir(parents=True)
        nib.save(nib.Nifti1Image(volume.astype(np.float32), np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    (tmp_path / "a" / "result.json").write_text(json.dumps({"mri": str(tmp_path / "data" / "a" / "mri.nii.gz")}))
    figures = evaluation_figures(tmp_path)
    assert list(figures) == ["fusion", "Dice by volume", "reliability"]
    reached = figures["reliability"].axes[0].lines[1].get_xdata()
    assert np.nanmax(reached) == pytest.approx(0.9)
