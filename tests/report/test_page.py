# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from helpers import result_folder, table_rows
from roi_fusion.errors import InputError
from roi_fusion.metrics.table import write_tables
from roi_fusion.report.page import metrics_text, write_report


def test_the_page_is_self_contained_and_holds_everything(tmp_path: Path, tiny_dataset: Path) -> None:
    for name in ("phantom_0000", "phantom_0001"):
        result_folder(tmp_path, tiny_dataset, name)
    write_tables(tmp_path, table_rows())
    (tmp_path / "errors.json").write_text(json.dumps({"bad": "bad/mri.nii.gz: expected <finite> values"}))
    history = [
        {
            "epoch": e,
            "loss_total": 2.0 / e,
            "loss_bone": 1.0 / e,
            "gradient_share_bone": 0.3,
            "validation": {"brain_ssim": 0.1 * e},
        }
        for e in range(1, 9)
    ]
    (tmp_path / "history.jsonl").write_text("\n".join(map(json.dumps, history)))
    page = write_report(tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 2 + 4 + 2
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for text in (
        "phantom_0000",
        "paste (CT bone into MRI)",
        "brain SSIM",
        "&lt;finite&gt;",
        "small",
        "1.50 mL (1.00–2.00)",
        "∞",
    ):
        assert text in page, text
    assert "not for diagnosis" in page


def test_the_gates_of_a_training_are_a_table(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text(json.dumps({"epoch": 1, "loss_total": 1.0}) + "\n")
    assert "Gates" not in write_report(tmp_path).read_text()
    gates = [
        {"epoch": 20, "metric": "bone_psnr", "least": 5.0, "value": 12.3456, "passed": True},
        {"epoch": 50, "metric": "lesion_dice", "least": 0.4, "value": None, "passed": False},
    ]
    (tmp_path / "doctor.json").write_text(json.dumps({"gates": gates}))
    page = re.sub(r"\s+", "", write_report(tmp_path).read_text())
    assert "<td>bone_psnr</td><td>20</td><td>5.0</td><td>12.346</td><td>passed</td>" in page
    assert "<td>lesion_dice</td><td>50</td><td>0.4</td><td>–</td><td>MISSED</td>" in page


def test_only_so_many_cases_and_it_says_so(tmp_path: Path, tiny_dataset: Path) -> None:
    for n in range(3):
        result_folder(tmp_path, tiny_dataset, f"phantom_000{n}")
    page = write_report(tmp_path, max_cases=2).read_text()
    assert page.count("<h3>") == 2
    assert "2 of 3 cases" in page


def test_what_cannot_be_shown_is_said(tmp_path: Path, tiny_dataset: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of results or of a training, found neither"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="expected the summary of an evaluation"):
        metrics_text(tmp_path)
    result_folder(tmp_path, tiny_dataset, "phantom_0000", {"mri": "gone/mri.nii.gz"})
    assert "gone/mri.nii.gz: expected the MRI of this result" in write_report(tmp_path).read_text()


def test_the_text_table_lines_up(tmp_path: Path) -> None:
    write_tables(tmp_path, table_rows())
    lines = metrics_text(tmp_path).splitlines()
    assert lines[0].startswith("30 cases")
    assert len({len(line) for line in lines}) == 1
    assert any(line.startswith("lesion Dice") and "–" in line for line in lines)
