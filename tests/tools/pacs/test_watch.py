# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from typing import Any

import pytest

from roi_fusion_tools.pacs.archive import ArchiveAwayError, Offer
from roi_fusion_tools.pacs.watch import watch_studies


class Enough(Exception):
    """Ends a watch."""


def taken(rounds: list[Any], answers: list[bool] | None = None, settled_s: float = 15.0) -> list[tuple[int, str]]:
    """Rounds in which studies were taken; a round is what the archive holds, or an error, and lasts 10 s."""
    now = -1
    out: list[tuple[int, str]] = []

    class Archive:
        def studies(self) -> list[str]:
            if isinstance(rounds[now], Exception):
                raise rounds[now]
            return sorted(rounds[now])

        def series(self, study: str) -> list[Offer]:
            return [Offer(m, m, n) for m, n in rounds[now][study].items()]

    def take(study: str) -> bool:
        out.append((now, study))
        return answers.pop(0) if answers else True

    def sleep(seconds: float) -> None:
        nonlocal now
        assert seconds == 10
        now += 1
        if now == len(rounds):
            raise Enough

    now = 0
    with pytest.raises(Enough):
        watch_studies(Archive(), take, 10, settled_s, clock=lambda: 10.0 * now, sleep=sleep)  # type: ignore[arg-type]
    return out


def test_a_study_is_taken_once_when_no_more_images_come() -> None:
    growing = [{"a": {"CT": 3, "MR": 1}}, {"a": {"CT": 3, "MR": 2}}, {"a": {"CT": 3, "MR": 5}}]
    assert taken([*growing, *[growing[-1]] * 6]) == [(4, "a")]


def test_a_study_that_grows_later_is_taken_again() -> None:
    first, later = {"a": {"CT": 3, "MR": 5}}, {"a": {"CT": 3, "MR": 9}}
    assert taken([*[first] * 5, *[later] * 5]) == [(2, "a"), (7, "a")]


def test_results_are_no_reason_to_take_it_again() -> None:
    with_results = {"a": {"CT": 3, "MR": 5, "SEG": 1, "SR": 1}}
    assert taken([*[{"a": {"CT": 3, "MR": 5}}] * 3, *[with_results] * 6]) == [(2, "a")]


def test_a_study_that_asks_for_it_is_taken_again() -> None:
    assert taken([{"a": {"CT": 3, "MR": 5}}] * 5, [False, True]) == [(2, "a"), (3, "a")]


def test_the_watch_outlives_an_archive_that_is_away() -> None:
    there = {"a": {"CT": 3, "MR": 5}}
    assert taken([there, ArchiveAwayError("away"), there, there]) == [(2, "a")]
