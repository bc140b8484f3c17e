# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The benchmark of quality end to end on tiny phantoms, its statistics and its documents."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import roi_fusion_tools.benchmark.networks as benchmark_networks
import roi_fusion_tools.benchmark.quality as benchmark
from roi_fusion.errors import InputError
from roi_fusion_tools.benchmark.quality import QualityOptions, run_quality
from short_benchmark import WEIGHTS, tiny_options


@pytest.mark.slow
def test_every_method_is_measured_and_the_reference_is_not_scored_as_a_prediction(finished: Path) -> None:
    quality = json.loads((finished / "quality.json").read_text())
    methods = quality["methods"]
    assert {
        "ROI Fusion",
        "ROI Fusion, unguided",
        "average",
        "maximum",
        "paste",
        "Laplacian pyramid",
        "segresnet",
        "dynunet",
        "ours",
        "ours, unguided",
        "ours, short, unguided",
        "short, no gate",
        "short, lesion head on the MRI alone",
        "short, no regional losses",
        "short, on registered pairs",
        "short, on registered pairs, no jitter",
        "plain diffusion, 50 steps",
        "ours, short on the same crops",
        "ROI Fusion, first 2 cases",
    } <= set(methods)
    assert methods["ROI Fusion"]["cases"] == 3
    assert methods["dynunet"]["cases"] == 2
    assert methods["dynunet"]["lesion_dice"]["mean"] < 0.5  # a second of training finds no lesion
    assert "lesion_dice" not in methods["paste"]
    assert len(quality["trainings"]["ours"]["search"]) == 2
    assert quality["trainings"]["ours"]["learning_rate"] in (1e-3, 1e-4)
    assert quality["trainings"]["no_gate"]["learning_rate"] == quality["trainings"]["ours"]["learning_rate"]
    assert quality["options"]["minutes"] == 0.01
    assert len(quality["worst_cases"]) == 3


@pytest.mark.slow
def test_what_is_done_is_not_done_again(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = shutil.copytree(finished, tmp_path / "copy")  # other tests read what stands in the original

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(benchmark_networks, "train_peer", never)
    monkeypatch.setattr(benchmark, "sample_case", never)
    before = json.loads((finished / "quality.json").read_text())
    assert json.loads(json.dumps(run_quality(tiny_options(finished)), allow_nan=True))["methods"] == before["methods"]
    with pytest.raises(InputError, match=r"run\.json: expected minutes 0\.01 as before, got 3"):
        run_quality(replace(tiny_options(finished), minutes=3))
    fewer = run_quality(replace(tiny_options(finished), cases=1, peer_cases=1), ["shipped"])["methods"]
    assert {m["cases"] for m in fewer.values()} == {1}


def test_trained_networks_can_be_taken_over_from_an_earlier_run(tmp_path: Path) -> None:
    """Those of other shipped weights, and tests that would need both runs' cases, are not."""

    def pair(ours: str, other: str) -> dict[str, str]:
        return {"ours": ours, "other": other}

    earlier = {
        "options": {"cases": 3, "minutes": 1.0, "networks": ["dynunet"]},
        "methods": {
            "ROI Fusion": {"cases": 1, "hyperdense_dice": {"mean": 0.5}},
            "ROI Fusion on the same crops": {"cases": 1},
            "ours": {"cases": 2, "lesion_ece": {"mean": 0.1}},
            "dynunet": {"cases": 2},
        },
        "tests": [pair("ours", "dynunet"), pair("ROI Fusion", "dynunet"), pair("ROI Fusion", "paste")],
        "trainings": {"dynunet": {"steps": 5}},
        "versions": {"torch": "2"},
    }
    file = tmp_path / "quality.json"
    file.write_text(json.dumps(earlier))
    content = {
        "options": {"cases": 3, "minutes": 1.0, "networks": ("segresnet",)},
        "methods": {"ROI Fusion": {"cases": 3}},
        "tests": [pair("ROI Fusion", "average")],
        "trainings": {},
    }
    benchmark._take_over(content, file)
    assert content["methods"] == {"ROI Fusion": {"cases": 3}, "ours": earlier["methods"]["ours"], "dynunet": {"cases": 2}}  # type: ignore[index]
    assert content["tests"] == [pair("ROI Fusion", "average"), pair("ours", "dynunet")]
    assert content["trainings"] == earlier["trainings"]
    assert content["taken_over"] == {"methods": ["ours", "dynunet"], "versions": {"torch": "2"}}
    del earlier["methods"]["ROI Fusion"]["hyperdense_dice"]  # type: ignore[index]  # from before one region for all methods
    file.write_text(json.dumps(earlier))
    old = {**content, "methods": {"ROI Fusion": {"cases": 3}}, "tests": []}
    benchmark._take_over(old, file)
    assert old["methods"]["ours"] == {"cases": 2}  # type: ignore[index]
    assert old["tests"] == []
    content["options"]["minutes"] = 22.0  # type: ignore[index]
    with pytest.raises(InputError, match=r"quality\.json: expected minutes 22\.0 as in this run, got 1\.0"):
        benchmark._take_over(content, file)
    file.write_text("[]")
    with pytest.raises(InputError, match=r"expected the result of roi-fusion benchmark quality"):
        benchmark._take_over(content, file)


def test_missing_weights_are_named_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pt: expected"):
        run_quality(replace(tiny_options(tmp_path), checkpoint=str(tmp_path / "none.pt")))
    assert not list(tmp_path.iterdir())


def test_an_earlier_result_that_is_not_there_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: expected the result of roi-fusion benchmark quality, found none"):
        run_quality(replace(tiny_options(tmp_path), earlier=str(tmp_path / "none.json")), ["shipped"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cases": 0}, "cases"),
        ({"minutes": 0.0}, "minutes"),
        ({"learning_rates": ()}, "learning_rates"),
        ({"ablation_minutes": 0.0}, "ablation_minutes"),
        ({"networks": ("unet",)}, "networks: expected some of segresnet"),
    ],
)
def test_bad_options_are_refused(change: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        QualityOptions("out", "lesions.npz", WEIGHTS, **change)
    with pytest.raises(InputError, match="stages: expected some of train, shipped, peers, diffusion, got 'all'"):
        run_quality(QualityOptions("out", "lesions.npz", WEIGHTS), ["all"])
