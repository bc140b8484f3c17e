# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import pytest

from helpers import table_rows
from roi_fusion.errors import InputError
from roi_fusion.metrics.table import summarise, write_tables
from roi_fusion.report.tables import metrics_table, metrics_text


def test_a_line_for_each_metric_and_a_column_for_each_method() -> None:
    table = metrics_table(summarise(table_rows())["methods"])
    assert table["head"] == ["ROI Fusion", "paste (CT bone into MRI)"]
    cells = {r["name"]: [c["value"] for c in r["cells"]] for r in table["rows"]}
    assert list(cells) == ["lesion Dice", "brain SSIM", "bone PSNR dB"]
    assert cells["brain SSIM"][1] == "1.000"
    assert cells["bone PSNR dB"] == ["–", "∞"]


def test_the_text_table_lines_up(tmp_path: Path) -> None:
    write_tables(tmp_path, table_rows())
    lines = metrics_text(tmp_path).splitlines()
    assert lines[0].startswith("30 cases")
    assert len({len(line) for line in lines}) == 1
    assert any(line.startswith("lesion Dice") and "–" in line for line in lines)


def test_without_a_summary_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the summary of an evaluation"):
        metrics_text(tmp_path)
