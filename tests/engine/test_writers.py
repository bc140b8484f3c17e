# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

import heads
from conftest import BUNDLE
from helpers import engine_of
from roi_fusion.data import results
from roi_fusion.data.history import read_history
from roi_fusion.data.results import RESULT_FILES, read_result, save_case
from roi_fusion.engine import writers
from roi_fusion.engine.prediction import predict
from roi_fusion.engine.weights import sha256_of
from roi_fusion.engine.writers import ErrorsWriter, HistoryWriter, TableWriter
from roi_fusion.metrics import table
from roi_fusion.metrics.table import read_rows, write_rows
from roi_fusion.report.page import write_report
from roi_fusion.values import write_json


def row(case: str, dice: float = 0.5) -> dict[str, Any]:
    return {
        "case": case,
        "method": "roi_fusion",
        "volume_class": "small",
        "lesion_ml": 1.0,
        "lesion_dice": dice,
        "n_cases": 1.0,
        "warnings": "",
    }


def run(folder: Path, cases: list[str], stop_after: int | None = None, checkpoint: str = "abc", errors: Any = None) -> None:
    """An evaluation of some cases whose results are written beside it; killed after `stop_after` of them."""
    errors = errors or {}
    dataset = SimpleNamespace(data=[{"case": c} for c in cases], errors={})

    def step(engine: Engine, case: str) -> None:
        if case in errors:
            dataset.errors[case] = errors[case]
            return
        engine.state.case_rows.append(row(case))
        write_json(folder / case / "result.json", {"case": case})

    engine = Engine(step)
    engine.network = torch.nn.Linear(1, 1)
    writers.record_of = lambda _: {"sha256": checkpoint}
    engine.add_event_handler(Events.EPOCH_STARTED, lambda e: setattr(e.state, "case_rows", []))
    TableWriter(folder).attach(engine)
    ErrorsWriter(folder, [dataset]).attach(engine)
    seen = []

    def stop(engine: Engine) -> None:
        seen.append(1)
        if len(seen) == stop_after:
            raise KeyboardInterrupt

    engine.add_event_handler(Events.ITERATION_COMPLETED, stop)
    try:
        engine.run(cases, max_epochs=1)
    except KeyboardInterrupt:
        assert stop_after


@pytest.fixture(autouse=True)
def _own_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "record_of", writers.record_of)


def cases_of(folder: Path) -> list[str]:
    return [r["case"] for r in read_rows(folder)]


def test_a_run_that_is_stopped_leaves_the_rows_and_refusals_so_far(tmp_path: Path) -> None:
    run(tmp_path, ["a", "b", "c", "d"], stop_after=3, errors={"b": "b: expected x, got y"})
    assert cases_of(tmp_path) == ["a", "c"]
    assert json.loads((tmp_path / "errors.json").read_text()) == {"b": "b: expected x, got y"}
    assert not (tmp_path / "summary.json").exists()


def test_the_table_grows_by_each_case_and_is_not_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[int] = []
    written = table.write_rows
    monkeypatch.setattr(table, "write_rows", lambda folder, rows: whole.append(len(rows)) or written(folder, rows))
    growing = table.GrowingTable(tmp_path, [row("earlier")])
    for n in range(60):
        extra = {"lesion_f1": 0.25} if n == 40 else {}  # a column that no case before had
        growing.add([{**row(f"c{n}", 0.1 + n), **extra}, {**row(f"c{n}"), "method": "paste"}])
        with (tmp_path / "metrics.csv").open(newline="") as f:
            found = list(csv.DictReader(f))
        assert [r["case"] for r in found] == ["earlier", *(f"c{i}" for i in range(n + 1) for _ in range(2))]
    assert whole == [3, 83]
    assert float(found[-2]["lesion_dice"]) == pytest.approx(59.1)
    written(tmp_path / "other", growing.rows)
    assert (tmp_path / "metrics.csv").read_bytes() == (tmp_path / "other" / "metrics.csv").read_bytes()


def test_a_second_run_into_a_folder_keeps_what_lies_there(tmp_path: Path) -> None:
    run(tmp_path, ["a", "b"], errors={"b": "why b"})
    run(tmp_path, ["c"])
    assert cases_of(tmp_path) == ["a", "c"]
    assert json.loads((tmp_path / "summary.json").read_text())["cases"] == 2
    assert json.loads((tmp_path / "errors.json").read_text()) == {"b": "why b"}
    run(tmp_path, ["b"], checkpoint="other")  # mended
    assert cases_of(tmp_path) == ["a", "c", "b"]
    assert json.loads((tmp_path / "errors.json").read_text()) == {}
    assert json.loads((tmp_path / "summary.json").read_text())["checkpoints"] == ["abc", "other"]
    (tmp_path / "a" / "result.json").unlink()  # its results are gone, so is its row
    run(tmp_path, ["c"])
    assert cases_of(tmp_path) == ["b", "c"]


def test_results_of_a_case_that_is_refused_now_are_marked(tmp_path: Path) -> None:
    run(tmp_path, ["a", "c"])
    run(tmp_path, ["a"], errors={"a": "a: expected x, got y"})
    facts = json.loads((tmp_path / "a" / "result.json").read_text())
    assert facts["stale"] == "of an earlier run; the last one refused the case: a: expected x, got y"
    assert cases_of(tmp_path) == ["c"]
    run(tmp_path, ["c"], errors={"c": "no"})
    assert cases_of(tmp_path) == []
    assert not (tmp_path / "summary.json").exists()


def test_a_pair_that_was_given_by_its_files_is_marked_too(tmp_path: Path) -> None:
    run(tmp_path, ["p"])
    engine = Engine(lambda e, b: None)
    file = str(tmp_path / "in" / "p_mri.nii.gz")
    dataset = SimpleNamespace(data=[{"image": file}], errors={file: "why"})
    ErrorsWriter(tmp_path, [dataset]).attach(engine)
    engine.run([0], max_epochs=1)
    assert "stale" in json.loads((tmp_path / "p" / "result.json").read_text())


def test_names_that_are_no_utf8_or_look_like_formulas_spoil_no_table(tmp_path: Path) -> None:
    odd = [row("bad\udcffname"), row("=HYPERLINK(1)"), row("-1"), row("ok")]
    write_rows(tmp_path, odd)
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as f:
        assert [r["case"] for r in csv.DictReader(f)] == ["bad\\udcffname", "'=HYPERLINK(1)", "'-1", "ok"]
    assert cases_of(tmp_path) == ["bad\\udcffname", "=HYPERLINK(1)", "-1", "ok"]
    assert read_rows(tmp_path)[3]["lesion_dice"] == 0.5


def test_a_table_that_cannot_be_read_is_written_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"case,method\n\xff\xfe,1,2,3\n")
    run(tmp_path, ["a"])
    assert cases_of(tmp_path) == ["a"]
    assert "expected a table of metrics" in caplog.text


def test_a_case_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {key: MetaTensor(torch.ones(1, 2, 2, 2), affine=torch.eye(4)) for key in RESULT_FILES}
    save_case(tmp_path, "a", result, {"run": 1})
    (tmp_path / "a" / "mine.txt").write_text("mine")
    first = (tmp_path / "a" / "fused.nii.gz").read_bytes()
    written: list[str] = []

    def killed(path: Path, *_: Any) -> None:
        written.append(path.name)
        if len(written) == 3:
            raise KeyboardInterrupt
        path.write_bytes(b"half")

    monkeypatch.setattr(results, "write_volume", killed)
    with pytest.raises(KeyboardInterrupt):
        save_case(tmp_path, "a", result, {"run": 2})
    written.clear()
    with pytest.raises(KeyboardInterrupt):
        save_case(tmp_path, "b", result, {"run": 2})
    monkeypatch.undo()
    assert (tmp_path / "a" / "fused.nii.gz").read_bytes() == first
    assert json.loads((tmp_path / "a" / "result.json").read_text()) == {"run": 1}
    assert not (tmp_path / "b").exists()
    save_case(tmp_path, "b", result, {"run": 3})
    save_case(tmp_path, "a", result, {"run": 3})
    assert (tmp_path / "a" / "mine.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_brain_that_was_not_all_seen_has_no_lesion_of_0_ml(tmp_path: Path) -> None:
    """The CT shows the upper 8 slices, the lesion lies below."""
    pair = heads.make_pair()
    affine = heads.AFFINE.copy()
    affine[:3, 3] += 18 * affine[:3, 2]
    mri, ct = heads.save(tmp_path / "p_mri.nii.gz", pair.mri), heads.save(tmp_path / "p_ct.nii.gz", pair.ct[:, :, 18:], affine)
    predict(mri, ct, tmp_path / "out", num_samples=1, num_inference_steps=1, guidance="off")
    facts = read_result(tmp_path / "out" / "p")
    assert facts is not None
    assert (facts["lesion_ml"], facts["lesion_ml_interval"], facts["lesion_ml_is_lower_bound"]) == (None, None, True)
    assert any("have no CT and were not judged" in w for w in facts["warnings"])
    assert facts["weights"]["scheduler"] == "ddim"
    assert facts["weights"]["sha256"] == sha256_of(BUNDLE / "models" / facts["weights"]["checkpoint"])
    write_report(tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "none found, part of the brain was not seen" in page
    assert "have no CT and were not judged" in page


def test_history_is_one_line_an_epoch_and_a_resume_drops_what_it_repeats(tmp_path: Path) -> None:
    evaluator = SimpleNamespace(
        state=SimpleNamespace(
            metrics={"brain_ssim": 0.5, "lesion_dice": math.nan}, epoch=2, baselines={"paste": {"brain_ssim": 1.0}}
        )
    )
    engine = engine_of()
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(loss_total=1.0 / e.state.epoch))
    HistoryWriter(tmp_path, evaluator).attach(engine)
    engine.run([0], max_epochs=4)
    rows = read_history(tmp_path)
    assert [r["epoch"] for r in rows] == [1, 2, 3, 4]
    assert rows[1]["validation"] == {"brain_ssim": 0.5}  # missing is left out, not 0
    assert rows[1]["baselines"] == {"paste": {"brain_ssim": 1.0}}
    assert "validation" not in rows[2]
    with (tmp_path / "history.jsonl").open("a") as f:
        f.write('{"epoch": 5, "loss_')  # killed while writing
    assert len(read_history(tmp_path)) == 4
    again = engine_of()
    HistoryWriter(tmp_path).attach(again)
    again.load_state_dict({"epoch": 2, "max_epochs": 3, "epoch_length": 1})
    again.run([0], max_epochs=3)
    assert [r["epoch"] for r in read_history(tmp_path)] == [1, 2, 3]


def test_refused_cases_are_written(tmp_path: Path) -> None:
    engine = engine_of()
    ErrorsWriter(tmp_path, [SimpleNamespace(errors={"a": "why a"}), SimpleNamespace(errors={}), object()]).attach(engine)
    engine.run([0], max_epochs=1)
    assert json.loads((tmp_path / "errors.json").read_text()) == {"a": "why a"}
