# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The scripts of ``shared/trouble`` on inputs that once came out wrong: each ends as its first lines say is right.

They are run as they are. Script 03 asks the reader of the other door, which was ``roi_fusion.readers`` when it was written and
is ``roi_fusion.data.io`` now: that module, whole, stands under the old name while a script runs, so the script asks the reader
that every door uses today. Nothing else is put in place of anything.
"""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

import roi_fusion.data.io
from conftest import shared

TRUE_ML = 20.26  # of the scripts' head; as the shipped weights see it, 18.4


def said(number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> str:
    """What a script prints, run in this process."""
    folder = shared("trouble")
    (script,) = folder.glob(f"{number}_*.py")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "synthetic_head", raising=False)
    monkeypatch.setitem(sys.modules, "roi_fusion.readers", roi_fusion.data.io)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.modules.pop("synthetic_head", None)
    return capsys.readouterr().out


def lesions_ml(text: str) -> list[float]:
    return [float(v) for v in re.findall(r"lesion (\d+\.\d+) mL", text)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "count"), [("01", 4), ("03", 4)])
def test_fills_and_forms_leave_the_lesion_where_it_is(number: str, count: int, monkeypatch, capsys, tmp_path: Path) -> None:
    text = said(number, monkeypatch, capsys, tmp_path)
    found = lesions_ml(text)
    assert found == pytest.approx([found[0]] * count, rel=0.05)
    assert found[0] == pytest.approx(TRUE_ML, rel=0.15)
    places = [[float(v) for v in p.split()] for p in re.findall(r"at \[([^\]]+)\]", text)]
    assert len(places) == count
    assert all(p == pytest.approx([-38.0, 5.0, 10.0], abs=1.0) for p in places)
    if number == "03":
        assert re.search(r"of the same tilted file: .*gantry tilt of 1[45]\.\d° corrected", text)
        was, came = re.search(r"origin by nibabel \[([^\]]+)\] origin of the result \[([^\]]+)\]", text).groups()
        assert was.split() == came.split()


@pytest.mark.slow
def test_stored_values_are_refused_with_and_without_padding(monkeypatch, capsys, tmp_path: Path) -> None:
    text = said("02", monkeypatch, capsys, tmp_path)
    assert len(lesions_ml(text)) == 1
    assert text.count("InputError") == 2
    assert text.count("expected CT in HU") == 2


@pytest.mark.slow
def test_trailing_axes_end_with_a_report(monkeypatch, capsys, tmp_path: Path) -> None:
    text = said("05", monkeypatch, capsys, tmp_path)
    assert re.findall(r"rc\s+(\d+)", text) == ["0", "0"]
    assert text.count("report: True") == 2


@pytest.mark.slow
def test_paths_with_a_hash_are_taken_as_typed(monkeypatch, capsys, tmp_path: Path) -> None:
    text = said("06", monkeypatch, capsys, tmp_path)
    assert re.findall(r"rc\s+(\d+)", text) == ["0", "0", "0"]
    assert "folders now: ['c', 'in#3', 'o3', 'run#1', 'study#2']" in text


@pytest.mark.slow
def test_a_part_without_a_ct_is_no_healthy_brain(monkeypatch, capsys, tmp_path: Path) -> None:
    text = said("07", monkeypatch, capsys, tmp_path)
    assert "'lesion_ml': None" in text
    assert re.search(r"\d+ mL of the MRI's head.*have no CT", text)
