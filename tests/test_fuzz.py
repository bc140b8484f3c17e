# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Malformed studies through every door: each is used or refused with one sentence, none is lost, and good ones are as ever.

The normal suite tries some 300 seeded studies; ``make fuzz`` (``FUZZ_STUDIES=3000``) tries more, with other seeds.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from malformed import DICOM_FAULTS, MAKERS, NAMES, dicom_study
from roi_fusion.config.check import inference_parser
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.cases import CaseDataset, find_cases, load_datalist
from roi_fusion.engine.prediction import Predictor
from roi_fusion.errors import InputError
from roi_fusion_tools.explore import explore
from roi_fusion_tools.explore_page import write_exploration
from roi_fusion_tools.prepare import PrepareOptions, prepare_dataset

STUDIES = int(os.environ.get("FUZZ_STUDIES", 300))
SEED = int(os.environ.get("FUZZ_SEED", 0))
#: Share of the studies that come as DICOM; they go through prepare, whose registration takes longest.
DICOM_STUDIES = max(STUDIES // 12, len(DICOM_FAULTS))
LARGEST_GB, LONGEST_S = 2.0, 60.0


def is_one_sentence(text: str) -> bool:
    return 10 < len(text) < 1000 and "\n" not in text.strip() and "Traceback" not in text


def outcome_of(call: Callable[[], Any]) -> tuple[Any, str | None]:
    """What a call returns, or the sentence of its InputError; whatever else it raises fails the test."""
    try:
        return call(), None
    except InputError as e:
        return None, str(e)


@pytest.fixture(scope="module")
def good(tiny_dataset: Path) -> Path:
    return find_cases(tiny_dataset)[0]["folder"]


@pytest.fixture(scope="module")
def preprocessing():
    return inference_parser({}).get_parsed_content("preprocessing")


@pytest.fixture(scope="module")
def studies(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Case folders, one maker after another, each with its own seed; every tenth is good."""
    root = tmp_path_factory.mktemp("fuzz") / "cases"
    makers = list(MAKERS.items())
    for number in range(STUDIES - DICOM_STUDIES):
        name, make = makers[number % len(makers)]
        folder = root / (f"{number:04d}_good" if number % 10 == 9 else f"{number:04d}_{name}")
        shutil.copytree(good, folder)
        if number % 10 != 9:
            make(folder, np.random.default_rng([SEED, number]))
    return root


@pytest.fixture(scope="module")
def loaded(studies: Path, preprocessing) -> dict[str, dict]:
    """Every study through the preprocessing of inference.json, as inference loads it; with its seconds."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dataset = CaseDataset(find_cases(studies), preprocessing, cache=False)
    found = {}
    for number in range(len(dataset)):
        began = time.monotonic()
        item = dataset[number]
        found[item["case"]] = {
            **{k: item[k] for k in ("image", "refused") if k in item},
            "seconds": time.monotonic() - began,
        }
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 2**20
    assert grown < LARGEST_GB, f"memory grew by {grown:.1f} GB"
    return found


def test_every_study_is_used_or_refused_with_one_sentence(studies: Path, loaded: dict[str, dict]) -> None:
    assert set(loaded) == {p.name for p in studies.iterdir()}
    for name, result in loaded.items():
        assert ("image" in result) != ("refused" in result), name
        assert result["seconds"] < LONGEST_S, name
        if "refused" in result:
            assert is_one_sentence(result["refused"]), f"{name}: {result['refused']!r}"
            assert "expected" in result["refused"], f"{name}: {result['refused']!r}"
        else:
            assert bool(torch.isfinite(result["image"]).all()), name
    refused = sum("refused" in r for r in loaded.values())
    assert 0.2 < refused / len(loaded) < 0.8  # the makers break what they should, and not all of it


def test_good_studies_beside_bad_ones_are_bit_identical(good: Path, loaded: dict[str, dict], preprocessing) -> None:
    alone = CaseDataset([c for c in find_cases(Path(good).parent) if c["folder"] == str(good)], preprocessing, cache=False)[0]
    found = [r for name, r in loaded.items() if name.endswith("_good")]
    assert len(found) >= (STUDIES - DICOM_STUDIES) // 10
    assert all(torch.equal(r["image"].as_tensor(), alone["image"].as_tensor()) for r in found)


def test_every_accepted_affine_is_nibabels(studies: Path, loaded: dict[str, dict]) -> None:
    checked = 0
    for name, result in loaded.items():
        file = studies / name / "mri.nii.gz"
        if "image" not in result or not file.is_file():
            continue
        image = nib.load(file)
        unit = {"meter": 1000.0, "micron": 0.001}.get(image.header.get_xyzt_units()[0], 1.0)
        wanted = np.diag([unit, unit, unit, 1]) @ image.affine
        original = np.asarray(result["image"].meta["original_affine"], dtype=float).reshape(4, 4)
        np.testing.assert_allclose(original, wanted, rtol=1e-5, atol=1e-3, err_msg=name)
        checked += 1
    assert checked > 20


def test_explore_reports_on_every_study(studies: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    for folder in sorted(studies.iterdir())[:: max(1, STUDIES // 60)]:
        (part / folder.name).symlink_to(folder)
    rows = list(explore(part))
    write_exploration(rows, tmp_path / "out")
    assert {r["case"] for r in rows} == {p.name for p in part.iterdir()}
    for row in rows:
        assert all(is_one_sentence(note) or "\n" not in note for note in row["notes"])
    assert (tmp_path / "out" / "explore.html").is_file()


def test_predict_gives_results_or_one_sentence(studies: Path, loaded: dict[str, dict], tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {"channels": [8, 8, 12, 12], "denoiser_channels": [4, 4, 6]}
    torch.save(RoiFusionNet(**small).state_dict(), tmp_path / "weights.pt")
    predictor = Predictor(
        tmp_path / "weights.pt",
        num_inference_steps=1,
        num_samples=1,
        guidance="off",
        **{f"network_def#{k}": v for k, v in small.items()},
    )
    chosen = sorted(loaded)[:: max(1, STUDIES // 40)]
    for name in chosen:
        out = tmp_path / "out" / name
        mri, ct = (studies / name / f"{stem}.nii.gz" for stem in ("mri", "ct"))
        result, sentence = outcome_of(lambda m=mri, c=ct, o=out: predictor(m, c, o))
        if sentence is not None:
            assert is_one_sentence(sentence), f"{name}: {sentence}"
            assert not list(out.rglob("*.nii.gz")), f"{name}: refused, but results were written"
        else:
            assert np.isfinite(result["fused"]).all(), name
            assert result["fused"].shape == nib.load(mri).shape[:3], name


def test_names_are_taken_as_typed(good: Path, tmp_path: Path, preprocessing) -> None:
    for name in NAMES:
        shutil.copytree(good, tmp_path / "cases" / name)
    dataset = CaseDataset(find_cases(tmp_path / "cases"), preprocessing, cache=False)
    cases = {dataset[i]["case"] for i in range(len(dataset))}
    assert cases == set(NAMES)
    assert not dataset.errors


def test_splits_that_are_broken_end_with_a_sentence(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "cases" / "a")
    rng = np.random.default_rng(SEED)
    whole = json.dumps({"train": ["a"], "val": [], "test": []})
    broken = [
        "",
        "[]",
        "{",
        '"x"',
        '{"train": 3}',
        "NaN",
        '{"train": [["a"]]}',
        "\x00",
        whole[: int(rng.integers(1, len(whole)))],
    ]
    for text in broken:
        (tmp_path / "cases" / "splits.json").write_text(text)
        _, sentence = outcome_of(lambda: load_datalist(tmp_path / "cases", "train"))
        assert sentence is None or is_one_sentence(sentence), text


def test_prepare_takes_or_refuses_every_dicom_study(good: Path, tmp_path: Path) -> None:
    raw, faults = tmp_path / "raw", list(DICOM_FAULTS)
    for number in range(DICOM_STUDIES):
        fault = None if number % 5 == 4 else faults[number % len(faults)]
        dicom_study(raw / f"patient{number:03d}", Path(good), fault, np.random.default_rng([SEED, number]), f"P{number:03d}")
    record = prepare_dataset(raw, tmp_path / "out", num_workers=0, options=PrepareOptions(register=False), progress=False)
    for sentence in record["errors"].values():
        assert is_one_sentence(sentence), sentence
    named = json.dumps(record)
    whole = [f"{n:03d}" for n in range(DICOM_STUDIES) if n % 5 == 4]
    prepared = {c["case"] for c in record["cases"]}  # named by PatientID or by folder, both end on the number
    assert all(any(p in name for name in prepared) for p in whole), "a good study beside bad ones was lost"
    assert "Traceback" not in named
