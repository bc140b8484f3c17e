# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Malformed studies through every door: each is used or refused with one sentence, none is lost, and good ones are as ever.

The normal suite makes 300, seeded; ``make fuzz`` makes 3,000, ten data sets of 300, with another seed. All of them go through
all doors: inference and training as data sets, explore, ``predict``, a run of inference, prepare. Volumes are small and the
network is tiny with random weights, because what is tested is what lies around it. DICOM headers, JSON files and names have
tests of their own at the end.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

import roi_fusion.report.page
import roi_fusion_tools.prepare.workers
from conftest import BUNDLE
from malformed import DICOM_FAULTS, MAKERS, NAMES, dicom_study
from roi_fusion.config.check import inference_parser
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.cases import CaseDataset, find_cases, load_datalist
from roi_fusion.engine.prediction import Predictor
from roi_fusion.engine.weights import load_weights
from roi_fusion.errors import InputError
from roi_fusion.report.page import write_report
from roi_fusion_tools.explore import look_at_case
from roi_fusion_tools.explore_page import write_exploration
from roi_fusion_tools.prepare import PrepareOptions, prepare_dataset

#: Malformed studies of a data set, and how many of them come as DICOM.
MALFORMED = 300
DICOM_STUDIES = 24
#: Seeds of the data sets.
FIRST = int(os.environ.get("FUZZ_SEED", 0))
SEEDS = range(FIRST, FIRST + int(os.environ.get("FUZZ_SETS", 1)))
#: After so many malformed studies comes a good one.
EVERY = 9
LARGEST_GB, LONGEST_S = 2.0, 60.0


@pytest.fixture(autouse=True)
def memory_stays() -> Iterator[None]:
    """No test raises the highest memory of this process by more than :data:`LARGEST_GB`."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    assert grown < LARGEST_GB, f"memory grew by {grown:.1f} GB"


def in_time(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call for one study returns, in :data:`LONGEST_S`."""
    began = time.monotonic()
    found = call(*arguments)
    assert time.monotonic() - began < LONGEST_S, arguments
    return found


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


@pytest.fixture(scope="module", params=SEEDS)
def seed(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def studies(seed: int, good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Case folders, one maker after another, each with its own seed, and good ones between them. Read-only."""
    root = tmp_path_factory.mktemp("fuzz") / "cases"
    makers = list(MAKERS.items())
    for number in range(MALFORMED - DICOM_STUDIES):
        name, make = makers[number % len(makers)]
        folder = root / f"{number:04d}_{name}"
        shutil.copytree(good, folder)
        make(folder, np.random.default_rng([seed, number]))
        if number % EVERY == EVERY - 1:
            shutil.copytree(good, root / f"{number:04d}_good")
    return root


def digest_of(image: torch.Tensor) -> str:
    return hashlib.sha256(np.ascontiguousarray(image.numpy(force=True)).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def loaded(studies: Path, preprocessing) -> dict[str, dict]:
    """Every study through the preprocessing of inference.json, as inference loads it: a digest of its image, or a sentence."""
    dataset = CaseDataset(find_cases(studies), preprocessing, cache=False)
    found = {}
    for number in range(len(dataset)):
        item = in_time(dataset.__getitem__, number)
        found[item["case"]] = {k: item[k] for k in ("refused",) if k in item}
        if "image" in item:
            image = item["image"]
            facts = {"image": digest_of(image), "finite": bool(torch.isfinite(image).all()), "affine": affine_of(image)}
            found[item["case"]].update(facts)
    return found


def refused_in(loaded: dict[str, dict]) -> set[str]:
    return {name for name, result in loaded.items() if "refused" in result}


def test_every_study_is_used_or_refused_with_one_sentence(studies: Path, loaded: dict[str, dict]) -> None:
    assert set(loaded) == {p.name for p in studies.iterdir()}
    for name, result in loaded.items():
        assert ("image" in result) != ("refused" in result), name
        if "refused" in result:
            assert is_one_sentence(result["refused"]), f"{name}: {result['refused']!r}"
            assert "expected" in result["refused"], f"{name}: {result['refused']!r}"
        else:
            assert result["finite"], name
    assert 0.2 < len(refused_in(loaded)) / len(loaded) < 0.8  # the makers break what they should, and not all of it


def test_good_studies_beside_bad_ones_are_bit_identical(good: Path, loaded: dict[str, dict], preprocessing) -> None:
    alone = CaseDataset([c for c in find_cases(Path(good).parent) if c["folder"] == str(good)], preprocessing, cache=False)[0]
    found = [r for name, r in loaded.items() if name.endswith("_good")]
    assert len(found) == (MALFORMED - DICOM_STUDIES) // EVERY
    assert {r["image"] for r in found} == {digest_of(alone["image"])}


def test_every_accepted_affine_is_nibabels(studies: Path, loaded: dict[str, dict]) -> None:
    checked = 0
    for name, result in loaded.items():
        file = studies / name / "mri.nii.gz"
        if "image" not in result or not file.is_file():
            continue
        np.testing.assert_allclose(result["affine"], nibabels_affine(file), rtol=1e-5, atol=1e-3, err_msg=name)
        checked += 1
    assert checked > (MALFORMED - DICOM_STUDIES) // 5


def test_the_cache_of_a_training_refuses_what_inference_refuses(
    studies: Path, loaded: dict[str, dict], training_preprocessing
) -> None:
    dataset = CaseDataset(find_cases(studies), training_preprocessing, cache=True, cache_rate=0.5, num_workers=0)
    assert {case["case"] for case in dataset.data} | set(dataset.errors) == set(loaded)
    pairs = {
        case["case"] for case in find_cases(studies) if {"image", "ct"} <= set(case)
    }  # inference takes one volume alone too
    assert set(dataset.errors) == refused_in(loaded) | (set(loaded) - pairs)
    assert all(is_one_sentence(sentence) for sentence in dataset.errors.values())
    for name in refused_in(loaded) & pairs:
        assert dataset.errors[name] == loaded[name]["refused"]


def test_explore_reports_on_every_study(studies: Path, loaded: dict[str, dict], tmp_path: Path) -> None:
    rows = [in_time(look_at_case, case) for case in find_cases(studies)]
    write_exploration(rows, tmp_path / "out")
    assert {r["case"] for r in rows} == set(loaded)
    for row in rows:
        assert all(is_one_sentence(note) or "\n" not in note for note in row["notes"])
        assert row["flags"] or "image" in loaded[row["case"]], f"{row['case']}: refused by inference, praised here"
    assert (tmp_path / "out" / "explore.html").is_file()


def test_predict_gives_results_or_one_sentence(
    studies: Path, loaded: dict[str, dict], small_weights: dict[str, Any], tmp_path: Path
) -> None:
    predictor = Predictor(**small_weights)
    for name in loaded:
        mri, ct = (studies / name / f"{stem}.nii.gz" for stem in ("mri", "ct"))
        result, sentence = in_time(outcome_of, functools.partial(predictor, mri, ct, tmp_path / name))
        if sentence is not None:
            assert is_one_sentence(sentence), f"{name}: {sentence}"
            assert not list((tmp_path / name).rglob("*.nii.gz")), f"{name}: refused, but results were written"
        else:
            assert np.isfinite(result.fused).all(), name
            assert result.fused.shape == nib.load(mri).shape[:3], name
            np.testing.assert_allclose(result.affine, nibabels_affine(mri), atol=1e-3, err_msg=name)


def test_inference_measures_and_reports_every_study(
    studies: Path, loaded: dict[str, dict], small_weights: dict[str, Any], tmp_path: Path
) -> None:
    """The run list of inference.json with reference masks beside the images: results, table and errors of one folder.

    Pictures take longest: its report shows one result of each kind.
    """
    parser = inference_parser({**small_weights, "dataset_dir": str(studies), "output_dir": str(tmp_path), "num_workers": 0})
    load_weights(parser.get_parsed_content("network"), parser.get_parsed_content("checkpoint"), {})
    evaluator, ends = parser.get_parsed_content("evaluator"), [time.monotonic()]
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: ends.append(time.monotonic()))
    evaluator.run()
    assert max(np.diff(ends)) < LONGEST_S
    errors = json.loads((tmp_path / "errors.json").read_text())
    with (tmp_path / "metrics.csv").open() as f:
        measured = {row["case"] for row in csv.DictReader(f)}
    assert errors == {n: loaded[n]["refused"] for n in refused_in(loaded)}
    assert measured == set(loaded) - set(errors) == {p.parent.name for p in tmp_path.glob("*/result.json")}
    good = [nib.load(tmp_path / n / "fused.nii.gz").get_fdata() for n in measured if n.endswith("_good")]
    assert good
    assert all(np.array_equal(g, good[0]) for g in good)
    shown = {n.split("_", 1)[1]: n for n in sorted(measured)}
    for name in set(measured) - set(shown.values()):
        shutil.rmtree(tmp_path / name)
    page = write_report(tmp_path, viewer=False)
    assert page is not None
    text = page.read_text()
    assert "Traceback" not in text
    assert all(name in text for name in (*shown.values(), *errors))


def test_prepare_takes_or_refuses_every_study(
    studies: Path, loaded: dict[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = roi_fusion_tools.prepare.workers
    monkeypatch.setattr(workers, "prepare_case", functools.partial(in_time, workers.prepare_case))
    options = PrepareOptions(register=False)
    record = prepare_dataset(studies, tmp_path, layout="cases", num_workers=0, options=options, progress=False)
    prepared = {row["case"] for row in record["cases"]}
    whole = {
        n for n in loaded if any((studies / n / f"{stem}{e}").is_file() for stem in ("mri", "ct") for e in (".nii.gz", ".nii"))
    }
    assert prepared | set(record["errors"]) == whole
    assert all(is_one_sentence(sentence) for sentence in record["errors"].values())
    good = {n for n in loaded if n.endswith("_good")}
    assert good <= prepared
    files = ("mri.nii.gz", "ct.nii.gz", "brain_mask.nii.gz", "bone_mask.nii.gz", "lesion_mask.nii.gz")
    assert len({tuple(digest_of(torch.from_numpy(nib.load(tmp_path / n / f).get_fdata())) for f in files) for n in good}) == 1
    usable = CaseDataset(find_cases(tmp_path), inference_parser({}).get_parsed_content("preprocessing"), cache=False)
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


def test_splits_that_are_broken_end_with_a_sentence(seed: int, good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "cases" / "a")
    whole = json.dumps({"train": ["a"], "val": [], "test": []})
    for text in broken_json(whole, np.random.default_rng(seed)):
        (tmp_path / "cases" / "splits.json").write_bytes(text)
        _, sentence = outcome_of(lambda: load_datalist(tmp_path / "cases", "train"))
        assert sentence is None or is_one_sentence(sentence), text[:80]


def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the report draws while the files that it is drawn from stay the same: most of a page's time is pictures."""
    page = roi_fusion.report.page

    def keep(name: str, files: Callable[..., Any]) -> None:
        make, kept = getattr(page, name), {}

        def draw(*arguments: Any, **options: Any) -> Any:
            key = files(*arguments)
            if key not in kept:
                kept[key] = make(*arguments, **options)
            return kept[key]

        monkeypatch.setattr(page, name, draw)

    keep("pictures_of", lambda folder: (folder / "result.json").read_bytes())
    keep("history_figures", lambda rows: json.dumps(rows))
    keep("figure_uri", lambda figure, *_: figure)


def test_a_report_bears_broken_files(
    seed: int, good: Path, small_weights: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn_once(monkeypatch)
    Predictor(**small_weights)(Path(good) / "mri.nii.gz", Path(good) / "ct.nii.gz", tmp_path)
    (result,) = tmp_path.glob("*/result.json")
    counts = {"n_empty_pred": 0, "n_empty_ref": 0, "fused_at_bounds": 0}
    gate = {"metric": "brain_ssim", "epoch": 20, "least": 0.8, "value": 0.9, "passed": True}
    contents = {
        result: result.read_text(),
        tmp_path / "errors.json": json.dumps({"b": "b/ct.nii.gz: expected a volume, found no such file"}),
        tmp_path / "summary.json": json.dumps({"cases": 1, "counts": counts, "methods": {}, "by_volume_class": {}}),
        tmp_path / "doctor.json": json.dumps({"gates": [gate]}),
        tmp_path / "run.json": json.dumps({"data": {"train": {"lesion_masks": 0}}}),
        tmp_path / "history.jsonl": json.dumps({"epoch": 1, "iteration": 2, "loss": 0.5}),
        tmp_path / "metrics.csv": f"case,method,lesion_dice\n{result.parent.name},roi_fusion,0.5\n",
    }
    for file, whole in contents.items():
        for other, text in contents.items():
            other.write_text(text)
        for text in broken_json(whole, np.random.default_rng(seed))[::4]:
            file.write_bytes(text)
            _, sentence = outcome_of(lambda: write_report(tmp_path))
            assert sentence is None or is_one_sentence(sentence), f"{file.name}: {text[:80]!r}"


def test_prepare_takes_or_refuses_every_dicom_study(seed: int, good: Path, tmp_path: Path) -> None:
    raw, faults = tmp_path / "raw", list(DICOM_FAULTS)
    good_ones = range(EVERY, DICOM_STUDIES + DICOM_STUDIES // EVERY, EVERY + 1)
    for number in range(DICOM_STUDIES + len(good_ones)):
        fault = None if number in good_ones else faults[number % len(faults)]
        dicom_study(raw / f"patient{number:03d}", Path(good), fault, np.random.default_rng([seed, number]), f"P{number:03d}")
    record = prepare_dataset(
        raw, tmp_path / "out", num_workers=0, options=PrepareOptions(register=False), progress=False, names="keep"
    )
    for sentence in record["errors"].values():
        assert is_one_sentence(sentence), sentence
    named = json.dumps(record)
    whole = [f"{n:03d}" for n in good_ones]
    prepared = {c["case"] for c in record["cases"]}  # named by PatientID or by folder, both end on the number
    assert all(any(p in name for name in prepared) for p in whole), "a good study beside bad ones was lost"
    assert "Traceback" not in named
