# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The commands are thin: that they take their arguments, print something useful and refuse in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import BUNDLE
from helpers import slice_pictures
from in_process import run_cli
from roi_fusion_tools.benchmark.real_slices import _margin


def test_phantoms(tmp_path: Path) -> None:
    out = tmp_path / "d"
    text = run_cli(
        "phantoms",
        "--output",
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
        (
            ["--num_cases", "1", "--shapes", "2,2,2"],
            "error: --shapes: expected an option of roi-fusion phantoms, got an unknown one; did you mean --shape?",
        ),
        (["--num_cases", "1", "--lesions", "none.npz"], "error: none.npz: expected a packed lesion file"),
        (["--num_cases", "0"], "error: num_cases: expected a whole number of 1 or more, got 0"),
    ],
)
def test_phantoms_refuses(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    assert sentence in run_cli("phantoms", "--output", str(tmp_path / "d"), *arguments, ok=False)


def test_check(tmp_path: Path) -> None:
    text = run_cli("check", str(BUNDLE / "configs" / "train.json"), str(BUNDLE / "configs" / "evaluate.json"))
    assert "no fault in" in text
    broken = tmp_path / "broken.json"
    broken.write_text('{"run": "$@nothing.run()"}')
    lines = run_cli("check", str(broken), ok=False).strip().splitlines()
    assert lines == ["id: run", f"file: {broken}", "cause: expected a reference to an id of the config, got @nothing"]


def test_slices_and_reports(tmp_path: Path) -> None:
    ct_dir, mri_dir = slice_pictures(tmp_path, {"16": range(3, 6)})
    arguments = ["--ct_dir", str(ct_dir), "--mri_dir", str(mri_dir), "--output", str(tmp_path / "cases")]
    assert str(tmp_path / "cases" / "16") in run_cli("stack_slices", *arguments, "--spacing_mm", "1,1,6")
    assert "error: window_mri" in run_cli(
        "export_slices", "--results_dir", str(tmp_path), "--output", str(tmp_path / "o"), "--window_mri", "3,1", ok=False
    )
    assert "error: " in run_cli("report", str(tmp_path / "cases"), ok=False)


def test_the_documents_are_up_to_date() -> None:
    run_cli("dev", "documents", "--check")


def test_slices_refuse_what_is_not_there(tmp_path: Path) -> None:
    arguments = ["--slices_dir", str(tmp_path), "--peers", str(tmp_path / "p.json"), "--output", str(tmp_path / "o")]
    text = run_cli("slices", *arguments, "--metrics_script", str(tmp_path / "m.py"), ok=False)
    assert f"error: metrics_script: expected a file or folder that is there, found no {tmp_path / 'm.py'}" in text
    for name in ("m.py", "p.json"):
        (tmp_path / name).write_text("")
    text = run_cli("slices", *arguments, "--metrics_script", str(tmp_path / "m.py"), ok=False)
    assert "m.py: expected a function masks(ct) that gives bone, brain and head, found none" in text


def test_the_margin_over_a_rule_is_paired_by_slice_and_counted_by_patient() -> None:
    """Two patients, one better by 0.1 in each slice, one worse by 0.02; a slice without bone is left out."""
    ours = {f"1600{k}.png": {"brain_ssim": 0.9, "bone_ssim": 0.8 + 0.01 * k} for k in range(4)}
    ours |= {f"2000{k}.png": {"brain_ssim": 0.7, "bone_ssim": 0.8 + 0.01 * k} for k in range(4)}
    other = {n: {**row, "bone_ssim": row["bone_ssim"] + (-0.1 if n < "2" else 0.02)} for n, row in ours.items()}
    ours["16009.png"] = other["16009.png"] = {"brain_ssim": 0.5}
    found = json.loads(json.dumps(_margin(ours, other)))
    assert (found["slices"], found["patients"], found["patients_better"]) == (8, 2, 1)
    assert found["mean"] == pytest.approx(0.04)
    assert found["ci95"][0] < 0.04 < found["ci95"][1]
