# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import sys
from pathlib import Path

import fire
import pytest
from monai.bundle.scripts import run

from roi_fusion.config.check import inference_parser
from roi_fusion.config.paths import typed_paths
from roi_fusion.errors import InputError

#: Names that a shell hands over as they are, and that are something else to Python, to fire or to MONAI's parser.
NAMES = (
    "run#1",
    "a#b::c",
    "12",
    "1e3",
    "a,b",
    "[1]",
    "None1",
    "@dataset_dir",
    "x@dataset_dir",
    "$1 + 1",
    "$__import__('pathlib').Path('pwned').touch()",
    "50%",
    "with space",
    "ümlaut",
    "{'a': 1}",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_of_the_command_line_is_taken_as_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through fire and MONAI's own run, as ``python -m monai.bundle run`` does."""
    config = {
        "imports": ["$import pathlib", "$import roi_fusion"],
        "dataset_dir": "somewhere",
        "output_dir": "$@dataset_dir + '/out'",
        "below": "$@output_dir + '/report'",
        "run": [
            "$roi_fusion.config.check.check_knobs()",
            "$pathlib.Path('found.txt').write_text(@output_dir + chr(10) + @below)",
        ],
    }
    (tmp_path / "c.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    for words in (["--output_dir", name], [f"--output_dir={name}"], ["--output-dir", name]):
        arguments = ["run", "--config_file", "c.json", "--logging_file", "False", *words]
        monkeypatch.setattr(sys, "argv", ["monai.bundle", *arguments])
        fire.Fire({"run": run}, command=arguments)
        assert (tmp_path / "found.txt").read_text() == f"{name}\n{name}/report"
    assert not (tmp_path / "pwned").exists()


def test_only_paths_are_taken_from_a_command_line_that_runs_a_config() -> None:
    words = ["run", "--config_file", "a.json", "--mri", "$x", "--seed", "3", "--resume", "None", "--ct", "--num_samples", "2"]
    assert typed_paths(words) == {"mri": "$x"}
    assert typed_paths(["--output_dir", "x#1"]) == {}  # another program's


def test_a_knob_of_a_path_is_checked_although_it_looks_like_code(tmp_path: Path) -> None:
    file = tmp_path / "$file"
    file.write_text("")
    with pytest.raises(InputError, match=r"output_dir: expected a folder, got the file .*\$file"):
        inference_parser({"output_dir": str(file)})


@pytest.mark.parametrize("name", ["$__import__('pathlib').Path('pwned').touch()", "@ct", "a#b", "%nothing.json::x"])
def test_paths_from_python_are_data_too(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parser = inference_parser({"checkpoint": name, "num_samples": 1})
    assert parser.get_parsed_content("checkpoint") == name
    assert parser.get_parsed_content("num_samples") == 1
    assert parser.get_parsed_content("dataset_dir").endswith("/data")
    assert not (tmp_path / "pwned").exists()
