# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What a run shows: lines, bars, and what of other libraries is left out."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from ignite.engine import Engine

from roi_fusion.console import close_bars, duration, progress_bar, set_up_console, short_path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def console(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Standard output with the root logger's one handler, as MONAI's ``logging.conf`` makes it; all is put back at the end."""
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "true")
    root, names = logging.getLogger(), ("ignite.engine.engine", "alembic", "mlflow", "monai.bundle.scripts")
    before = [(v, v.level, v.handlers[:]) for v in (root, *map(logging.getLogger, names))]
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("LONG %(name)s %(message)s"))
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            yield out
    finally:
        for v, level, handlers in before:
            v.setLevel(level)
            v.handlers[:] = handlers


def run_engine() -> None:
    Engine(lambda engine, batch: None).run([0], max_epochs=1)


def test_lines_are_the_message_and_warnings_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with console(monkeypatch) as out:
        set_up_console()
        logging.getLogger("roi_fusion.x").info("case_1  lesion 3.0 mL")
        logging.getLogger("roi_fusion.x").warning("no CT")
        run_engine()
    assert out.getvalue() == "case_1  lesion 3.0 mL\nwarning: no CT\n"


def test_verbose_keeps_the_format_and_hears_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    with console(monkeypatch) as out:
        own = logging.getLogger("ignite.engine.engine.Engine")
        monkeypatch.setattr(own, "disabled", False)  # by a fileConfig of another library in the same process
        monkeypatch.setattr(own, "level", logging.NOTSET)
        own.manager._clear_cache()  # type: ignore[attr-defined]
        logging.getLogger("ignite.engine.engine").setLevel(logging.CRITICAL)  # of a quiet run in the same process
        set_up_console(verbose=True)
        run_engine()
    assert "LONG ignite.engine.engine.Engine Engine run " in out.getvalue()


def test_files_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = logging.FileHandler(tmp_path / "log")
    file.setFormatter(logging.Formatter("FILE %(message)s"))
    with console(monkeypatch):
        logging.getLogger().addHandler(file)
        set_up_console()
        logging.getLogger("x").info("said")
        assert logging.getLogger().handlers[1] is file
    file.close()
    assert (tmp_path / "log").read_text() == "FILE said\n"


def test_the_notice_on_trusted_configs_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with console(monkeypatch), warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        set_up_console()
        warnings.warn("parsing config_file x.json: any `_target_` value", stacklevel=1)
        warnings.warn("something of your own", stacklevel=1)
    assert [str(w.message) for w in found] == ["something of your own"]


def test_a_bar_is_drawn_on_a_terminal_and_not_torn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    with console(monkeypatch) as out:
        set_up_console()
        with progress_bar(4, "cases", "cases", file=terminal, mininterval=0, ncols=100) as bar:
            bar.update()
            logging.getLogger("x").info("line")
    assert "cases   0% |" in terminal.getvalue()  # a bar starts at nothing
    assert " 25% |" in terminal.getvalue()
    assert out.getvalue() == "line\n"


def test_no_bar_is_drawn_in_a_file() -> None:
    file = io.StringIO()
    with progress_bar(4, "cases", "cases", file=file) as bar:
        bar.update()
    assert file.getvalue() == ""


def test_an_error_takes_bars_away() -> None:
    terminal = Terminal()
    bar = progress_bar(4, "cases", "cases", file=terminal, ncols=100)
    close_bars()
    assert bar.disable
    assert terminal.getvalue().endswith("\r")
    close_bars()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (59.97, "1 min 0 s"), (3599.6, "1 h 0 min"), (90000, "25 h 0 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_path_is_written_as_it_is_shortest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    assert short_path(tmp_path / "a" / "out" / "report.html") == os.path.join("out", "report.html")
    assert short_path("out") == "out"
    assert short_path("/") == "/"
