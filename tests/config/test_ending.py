# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import errno
from pathlib import Path

import pytest

from roi_fusion.config.ending import command_again, sentence_of
from roi_fusion.config.knob_values import check_writable
from roi_fusion.errors import InputError

MONAI = "/somewhere/site-packages/monai/bundle/__main__.py"


def test_the_command_that_continues_can_be_pasted() -> None:
    words = [MONAI, "run", "--output_dir", "run #1", "--resume", "old/last.pt", "--max_epochs", "5"]
    assert command_again(None, words) == (
        "python -m monai.bundle run --output_dir 'run #1' --resume old/last.pt --max_epochs 5"
    )
    assert command_again(Path("run #1/last.pt"), words) == (
        "python -m monai.bundle run --output_dir 'run #1' --max_epochs 5 --resume 'run #1/last.pt'"
    )
    assert command_again(None, ["scripts/tool.py", "--resume=x"]) == "scripts/tool.py --resume=x"
    assert command_again(Path("l.pt"), ["scripts/tool.py", "--resume=x"]) == "scripts/tool.py --resume l.pt"


def wrapped(error: BaseException) -> BaseException:
    """As MONAI's parser and ignite hand on what a config expression raises."""
    try:
        raise RuntimeError("Failed to evaluate '$@train#trainer.run()'") from error
    except RuntimeError as e:
        return e


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InputError("a.nii.gz: expected b, got c"), "a.nii.gz: expected b, got c"),
        (KeyboardInterrupt(), "stopped; what was written stays, and this goes on: AGAIN"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/last.pt"),
            "/x/last.pt: expected to be able to write, got 'No space left on device'; once there is room this goes on: AGAIN",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos; PytorchStreamWriter failed writing file"),
            "output: expected to be able to write, got 'No space left on device?'; once there is room this goes on: AGAIN",
        ),
    ],
    ids=["input", "Ctrl-C", "disk full", "disk full in torch"],
)
def test_an_end_is_one_sentence(error: BaseException, sentence: str) -> None:
    assert sentence_of(error, lambda: "AGAIN") == sentence
    assert sentence_of(wrapped(error), lambda: "AGAIN") == sentence


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    assert sentence_of(wrapped(TypeError("x"))) is None
    assert sentence_of(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None


def test_a_folder_that_nothing_can_be_written_to_is_refused_before_the_work(tmp_path: Path) -> None:
    check_writable("output_dir", tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="output_dir: expected a folder that can be written to, got /proc"):
        check_writable("output_dir", "/proc/results")
