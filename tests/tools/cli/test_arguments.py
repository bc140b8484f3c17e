# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""How every command takes its arguments: as annotated, and refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roi_fusion.config.knobs import KNOBS
from roi_fusion.errors import InputError
from roi_fusion_tools.cli.arguments import expect_there, knobs_elsewhere, parameters_of, tidy_words, with_knobs
from roi_fusion_tools.cli.start import run_command


def main(command: Callable[..., None], words: list[str]) -> None:
    run_command(command, words, "it")


Given = dict[str, Any]


@pytest.fixture
def given() -> Given:
    return {}


def command(given: Given) -> Callable[..., None]:
    def run(
        folder: str,
        count: int = 1,
        share: float = 0.5,
        shape: tuple[int, int, int] = (1, 1, 1),
        window: tuple[float, float] = (0.0, 1.0),
        words: tuple[str, ...] = (),
        flag: bool = True,
        split: str | None = "val",
        most: int | None = None,
        spacing: tuple[float, float] | None = None,
    ) -> None:
        given.update(locals())

    return run


def test_arguments_become_what_is_annotated(given: Given) -> None:
    arguments = "12 --count 3 --share 1 --shape 4,5,6 --window -1,2.5 --words a --flag false --split None --most 7 "
    arguments += "--spacing 1,2"
    main(command(given), arguments.split())
    expected = {
        "folder": "12",
        "count": 3,
        "share": 1.0,
        "shape": (4, 5, 6),
        "window": (-1.0, 2.5),
        "words": ("a",),
        "flag": False,
        "split": None,
        "most": 7,
        "spacing": (1.0, 2.0),
    }
    assert {k: given[k] for k in expected} == expected
    main(command(given), ["x", "--words", "/a/b.pt,c-d.pt"])
    assert given["words"] == ("/a/b.pt", "c-d.pt")
    main(command(given), ["x", "--words", "['a', 'b']"])
    assert given["words"] == ("a", "b")
    main(command(given), ["007", "--words", "a,2", "--flag", "--split=test", "--spacing", "None"])
    assert {k: given[k] for k in ("folder", "words", "flag", "split", "spacing")} == {
        "folder": "007",
        "words": ("a", "2"),
        "flag": True,
        "split": "test",
        "spacing": None,
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("x --count foo", "error: count: expected a whole number, got 'foo'"),
        ("x --count 1.5", "error: count: expected a whole number, got '1.5'"),
        ("x --share half", "error: share: expected a number, got 'half'"),
        ("x --shape 4", "error: shape: expected 3 values as 1,2,3, got '4'"),
        ("x --shape a,b,c", "error: shape: expected a whole number, got 'a'"),
        ("x --flag maybe", "error: flag: expected true or false, got 'maybe'"),
        ("x --split", "error: split: expected a text behind it, got nothing"),
        ("x --spacing 1", "error: spacing: expected 2 values as 1,2,3, got '1'"),
        ("x --folders y", "error: --folders: expected an option of it, got an unknown one; did you mean --folder?"),
        ("x --zzz y", "error: --zzz: expected an option of it, got an unknown one"),
        ("x -c 3", "error: -c: expected an option of it, got an unknown one"),
        ("--count 3", "error: --folder: expected by it, got none; it --help says what it is"),
        (
            "a 1 0.5 1,1,1 0,1 w true val 3 1,2 more",
            "error: more: expected an option as --name value behind it, got a bare word",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    arguments: str, sentence: str, given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command(given), arguments.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(sentence)
    assert ended.value.code == 2
    assert not given


@with_knobs("train", without=("seed",))
def turned(*, output: str, preset: str = "default", **knobs: Any) -> None:
    """Do nothing."""


def test_knobs_of_a_config_are_options_but_for_those_that_are_named() -> None:
    parameters = parameters_of(turned)
    assert list(parameters)[:2] == ["output", "preset"]
    assert parameters["max_epochs"].annotation is KNOBS["max_epochs"]
    assert not {"seed", "guidance", "output_dir", "bundle_root", "knobs"} & set(parameters)


def test_words_become_name_and_value_and_hyphens_are_underscores() -> None:
    words = ["--max-epochs", "3", "--output=a=b", "--resume_changed", "--learning_rate", "-1"]
    assert tidy_words(turned, words, "it") == ["--max_epochs=3", "--output=a=b", "--resume_changed=True", "--learning_rate=-1"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--max_epochs 0", "error: max_epochs: expected a whole number of 1 or more, got 0"),
        ("--max_epochs", "error: max_epochs: expected a value behind it, got nothing"),
        ("--patch_size 96,96", "error: patch_size: expected three whole numbers of 1 or more, got [96, 96]"),
        ("--max_epoch 3", "error: --max_epoch: expected an option of it, got an unknown one; did you mean --max_epochs?"),
    ],
)
def test_a_knob_is_checked_before_anything_runs(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(turned, ["--output", "x", *arguments.split()])
    assert capsys.readouterr().err.strip() == sentence


def test_what_is_not_there_and_what_a_config_has_not_is_one_sentence(tmp_path: Path) -> None:
    expect_there(mri=tmp_path, ct=None)
    with pytest.raises(InputError, match="ct: expected a file or folder that is there, found no nothing"):
        expect_there(mri=tmp_path, ct="nothing")
    knobs_elsewhere({"lesions": "x", "max_epochs": 3}, synthesis=True, tracking=False)
    with pytest.raises(InputError, match="run_name: expected --tracking beside it"):
        knobs_elsewhere({"run_name": "x"}, synthesis=True, tracking=False)


def test_wrapped_errors_and_places_that_cannot_be_written_are_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrapped() -> None:
        try:
            raise InputError("a/mri.nii.gz: why")
        except InputError as e:
            raise RuntimeError("Failed to evaluate ConfigExpression") from e

    def unwritable() -> None:
        (tmp_path / "file").touch()
        (tmp_path / "file" / "folder").mkdir()

    def broken() -> None:
        raise KeyError("a fault of ours")

    for failing, sentence in ((wrapped, "error: a/mri.nii.gz: why"), (unwritable, f"error: {tmp_path}/file/folder: Not a dir")):
        with pytest.raises(SystemExit):
            main(failing, [])
        assert capsys.readouterr().err.startswith(sentence)
    with pytest.raises(KeyError):  # a traceback is what reports it
        main(broken, [])
