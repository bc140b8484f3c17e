# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The command lines are thin: that they start, take their arguments, print something useful and refuse in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import benchmark_slices
from conftest import BUNDLE, ROOT
from helpers import slice_pictures
from in_process import run_script


def test_a_script_starts_as_a_process(tmp_path: Path) -> None:
    """From another folder, with nothing on the path; what else the scripts do is tested in the test process."""
    broken = tmp_path / "broken.json"
    broken.write_text('{"run": "$@nothing.run()"}')
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "scripts" / "check_config.py"), str(broken)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"file: {broken}" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_make_phantoms(tmp_path: Path) -> None:
    out = tmp_path / "d"
    text = run_script(
        "make_phantoms",
        "--output_dir",
        str(out),
        "--num_cases",
        "2",
        "--shape",
        "32,36,4",
        "--spacing_mm",
        "7,6.5,35",
        "--contrast",
        "adc,t1",
        cwd=tmp_path,
    )
    assert f"2 cases in {out}" in text
    record = json.loads((out / "dataset.json").read_text())
    assert record["config"]["shape"] == [32, 36, 4]
    assert {c["contrast"] for c in record["cases"].values()} <= {"adc", "t1"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--num_cases", "1", "--contrast", "t9"], "error: contrast: expected random or some of adc"),
        (["--num_cases", "1", "--shapes", "2,2,2"], "error: --shapes: expected one of"),
        (["--num_cases", "1", "--lesions", "none.npz"], "error: none.npz: expected a packed lesion file"),
        (["--num_cases", "0"], "error: num_cases: expected a whole number of 1 or more, got 0"),
    ],
)
def test_make_phantoms_refuses(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    assert sentence in run_script("make_phantoms", "--output_dir", str(tmp_path / "d"), *arguments, ok=False)


def test_check_config(tmp_path: Path) -> None:
    text = run_script("check_config", str(BUNDLE / "configs" / "train.json"), str(BUNDLE / "configs" / "evaluate.json"))
    assert "no fault in" in text
    broken = tmp_path / "broken.json"
    broken.write_text('{"run": "$@nothing.run()"}')
    lines = run_script("check_config", str(broken), ok=False).strip().splitlines()
    assert lines == ["id: run", f"file: {broken}", "cause: expected a reference to an id of the config, got @nothing"]


def test_slices_to_case_and_reports(tmp_path: Path) -> None:
    ct_dir, mri_dir = slice_pictures(tmp_path, {"16": range(3, 6)})
    arguments = ["--ct_dir", str(ct_dir), "--mri_dir", str(mri_dir), "--output_dir", str(tmp_path / "cases")]
    assert str(tmp_path / "cases" / "16") in run_script("slices_to_case", *arguments, "--spacing_mm", "1,1,6")
    assert "error: window_mri" in run_script(
        "export_slices", "--results_dir", str(tmp_path), "--output_dir", str(tmp_path / "o"), "--window_mri", "3,1", ok=False
    )
    assert "error: " in run_script("make_report", "--results_dir", str(tmp_path / "cases"), ok=False)
    assert "expected the summary of an evaluation" in run_script("show_metrics", "--results_dir", str(tmp_path), ok=False)


def test_the_documents_are_up_to_date() -> None:
    run_script("update_docs", "--check")


def test_benchmark_slices_refuses_what_is_not_there(tmp_path: Path) -> None:
    arguments = ["--slices_dir", str(tmp_path), "--peers", str(tmp_path / "p.json"), "--output_dir", str(tmp_path / "o")]
    text = run_script("benchmark_slices", *arguments, "--metrics_script", str(tmp_path / "m.py"), ok=False)
    assert f"error: {tmp_path / 'm.py'}: expected a file, there is none" in text
    for name in ("m.py", "p.json"):
        (tmp_path / name).write_text("")
    text = run_script("benchmark_slices", *arguments, "--metrics_script", str(tmp_path / "m.py"), ok=False)
    assert "m.py: expected a function masks(ct) that gives bone, brain and head, found none" in text


def test_the_margin_over_a_rule_is_paired_by_slice_and_counted_by_patient() -> None:
    """Two patients, one better by 0.1 in each slice, one worse by 0.02; a slice without bone is left out."""
    ours = {f"1600{k}.png": {"brain_ssim": 0.9, "bone_ssim": 0.8 + 0.01 * k} for k in range(4)}
    ours |= {f"2000{k}.png": {"brain_ssim": 0.7, "bone_ssim": 0.8 + 0.01 * k} for k in range(4)}
    other = {n: {**row, "bone_ssim": row["bone_ssim"] + (-0.1 if n < "2" else 0.02)} for n, row in ours.items()}
    ours["16009.png"] = other["16009.png"] = {"brain_ssim": 0.5}
    found = json.loads(json.dumps(benchmark_slices._margin(ours, other)))
    assert (found["slices"], found["patients"], found["patients_better"]) == (8, 2, 1)
    assert found["mean"] == pytest.approx(0.04)
    assert found["ci95"][0] < 0.04 < found["ci95"][1]
