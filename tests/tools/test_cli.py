# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""How every script takes its arguments: as annotated, and refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _cli import main
from roi_fusion.errors import InputError

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
        ("x --folders y", "error: --folders: expected one of --count"),
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
