# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from helpers import result_folder, table_rows
from roi_fusion.errors import InputError
from roi_fusion.metrics.table import write_tables
from roi_fusion.report.page import write_report


def row_of(case: str, **metrics: float) -> dict:
    return {"case": case, "method": "roi_fusion", "volume_class": "small", "lesion_ml": 1.25, **metrics}


def test_the_page_is_self_contained_and_holds_everything(tmp_path: Path, tiny_dataset: Path) -> None:
    for name in ("phantom_0000", "phantom_0001"):
        result_folder(tmp_path, tiny_dataset, name, {"outside_training": ["slices of <9> mm"]})
    write_tables(tmp_path, [*table_rows(), row_of("phantom_0000", lesion_dice=0.625)])
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
    page = write_report(tmp_path, viewer=False).read_text()
    assert page.count("data:image/png;base64,") == 2 + 4  # plots and curves
    assert page.count("data:image/webp;base64,") == 2 * (1 + 6)  # a thumbnail and panels of each
    assert not re.search(r"\s(src|href)=\"(?!data:|#)", page)
    for text in (
        "phantom_0000",
        "paste (CT bone into MRI)",
        "brain SSIM",
        "&lt;finite&gt;",
        "slices of &lt;9&gt; mm",
        "small",
        "1.50 mL",
        "1.00–2.00 mL",
        "1.25 mL",
        "0.625",
        "∞",
    ):
        assert text in page, text
    assert "not for diagnosis" in page
    assert page.index("Patients</h2>") < page.index("Metrics over")


def test_without_a_reference_there_are_no_columns_for_it(tmp_path: Path, tiny_dataset: Path) -> None:
    result_folder(tmp_path, tiny_dataset, "phantom_0000")
    page = write_report(tmp_path, viewer=False).read_text()
    assert ">Dice<" not in page
    assert "Against the reference" not in page
    assert page.count("<section") == 1


def test_the_gates_of_a_training_are_a_table(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text(json.dumps({"epoch": 1, "loss_total": 1.0}) + "\n")
    page = write_report(tmp_path).read_text()
    assert "Gates" not in page
    assert "<script" not in page
    gates = [
        {"epoch": 20, "metric": "bone_psnr", "least": 5.0, "value": 12.3456, "passed": True},
        {"epoch": 50, "metric": "lesion_dice", "least": 0.4, "value": None, "passed": False},
    ]
    (tmp_path / "doctor.json").write_text(json.dumps({"gates": gates}))
    page = re.sub(r"\s+", "", write_report(tmp_path).read_text())
    assert "<td>bone_psnr</td><td>20</td><td>5.0</td><td>12.346</td><td>passed</td>" in page
    assert "<td>lesion_dice</td><td>50</td><td>0.4</td><td>–</td><td>MISSED</td>" in page


def test_many_patients_have_a_page_each(tmp_path: Path, tiny_dataset: Path) -> None:
    names = [f"phantom_000{n}" for n in range(3)]
    for name in names:
        result_folder(tmp_path, tiny_dataset, name)
    odd = tmp_path / 'odd "name" #1'
    (tmp_path / "phantom_0002").rename(odd)
    page = write_report(tmp_path, single_file_cases=2).read_text()
    assert "data:image" not in page
    found = re.findall(r'href="(report_pages/[^"]+)"', page)
    assert len(set(found)) == 3
    assert "report_pages/odd%20%22name%22%20%231/index.html" in found
    own = (tmp_path / "report_pages" / odd.name / "index.html").read_text()
    assert own.count("data:image/webp") == 6
    assert "../phantom_0000/index.html" in own
    assert (tmp_path / "report_pages" / "phantom_0000" / "thumbnail.webp").stat().st_size < 6000

    (tmp_path / "report_pages" / "phantom_0000" / "mine.txt").write_text("mine")
    (tmp_path / "phantom_0000" / "result.json").unlink()
    page = write_report(tmp_path).read_text()  # now one file, and what the earlier report wrote is gone
    assert "report_pages" not in page
    assert [p.name for p in (tmp_path / "report_pages").rglob("*") if p.is_file()] == ["mine.txt"]


def test_what_cannot_be_shown_is_said(tmp_path: Path, tiny_dataset: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of results or of a training, found neither"):
        write_report(tmp_path)
    result_folder(tmp_path, tiny_dataset, "phantom_0000", {"mri": "gone/mri.nii.gz"})
    result_folder(tmp_path, tiny_dataset, "phantom_0001", {"lesion_ml": "no number"})
    page = write_report(tmp_path).read_text()
    assert "gone/mri.nii.gz: expected the MRI of this result" in page
    assert "1.50 mL" in page  # what is told without the pictures stays
    assert "1 case refused" in page
    assert "expected facts that can be shown" in page
