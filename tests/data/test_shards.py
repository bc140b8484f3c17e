# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from roi_fusion.data.shards import errors_file, merge_errors, share_of
from roi_fusion.errors import InputError
from roi_fusion.values import parse_shard


def cases_of(folder: Path, sizes: list[int]) -> list[dict[str, str]]:
    """A case with an MRI of so many slices each; some plain, some compressed, some with a CT alone."""
    found = []
    for n, size in enumerate(sizes):
        path = folder / f"c{n:02d}{('.nii', '.nii.gz')[n % 2]}"
        nib.save(nib.Nifti1Image(np.zeros((4, 4, size), np.uint8), np.eye(4)), path)
        found.append({"case": f"c{n:02d}", ("ct" if n % 5 == 0 else "image"): str(path)})
    return found


def test_shards_share_out_all_cases_by_their_voxels(tmp_path: Path) -> None:
    sizes = np.random.default_rng(0).integers(1, 200, 40).tolist()
    cases = cases_of(tmp_path, sizes)
    shards = [share_of(cases, f"{n}/6") for n in range(1, 7)]
    assert sorted(c["case"] for shard in shards for c in shard) == [c["case"] for c in cases]
    voxels = [sum(np.prod(nib.load(c.get("image") or c["ct"]).shape) for c in shard) for shard in shards]
    assert max(voxels) - min(voxels) <= 16 * max(sizes)  # at most one case apart
    assert max(voxels) < 1.05 * sum(voxels) / 6
    assert [c["case"] for c in shards[2]] == sorted(c["case"] for c in shards[2])
    shuffled = [cases[i] for i in np.random.default_rng(1).permutation(len(cases))]
    assert {c["case"] for c in share_of(shuffled, "3/6")} == {c["case"] for c in shards[2]}
    assert share_of(cases, None) == cases
    assert share_of(cases, "1/1") == cases


def test_cases_without_a_header_are_dealt_out_too(tmp_path: Path) -> None:
    cases = cases_of(tmp_path, [3, 3, 3, 3])
    Path(cases[1]["image"]).write_bytes(b"\x1f\x8bno")
    Path(cases[2]["image"]).write_bytes(b"")
    Path(cases[3]["image"]).unlink()
    shards = [share_of(cases, f"{n}/4") for n in range(1, 5)]
    assert [len(s) for s in shards] == [1, 1, 1, 1]
    assert [share_of(cases, f"{n}/9") for n in range(5, 10)] == [[]] * 5  # more shards than cases


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "-1/4", "1", "a/b", "1/4/2", "", "1.5/3", 3])
def test_a_shard_out_of_range_is_named(text: object) -> None:
    with pytest.raises(InputError, match="shard: expected K/N with K from 1 to N"):
        parse_shard(text)  # type: ignore[arg-type]


def test_the_refused_cases_of_shards_become_one_list(tmp_path: Path) -> None:
    for number, (name, content) in enumerate(
        {
            "errors.json": {"old": "why old", "mended": "was broken", "twice": "first"},
            "errors.2-of-2.json": {"z": "why z", "twice": "second"},
            "errors.1-of-2.json": {"a": "why a"},
        }.items()
    ):
        (tmp_path / name).write_text(json.dumps(content))
        os.utime(tmp_path / name, ns=(number * 10**9, number * 10**9))
    for case, facts in {"mended": {}, "a": {"stale": "of an earlier run"}}.items():
        (tmp_path / case).mkdir()
        (tmp_path / case / "result.json").write_text(json.dumps(facts))
    merge_errors(tmp_path)
    found = json.loads((tmp_path / "errors.json").read_text())
    assert list(found.items()) == [("a", "why a"), ("old", "why old"), ("twice", "second"), ("z", "why z")]
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["errors.json"]
    merge_errors(tmp_path)  # nothing to do
    assert json.loads((tmp_path / "errors.json").read_text()) == found


def test_a_list_that_cannot_be_read_is_left_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    errors_file(tmp_path, "1/2").write_text("{")
    errors_file(tmp_path, "2/2").write_text('{"b": "why"}')
    merge_errors(tmp_path)
    assert json.loads(errors_file(tmp_path).read_text()) == {"b": "why"}
    assert "errors.1-of-2.json: expected refused cases" in caplog.text
    assert errors_file(tmp_path, "1/2").is_file()
