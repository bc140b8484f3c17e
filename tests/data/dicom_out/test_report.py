# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicom_study import dciodvfy, mr_series, results_of
from roi_fusion.data.dicom_out.report import comment_on
from roi_fusion.data.dicom_out.write import write_dicom

hd = pytest.importorskip("highdicom")
pytest.importorskip("itk")


def report_of(folder: Path, **facts: Any) -> tuple[Any, dict[str, list[Path]], dict[str, Any]]:
    mri = mr_series(folder / "mr")
    case = results_of(folder / "case", mri, **facts)
    written = write_dicom(case, mri)
    assert dciodvfy(written["report"][0]) == []
    (group,) = hd.sr.srread(written["report"][0]).content.get_volumetric_roi_measurement_groups()
    return group, written, pydicom.dcmread(written["lesion"][0])


def comment_in(group: Any) -> str:
    items = [i for i in group[0].ContentSequence if i.ConceptNameCodeSequence[0].CodeMeaning == "Comment"]
    return items[0].TextValue


def test_volume_and_interval(tmp_path: Path) -> None:
    group, _, lesion = report_of(tmp_path, lesion_ml=0.2079, lesion_ml_interval=[0.05, 0.9])
    (volume,) = group.get_measurements()
    assert volume.name.value == "118565006"
    assert (volume.value, volume.unit.value) == (0.2079, "mL")
    bounds = {
        i.ConceptNameCodeSequence[0].CodeValue: i.MeasuredValueSequence[0].NumericValue for i in volume[0].ContentSequence
    }
    assert {k: float(v) for k, v in bounds.items()} == {"371886008": 0.6921, "371885007": 0.1579}
    assert group.reference_type.meaning == "Referenced Segment"
    assert group.referenced_segment.referenced_sop_instance_uid == lesion.SOPInstanceUID
    assert group.finding_type.meaning == "Lesion"
    assert group.tracking_uid == lesion.SegmentSequence[0].TrackingUID
    assert "0.21 mL, 90 % interval 0.05 to 0.90 mL" in comment_in(group)


def test_a_volume_that_was_not_seen_is_left_out(tmp_path: Path) -> None:
    note = "a part of the brain was not seen"
    group, _, _ = report_of(tmp_path, lesion_ml=None, lesion_ml_interval=None, lesion_ml_interval_note=note)
    assert group.get_measurements() == []
    assert f"lesion volume unknown, without an interval: {note}" in comment_in(group)


def test_comment() -> None:
    facts = {"lesion_ml": 3.0, "lesion_ml_interval": None, "lesion_ml_interval_note": "why", "lesion_ml_is_lower_bound": True}
    assert comment_on(facts) == "lesion volume at least 3.00 mL, without an interval: why. For research, not for diagnosis."
