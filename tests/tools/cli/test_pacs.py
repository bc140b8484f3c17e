# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import pytest

from roi_fusion.errors import InputError
from roi_fusion_tools.cli.pacs import _line, _taken, pacs
from roi_fusion_tools.pacs.archive import ArchiveAwayError
from roi_fusion_tools.pacs.study import Outcome

ADDRESS = "http://127.0.0.1:1/dicom-web"


def test_one_study_or_a_watch() -> None:
    with pytest.raises(InputError, match="expected either --study or --watch true, got none"):
        pacs(url=ADDRESS, output="out")
    with pytest.raises(InputError, match="expected either --study or --watch true, got both"):
        pacs(url=ADDRESS, output="out", study="1.2", watch=True)
    with pytest.raises(InputError, match="beside --study, got them beside --watch"):
        pacs(url=ADDRESS, output="out", watch=True, ct_study="1.2")


@pytest.mark.parametrize("which", [{"study": "1.2"}, {"watch": True}])
def test_an_archive_that_is_away_is_told_before_the_network_is_loaded(which: dict, tmp_path: Path) -> None:
    pytest.importorskip("dicomweb_client")
    with pytest.raises(ArchiveAwayError, match="got no connection for 1 s"):
        pacs(url=ADDRESS, output=str(tmp_path), patience_s=1, **which)


def test_lines() -> None:
    assert _line("1.2", Outcome(None, 0)) == "1.2  has these results already"
    assert _line("1.2", Outcome(Path("o"), 9, 3.14)) == "1.2  lesion 3.1 mL  9 files stored"
    assert _line("1.2", Outcome(Path("o"), 9)) == "1.2  lesion volume unknown  9 files stored"


@pytest.mark.parametrize(("error", "again"), [(InputError("bad"), False), (ArchiveAwayError("away"), True)])
def test_a_watch_goes_on_after_a_refusal(error: Exception, again: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Outcome:
        raise error

    assert _taken("1.2", fail) is not again
    assert capsys.readouterr().err == f"1.2  refused: {error}\n"
    with pytest.raises(ZeroDivisionError):
        _taken("1.2", lambda: 1 / 0)
