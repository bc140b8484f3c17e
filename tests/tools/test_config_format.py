# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path

import pytest

from roi_fusion_tools.config_format import WIDTH, config_files, format_config, format_file


@pytest.mark.parametrize("path", config_files(), ids=lambda p: p.name)
def test_every_config_is_laid_out(path: Path) -> None:
    assert format_file(path, check=True), "run roi-fusion dev configs"


def test_train_json_can_be_read_at_a_glance() -> None:
    train = next(p for p in config_files() if p.name == "train.json").read_text()
    assert len(train.splitlines()) < 350
    assert '"patch_size": [96, 96, 16],' in train
    assert len(json.loads(train)["training"]) == 3


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"a": []},
        {"a": [[1, 2], [3]], "b": {"c": {"d": None}}, "e": "@x#y", "µ": "…"},
        {"long": list(range(60)), "object": {f"key_{n}": "word" * 5 for n in range(9)}},
    ],
)
def test_the_content_stays_and_the_layout_is_stable(content: object) -> None:
    text = format_config(content)
    assert json.loads(text) == content
    assert format_config(json.loads(text)) == text
    for line in text.splitlines():
        assert (len(line) - len(line.lstrip(" "))) % 4 == 0


def test_what_is_too_long_for_a_line_is_indented(tmp_path: Path) -> None:
    fits = {"k": {"_target_": "T", "text": "x" * (WIDTH - 45)}}
    assert max(map(len, format_config(fits).splitlines())) <= WIDTH
    assert len(format_config(fits).splitlines()) == 3
    fits["k"]["text"] += "x" * 20
    assert len(format_config(fits).splitlines()) == 6
    path = tmp_path / "x.json"
    path.write_text(json.dumps(fits))
    assert not format_file(path, check=True)
    assert path.read_text() == json.dumps(fits)
    assert not format_file(path)
    assert format_file(path)
