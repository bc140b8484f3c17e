# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import pytest

from helpers import result_folder
from roi_fusion.report.patients import patient_of, pictures_of


@pytest.mark.parametrize(
    ("facts", "lesion", "interval"),
    [
        ({"lesion_ml": 12.345, "lesion_ml_interval": [8.1, 17.0]}, "12.35 mL", "8.10–17.00 mL"),
        ({"lesion_ml": 2.0, "lesion_ml_interval": None}, "2.00 mL", "none: the weights were not calibrated"),
        (
            {"lesion_ml": 2.0, "lesion_ml_interval": None, "lesion_ml_interval_note": "outside of what <they> know"},
            "2.00 mL",
            "none: outside of what <they> know",
        ),
        (
            {"lesion_ml": 2.0, "lesion_ml_interval": None, "lesion_ml_is_lower_bound": True},
            "2.00 mL or more, part of the brain was not seen",
            "none: part of the brain was not seen",
        ),
        (
            {"lesion_ml": None, "lesion_ml_interval": None, "lesion_ml_is_lower_bound": True},
            "none found, part of the brain was not seen",
            "–",
        ),
        ({"lesion_ml": 0.0, "lesion_ml_interval": [0.0, 0.1]}, "none found", "0.00–0.10 mL"),
        (
            {"lesion_ml": 0.0, "lesion_ml_interval": None, "lesion_ml_interval_note": "long", "outside_training": ["contrast"]},
            "none found",
            "none: outside of training",
        ),
    ],
)
def test_a_volume_or_why_there_is_none(facts: dict, lesion: str, interval: str, tmp_path: Path, tiny_dataset: Path) -> None:
    found = patient_of(result_folder(tmp_path, tiny_dataset, "phantom_0000", facts))
    assert (found.lesion, found.interval) == (lesion, interval)


def test_warnings_name_files_not_folders(tmp_path: Path, tiny_dataset: Path) -> None:
    folder = tiny_dataset / "phantom_0000"
    facts = {
        "warnings": [f"{folder / 'ct.nii.gz'}: the CT ends inside the brain"],
        "missing": "mri",
        "stale": "of an earlier run",
        "outside_training": ["slices 9 mm apart"],
    }
    found = patient_of(result_folder(tmp_path, tiny_dataset, "phantom_0000", facts))
    assert found.warnings == [
        "These results are of an earlier run",
        "Made WITHOUT the MRI",
        "ct.nii.gz: the CT ends inside the brain",
    ]
    assert found.outside == ["slices 9 mm apart"]


def test_a_missing_image_is_told_once(tmp_path: Path, tiny_dataset: Path) -> None:
    facts = {"missing": "ct", "warnings": ["no CT: the lesion is sought in the MRI alone"]}
    found = patient_of(result_folder(tmp_path, tiny_dataset, "phantom_0000", facts))
    assert found.warnings == ["no CT: the lesion is sought in the MRI alone"]


def test_the_reference_is_there_only_where_one_was_measured(tmp_path: Path, tiny_dataset: Path) -> None:
    folder = result_folder(tmp_path, tiny_dataset, "phantom_0000")
    without = patient_of(folder)
    assert (without.reference_ml, without.dice, without.reference, without.fusion) == (None, None, [], [])
    unknown = patient_of(folder, {"lesion_ml": float("nan"), "lesion_dice": float("nan"), "brain_ssim": 0.91234})
    assert unknown.reference == []
    assert unknown.fusion == [("brain SSIM", "0.912")]
    known = patient_of(folder, {"lesion_ml": 12.0, "lesion_dice": 0.71234, "lesion_hd95_mm": 3.21})
    assert (known.reference_ml, known.dice) == (12.0, 0.71234)
    assert ("HD95 mm (smaller is better)", "3.2") in known.reference


def test_where_a_result_is_from(tmp_path: Path, tiny_dataset: Path) -> None:
    facts = {
        "weights": {"checkpoint": "model.pt", "sha256": "ab12", "roi_fusion": "0.2.0"},
        "seconds": 9.8,
        "registration": {"mutual_information_after": 0.5},
        "plausibility": {"brain_ml": 1234.5},
    }
    folder = result_folder(tmp_path, tiny_dataset, "phantom_0000", facts)
    found = patient_of(folder)
    provenance, quality = dict(found.provenance), dict(found.quality)
    assert provenance["weights SHA-256"] == "ab12"
    assert provenance["weights saved by version"] == "0.2.0"
    assert provenance["seconds"] == "9.8"
    assert provenance["made"].startswith("20")
    assert quality["brain, mL"] == "1234" or quality["brain, mL"] == "1235"
    assert "registered" in found.notes[0]
    pictures = pictures_of(folder, viewer=False)
    grid = dict(pictures.grid)
    assert grid["grid"] == "48×48×8"
    assert grid["voxel, mm"] == "4.8×4.8×18"
    assert grid["largest tilt of an axis"] == "0.0°"
    assert pictures.volumes == []
