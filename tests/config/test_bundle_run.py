# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What looks behind MONAI: an expression finds its config, and an InputError ends ``monai.bundle run`` in one sentence."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
from monai.bundle import ConfigParser

from roi_fusion.config.bundle_run import calling_parser, print_errors_as_sentences
from roi_fusion.config.check import check_knobs
from roi_fusion.errors import InputError

IMPORTS = ["$import roi_fusion"]


def test_the_expression_finds_the_config_it_is_part_of() -> None:
    def parser(**extra: object) -> ConfigParser:
        return ConfigParser({"run": "$roi_fusion.config.check.check_knobs()", "imports": IMPORTS, "seed": 1, **extra})

    parser().get_parsed_content("run")
    with pytest.raises(RuntimeError) as e:
        parser(sede=2).get_parsed_content("run")
    assert isinstance(e.value.__cause__, InputError)
    assert "did you mean seed?" in str(e.value.__cause__)
    for function in (check_knobs, calling_parser):
        with pytest.raises(RuntimeError, match="expected to be called from a config expression"):
            function()


def test_the_nearest_parser_is_taken() -> None:
    """A config may be parsed by an expression of another one."""
    inner = ConfigParser({"found": "$roi_fusion.config.bundle_run.calling_parser()", "imports": IMPORTS})
    outer = ConfigParser({"found": "$inner()"}, globals={"inner": lambda: inner.get_parsed_content("found")})
    assert outer.get_parsed_content("found") is inner


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Errors that reach the hook which was there before."""
    errors: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: errors.append(error))
    return errors


def as_main(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    main = ModuleType("__main__")
    main.__spec__ = ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, "__main__", main)


def end_with(error: BaseException) -> None:
    sys.excepthook(type(error), error, error.__traceback__)


def test_an_input_error_ends_the_bundle_command_in_one_sentence(
    seen: list[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_main(monkeypatch, "monai.bundle.__main__")
    for _ in range(3):  # every run list of a process begins with it
        print_errors_as_sentences()
    wrapped = RuntimeError("Failed to evaluate '$...'")
    wrapped.__cause__ = InputError("ct.nii.gz: expected a CT in HU, got values from 0 to 255")
    end_with(wrapped)
    assert capsys.readouterr().err == "error: ct.nii.gz: expected a CT in HU, got values from 0 to 255\n"
    assert not seen
    defect = KeyError("fused")
    end_with(defect)
    assert seen == [defect]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", ["pytest.__main__", "monailabel.main", ""])
def test_other_processes_keep_their_hook(name: str, seen: list[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    as_main(monkeypatch, name)
    before = sys.excepthook
    print_errors_as_sentences()
    assert sys.excepthook is before
