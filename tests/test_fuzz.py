# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Malformed studies through every door: each is used or refused with one sentence, none is lost, and good ones are as ever.

The normal suite tries 96 seeded studies; ``make fuzz`` (``FUZZ_STUDIES=3000``) tries more, with other seeds.
"""

from __future__ import annotations

import csv
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
from monai.bundle import ConfigParser

from conftest import BUNDLE
from malformed import DICOM_FAULTS, MAKERS, NAMES, dicom_study
from roi_fusion.config.check import inference_parser
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.cases import CaseDataset, find_cases, load_datalist
from roi_fusion.engine.prediction import Predictor
from roi_fusion.engine.weights import load_weights
from roi_fusion.errors import InputError
from roi_fusion.report.page import write_report
from roi_fusion_tools.explore import explore
from roi_fusion_tools.explore_page import write_exploration
from roi_fusion_tools.prepare import PrepareOptions, prepare_dataset

STUDIES = int(os.environ.get("FUZZ_STUDIES", 96))
SEED = int(os.environ.get("FUZZ_SEED", 0))
#: Share of the studies that come as DICOM; they go through prepare, whose registration takes longest.
DICOM_STUDIES = max(STUDIES // 12, len(DICOM_FAULTS))
LARGEST_GB, LONGEST_S = 2.0, 60.0


def is_one_sentence(text: str) -> bool:
    return 10 < len(text) < 1000 and "\n" not in text.strip() and "Traceback" not in text


def affine_of(image: Any) -> np.ndarray:
    """Where the file of a loaded case lies, index to RAS millimetres."""
    return np.asarray(image.meta["original_affine"], dtype=float).reshape(4, 4)


def nibabels_affine(file: Path) -> np.ndarray:
    """What nibabel says of a file, in millimetres."""
    image = nib.load(file)
    unit = {"meter": 1000.0, "micron": 0.001}.get(image.header.get_xyzt_units()[0], 1.0)
    return np.diag([unit, unit, unit, 1]) @ image.affine


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
def training_preprocessing():
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "train.json"))
    return [parser.get_parsed_content(f"preprocessing#{i}") for i in range(len(parser["preprocessing"]))]


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Knobs of a small network with random weights and the shortest sampling."""
    torch.manual_seed(0)
    small = {"channels": [8, 8, 12, 12], "denoiser_channels": [4, 4, 6]}
    checkpoint = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(RoiFusionNet(**small).state_dict(), checkpoint)
    knobs = {"checkpoint": str(checkpoint), "num_inference_steps": 1, "num_samples": 1, "guidance": "off"}
    return {**knobs, "device": torch.device("cpu"), **{f"network_def#{k}": v for k, v in small.items()}}


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
            **({"affine": affine_of(item["image"])} if "image" in item else {}),
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
        np.testing.assert_allclose(result["affine"], nibabels_affine(file), rtol=1e-5, atol=1e-3, err_msg=name)
        checked += 1
    assert checked > (STUDIES - DICOM_STUDIES) // 5


def some_of(studies: Path, count: int, root: Path) -> list[str]:
    """Names of some studies from all makers, linked into `root`, for the doors that take long."""
    names = sorted(p.name for p in studies.iterdir())
    step = max(1, len(names) // count)
    chosen = sorted({*names[:: step + (step % len(MAKERS) == 0)], next(n for n in names if n.endswith("_good"))})
    root.mkdir()
    for name in chosen:
        (root / name).symlink_to(studies / name)
    return chosen


def test_the_cache_of_a_training_refuses_what_inference_refuses(
    studies: Path, loaded: dict[str, dict], training_preprocessing, tmp_path: Path
) -> None:
    chosen = some_of(studies, STUDIES // 3, tmp_path / "part")
    dataset = CaseDataset(find_cases(tmp_path / "part"), training_preprocessing, cache=True, num_workers=0)
    kept = {item["case"] for item in dataset.loaded}
    assert kept | set(dataset.errors) == set(chosen)
    assert set(dataset.errors) == {n for n in chosen if "refused" in loaded[n]}
    for name, sentence in dataset.errors.items():
        assert sentence.replace(str(tmp_path / "part"), str(studies)) == loaded[name]["refused"]


def test_explore_reports_on_every_study(studies: Path, loaded: dict[str, dict], tmp_path: Path) -> None:
    chosen = some_of(studies, 30, tmp_path / "part")
    rows = list(explore(tmp_path / "part"))
    write_exploration(rows, tmp_path / "out")
    assert {r["case"] for r in rows} == set(chosen)
    for row in rows:
        assert all(is_one_sentence(note) or "\n" not in note for note in row["notes"])
        assert row["flags"] or "image" in loaded[row["case"]], f"{row['case']}: refused by inference, praised here"
    assert (tmp_path / "out" / "explore.html").is_file()


def test_predict_gives_results_or_one_sentence(
    studies: Path, loaded: dict[str, dict], small_weights: dict[str, Any], tmp_path: Path
) -> None:
    predictor = Predictor(**small_weights)
    for name in some_of(studies, 40, tmp_path / "part"):
        out = tmp_path / "out" / name
        mri, ct = (studies / name / f"{stem}.nii.gz" for stem in ("mri", "ct"))
        result, sentence = outcome_of(lambda m=mri, c=ct, o=out: predictor(m, c, o))
        if sentence is not None:
            assert is_one_sentence(sentence), f"{name}: {sentence}"
            assert not list(out.rglob("*.nii.gz")), f"{name}: refused, but results were written"
        else:
            assert np.isfinite(result.fused).all(), name
            assert result.fused.shape == nib.load(mri).shape[:3], name
            np.testing.assert_allclose(result.affine, nibabels_affine(mri), atol=1e-3, err_msg=name)


def test_inference_measures_and_reports_every_study(
    studies: Path, loaded: dict[str, dict], small_weights: dict[str, Any], tmp_path: Path
) -> None:
    """The run list of inference.json with reference masks beside the images: results, table, errors and page of one folder."""
    chosen, out = some_of(studies, 24, tmp_path / "part"), tmp_path / "out"
    parser = inference_parser(
        {**small_weights, "dataset_dir": str(tmp_path / "part"), "output_dir": str(out), "num_workers": 0}
    )
    load_weights(parser.get_parsed_content("network"), parser.get_parsed_content("checkpoint"), {})
    parser.get_parsed_content("evaluator").run()
    write_report(out)
    errors = json.loads((out / "errors.json").read_text())
    with (out / "metrics.csv").open() as f:
        measured = {row["case"] for row in csv.DictReader(f)}
    assert errors == {n: errors.get(n) for n in chosen if "refused" in loaded[n]}
    assert all(is_one_sentence(sentence) for sentence in errors.values())
    assert measured == set(chosen) - set(errors) == {p.parent.name for p in out.glob("*/result.json")}
    good = [nib.load(out / n / "fused.nii.gz").get_fdata() for n in measured if n.endswith("_good")]
    assert good
    assert all(np.array_equal(g, good[0]) for g in good)
    page = (out / "report.html").read_text()
    assert "Traceback" not in page
    assert "<script>" not in page


def test_prepare_takes_or_refuses_every_study(studies: Path, tmp_path: Path) -> None:
    chosen = some_of(studies, 20, tmp_path / "raw")
    options = PrepareOptions(register=False)
    record = prepare_dataset(tmp_path / "raw", tmp_path / "out", layout="cases", num_workers=0, options=options, progress=False)
    prepared = {row["case"] for row in record["cases"]}
    whole = {
        n for n in chosen if any((studies / n / f"{stem}{e}").is_file() for stem in ("mri", "ct") for e in (".nii.gz", ".nii"))
    }
    assert prepared | set(record["errors"]) == whole
    assert all(is_one_sentence(sentence) for sentence in record["errors"].values())
    assert {n for n in chosen if n.endswith("_good")} <= prepared
    usable = CaseDataset(find_cases(tmp_path / "out"), inference_parser({}).get_parsed_content("preprocessing"), cache=False)
    for number in range(len(usable)):
        assert "image" in usable[number], usable.errors


def test_names_are_taken_as_typed(good: Path, tmp_path: Path, preprocessing) -> None:
    for name in NAMES:
        shutil.copytree(good, tmp_path / "cases" / name)
    dataset = CaseDataset(find_cases(tmp_path / "cases"), preprocessing, cache=False)
    cases = {dataset[i]["case"] for i in range(len(dataset))}
    assert cases == set(NAMES)
    assert not dataset.errors


def broken_json(whole: str, rng: np.random.Generator) -> list[bytes]:
    """A JSON text that holds something else, is no JSON, is cut off, nested without end, no UTF-8, or has a wrong byte."""
    texts = ["", "[]", "{", '"x"', "3", "NaN", "null", "\0", '{"train": 3}', '{"train": [["a"]]}', '{"cases": {"a": 1}}']
    cuts = [whole[: int(at)] for at in rng.integers(1, len(whole), 4)]
    flipped = []
    for at in rng.integers(0, len(whole), 8):
        raw = bytearray(whole.encode())
        raw[int(at) % len(raw)] ^= 1 << int(rng.integers(8))
        flipped.append(bytes(raw))
    return [*(t.encode() for t in (*texts, *cuts, "[" * 100_000)), b"\xff\xfe", *flipped]


def test_splits_that_are_broken_end_with_a_sentence(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "cases" / "a")
    whole = json.dumps({"train": ["a"], "val": [], "test": []})
    for text in broken_json(whole, np.random.default_rng(SEED)):
        (tmp_path / "cases" / "splits.json").write_bytes(text)
        _, sentence = outcome_of(lambda: load_datalist(tmp_path / "cases", "train"))
        assert sentence is None or is_one_sentence(sentence), text[:80]


def test_a_report_bears_broken_files(good: Path, small_weights: dict[str, Any], tmp_path: Path) -> None:
    Predictor(**small_weights)(Path(good) / "mri.nii.gz", Path(good) / "ct.nii.gz", tmp_path)
    (result,) = tmp_path.glob("*/result.json")
    contents = {
        result: result.read_text(),
        tmp_path / "errors.json": json.dumps({"b": "b/ct.nii.gz: expected a volume, found no such file"}),
        tmp_path / "summary.json": json.dumps({"cases": 1, "counts": {}, "methods": {}, "by_volume_class": {}}),
        tmp_path / "doctor.json": json.dumps({"gates": []}),
        tmp_path / "run.json": json.dumps({"data": {"train": {"lesion_masks": 0}}}),
        tmp_path / "history.jsonl": json.dumps({"epoch": 1, "iteration": 2, "loss": 0.5}),
        tmp_path / "metrics.csv": f"case,method,lesion_dice\n{result.parent.name},roi_fusion,0.5\n",
    }
    for file, whole in contents.items():
        for other, text in contents.items():
            other.write_text(text)
        for text in broken_json(whole, np.random.default_rng(SEED))[::4]:
            file.write_bytes(text)
            _, sentence = outcome_of(lambda: write_report(tmp_path))
            assert sentence is None or is_one_sentence(sentence), f"{file.name}: {text[:80]!r}"


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
