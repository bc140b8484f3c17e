# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The benchmark of quality end to end on tiny phantoms, its statistics and its documents."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import roi_fusion_tools.benchmark.networks as benchmark_networks
import roi_fusion_tools.benchmark.quality as benchmark
from conftest import BUNDLE, ROOT
from roi_fusion.errors import InputError
from roi_fusion_tools.benchmark.comparison import compare
from roi_fusion_tools.benchmark.documents import benchmark_document, eval_metrics, model_card_parts
from roi_fusion_tools.benchmark.quality import QualityOptions, run_quality

WEIGHTS = str(BUNDLE / "models" / "model.pt")


@pytest.fixture(scope="module")
def finished(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmark")
    for name in ("train_cases", "registered_cases", "test_cases"):
        shutil.copytree(small_dataset, root / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_networks, "PATCH_SIZE", (32, 32, 8))
        patch.setattr(benchmark, "_CROP", (32, 32, 8))
        run_quality(_options(root))
    return root


def _options(root: Path) -> QualityOptions:
    return QualityOptions(
        str(root),
        "unused.npz",
        WEIGHTS,
        cases=3,
        train_cases=3,
        minutes=0.01,
        search_minutes=0.01,
        peer_cases=2,
        diffusion_cases=1,
        learning_rates=(1e-3, 1e-4),
        ablation_minutes=0.01,
    )


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
    assert json.loads(json.dumps(run_quality(_options(finished)), allow_nan=True))["methods"] == before["methods"]
    with pytest.raises(InputError, match=r"run\.json: expected minutes 0\.01 as before, got 3"):
        run_quality(replace(_options(finished), minutes=3))
    fewer = run_quality(replace(_options(finished), cases=1, peer_cases=1), ["shipped"])["methods"]
    assert {m["cases"] for m in fewer.values()} == {1}


def test_trained_networks_can_be_taken_over_from_an_earlier_run(tmp_path: Path) -> None:
    """Those of other shipped weights, and tests that would need both runs' cases, are not."""

    def pair(ours: str, other: str) -> dict[str, str]:
        return {"ours": ours, "other": other}

    earlier = {
        "options": {"cases": 3, "minutes": 1.0, "networks": ["dynunet"]},
        "methods": {
            "ROI Fusion": {"cases": 1},
            "ROI Fusion on the same crops": {"cases": 1},
            "ours": {"cases": 2},
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
    assert content["methods"] == {"ROI Fusion": {"cases": 3}, "ours": {"cases": 2}, "dynunet": {"cases": 2}}
    assert content["tests"] == [pair("ROI Fusion", "average"), pair("ours", "dynunet")]
    assert content["trainings"] == earlier["trainings"]
    assert content["taken_over"] == {"methods": ["ours", "dynunet"], "versions": {"torch": "2"}}
    content["options"]["minutes"] = 22.0  # type: ignore[index]
    with pytest.raises(InputError, match=r"quality\.json: expected minutes 22\.0 as in this run, got 1\.0"):
        benchmark._take_over(content, file)
    file.write_text("[]")
    with pytest.raises(InputError, match=r"expected the result of benchmark\.py quality"):
        benchmark._take_over(content, file)


def test_ablations_want_the_training_of_ours_first(small_dataset: Path, tmp_path: Path) -> None:
    for name in ("train_cases", "test_cases"):
        shutil.copytree(small_dataset, tmp_path / name)
    with pytest.raises(InputError, match=r"ours\.json: expected the training of ours"):
        run_quality(replace(_options(tmp_path), networks=("no_gate",)), ["train"])


def test_missing_weights_are_named_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pt: expected"):
        run_quality(replace(_options(tmp_path), checkpoint=str(tmp_path / "none.pt")))
    assert not list(tmp_path.iterdir())


def test_an_earlier_result_that_is_not_there_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: expected the result of benchmark\.py quality, found none"):
        run_quality(replace(_options(tmp_path), earlier=str(tmp_path / "none.json")), ["shipped"])
    assert not list(tmp_path.iterdir())


def test_paired_tests_are_scipys() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 0.1, 12), rng.normal(0.6, 0.1, 12)
    rows = [{"method": "ours", "case": str(i), "lesion_dice": v} for i, v in enumerate(a)]
    rows += [{"method": "segresnet", "case": str(i), "lesion_dice": v} for i, v in enumerate(b)]
    (found,) = compare(rows)
    assert found["mean_difference"] == pytest.approx((a - b).mean())
    assert found["p_wilcoxon"] == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert found["ci95"][0] < (a - b).mean() < found["ci95"][1]
    rows[0]["lesion_dice"] = float("nan")
    assert compare(rows)[0]["cases"] == 11


@pytest.mark.slow
def test_documents_hold_the_numbers(finished: Path, tmp_path: Path) -> None:
    quality = json.loads((finished / "quality.json").read_text())
    text = benchmark_document(finished, ROOT / "docs" / "benchmarks.md.j2")
    mean = quality["methods"]["ROI Fusion"]["brain_ssim"]["mean"]
    assert f"| ROI Fusion | 3 | {mean:.3f} (" in text
    with_lesion = quality["methods"]["ROI Fusion"]["lesion_dice"]["count"]
    assert f"| ROI Fusion | {with_lesion} | {quality['methods']['ROI Fusion']['lesion_dice']['mean']:.3f} (" in text
    assert "## Speed" not in text
    assert f"{mean:.3f} (" in model_card_parts(quality)["quality:fusion"]
    assert eval_metrics(quality)["brain_ssim"] == pytest.approx(mean, abs=1e-4)


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
