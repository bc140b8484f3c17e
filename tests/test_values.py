# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import BUNDLE
from roi_fusion.errors import InputError
from roi_fusion.values import as_bool, whole_file, write_json


def test_yes_and_no() -> None:
    assert [as_bool("x", v) for v in (True, "true", "True", 1, "yes")] == [True] * 5
    assert [as_bool("x", v) for v in (False, "false", "FALSE", 0, "no")] == [False] * 5
    with pytest.raises(InputError, match="register: expected true or false, got 'maybe'"):
        as_bool("register", "maybe")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.txt"
    with whole_file(path) as scratch:
        scratch.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"

    def fail() -> None:
        with whole_file(path) as scratch:
            scratch.write_text("ha")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    lines = f"with whole_file({str(tmp_path / 'a')!r}) as s:\n s.write_text('ha')\n print('written', flush=True)\n input()"

    def start() -> subprocess.Popen[str]:
        code = f"from roi_fusion.values import whole_file\n{lines}"
        environment = {**os.environ, "PYTHONPATH": str(BUNDLE)}
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        return process

    with start() as killed, start() as living:
        assert len(list(tmp_path.iterdir())) == 2
        killed.kill()
        killed.wait()
        (tmp_path / ".a.elsewhere.1").write_text("of another machine")
        write_json(tmp_path / "a", {})
        assert {p.name.rsplit(".", 1)[1] for p in tmp_path.iterdir() if p.name != "a"} == {str(living.pid), "1"}
        assert living.communicate("\n")
    assert (tmp_path / "a").read_text() == "ha"
