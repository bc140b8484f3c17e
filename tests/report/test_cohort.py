# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from browser import open_page
from roi_fusion.data.results import write_case_table
from roi_fusion.report import cohort
from roi_fusion.report.cohort import cohort_frame, cohort_rows, write_cohort
from roi_fusion.values import write_json

NASTY = "</script><script>window.bad=1</script><img src=x onerror=alert(1)>"


def result(root: Path, case: str, **facts: object) -> None:
    write_json(root / case / "result.json", {"case": case, "lesion_ml": 2.0, "warnings": [], **facts})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    result(tmp_path, "b", lesion_ml=10.5, lesion_ml_interval=[8.0, 14.25], warnings=["=cmd|' /C calc'!A0", NASTY])
    result(tmp_path, "a", lesion_ml=None, lesion_ml_interval_note="why", lesion_ml_is_lower_bound=True)
    result(tmp_path, "c", lesion_ml=9.0, outside_training=["slices 18 mm apart", NASTY])
    result(tmp_path, "old", stale="of an earlier run; the last one refused the case: no")
    row = {"case": "b", "method": "roi_fusion", "lesion_ml": 11.0, "lesion_dice": math.nan}
    write_case_table(tmp_path / "b", [{**row, "method": "paste", "lesion_ml": 99.0}, row], None, 6.25)
    write_json(tmp_path / "errors.json", {f"=bad{NASTY}": f"mri.nii.gz: expected {NASTY}"})
    return tmp_path


def test_a_row_a_patient_with_numbers_only_where_there_are_some(folder: Path) -> None:
    frame = cohort_frame(cohort_rows(folder)).set_index("case")
    assert sorted(frame.index) == sorted(["a", "b", "c", "old", f"=bad{NASTY}"])
    assert frame.loc["b", ["lesion_ml", "low_ml", "high_ml", "reference_ml", "seconds"]].tolist() == [10.5, 8, 14.25, 11, 6.25]
    assert frame["num_warnings"].dropna().to_dict() == {"a": 0, "b": 2, "c": 0}
    assert frame["lesion_ml"].dropna().to_dict() == {"b": 10.5, "c": 9.0}  # neither a stale nor an unseen one
    assert frame["lesion_dice"].isna().all()
    assert bool(frame.loc["a", "lower_bound"])
    assert frame.loc["a", "interval_note"] == "why"
    assert set(frame["refused"].dropna().index) == {"old", f"=bad{NASTY}"}


def test_the_files_hold_the_same_and_nothing_that_runs(folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("itables")
    assert [p.name for p in write_cohort(folder, {"b": "report_pages/b/index.html"})] == list(cohort.COHORT_FILES)
    with (folder / "cohort.csv").open(newline="") as f:
        rows = {r["case"]: r for r in csv.DictReader(f)}
    assert rows["b"]["warnings"].startswith("'=cmd")
    assert f"'=bad{NASTY}" in rows
    assert (rows["b"]["lesion_ml"], rows["a"]["lesion_ml"], rows["old"]["lesion_ml"]) == ("10.5", "", "")
    table = parquet.read_table(folder / "cohort.parquet")
    assert table.column("lesion_ml").to_pylist() == [None, None, 10.5, 9.0, None]
    assert str(table.schema.field("num_warnings").type) == "int64"
    page = (folder / "cohort.html").read_text()
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.S)
    assert not any("window.bad" in s and "data_json" not in s for s in scripts)

    class Tags(HTMLParser):
        found: list[tuple[str, dict]] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: list) -> None:
            self.found.append((tag, dict(attrs)))

    Tags().feed(page)
    assert not [a for _, a in Tags.found if any(name.startswith("on") for name in a)]
    assert all(a["src"].startswith("data:") for tag, a in Tags.found if tag == "img")
    data = json.loads(json.loads(re.search(r'"data_json": ("(?:[^"\\]|\\.)*")', page)[1]))
    assert all(not re.search(r"<(?!a href=|/a>)", cell) for row in data for cell in row)
    assert [row[0] for row in data] == [
        "=bad" + NASTY.replace("<", "&lt;").replace(">", "&gt;"),
        "a",
        '<a href="report_pages/b/index.html">b</a>',
        "c",
        "old",
    ]


def test_a_missing_package_is_named_and_its_old_file_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "cohort.parquet").write_text("old")
    monkeypatch.setattr(cohort, "find_spec", lambda name: None)
    assert [p.name for p in write_cohort(folder)] == ["cohort.csv"]
    assert "cohort.parquet: expected the package pyarrow, found none: pip install 'roi-fusion[cohort]'" in caplog.text
    assert not (folder / "cohort.parquet").exists()
    assert write_cohort(folder / "nothing") == []


def test_a_thousand_patients_sort_and_filter_in_a_browser(tmp_path: Path) -> None:
    pytest.importorskip("itables")
    for n in range(1000):
        result(tmp_path, f"p{n:04d}", lesion_ml=float((n * 37) % 1000) if n % 10 else None, warnings=[NASTY] * (n % 3))
    write_cohort(tmp_path)
    assert (tmp_path / "cohort.html").stat().st_size < 3_000_000
    script = """
      const begun = Date.now();
      while (!document.querySelector(".dt-search input") && Date.now() - begun < 20000) await wait(50);
      const cells = () => [...document.querySelectorAll("table.dataTable tbody tr")].map((r) => r.cells[1].textContent);
      found.info = document.querySelector(".dt-info").textContent;
      const title = document.querySelectorAll("table.dataTable thead th")[1];
      for (const _ of [1, 2]) { (title.querySelector(".dt-column-order") || title).click(); await wait(200); }
      found.sorted = cells();
      const search = document.querySelector(".dt-search input");
      search.value = "p0037"; search.dispatchEvent(new Event("input")); search.dispatchEvent(new Event("keyup"));
      await wait(500);
      found.one = cells().length;
      found.filters = document.querySelectorAll("table.dataTable thead input").length;
      found.bad = window.bad === undefined;
    """
    found = open_page(tmp_path / "cohort.html", script, virtual_ms=30000)
    assert found["errors"] == []
    assert found["refused"] == []
    assert all(address.split(":")[0] in ("data", "blob", "file") for address in found["fetched"])
    assert "1,000" in found["info"] or "1000" in found["info"]
    values = [float(v) for v in found["sorted"] if v]
    assert len(values) == 25
    assert values == sorted(values, reverse=True)
    assert values[0] == 999.0
    assert found["one"] == 1
    assert found["filters"] == 4  # no column that is empty throughout
    assert found["bad"]
