# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from tests.data.test_results import INTENSITY

from roi_fusion.core.intensity import fusion_sources
from roi_fusion.data.cases import collate_cases
from roi_fusion.engine.case_metrics import default_metrics
from roi_fusion.engine.evaluator import CaseEvaluator, CaseMetrics, CasePreparer, require_results, volume_class
from roi_fusion.errors import InputError
from roi_fusion.metrics.table import summarise, write_tables
from roi_fusion.values import PREDICTION_CHANNELS


def item(name: str = "a", known: float = 1.0, spacing: tuple[float, float, float] = (1.0, 1.0, 5.0)) -> dict:
    torch.manual_seed(len(name))
    image = torch.randn(2, 24, 24, 4)
    image[:, :3] = 0
    masks = {k: torch.zeros(1, 24, 24, 4, dtype=torch.uint8) for k in ("bone", "brain", "dense", "label")}
    masks["bone"][:, 4:6] = 1
    masks["brain"][:, 8:20, 4:20] = 1
    masks["label"][:, 10:14, 8:13, 1:3] = 1
    affine = np.diag([*spacing, 1.0])
    return {"case": name, "image": MetaTensor(image, affine=affine), **masks, "label_known": known, "intensity": INTENSITY}


def prediction(case: dict, fused: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    channels = {n: torch.zeros(1, 24, 24, 4) for n in PREDICTION_CHANNELS}
    channels["fused"], channels["lesion_prob"] = fused, probability
    return torch.cat([channels[n] for n in PREDICTION_CHANNELS])


def test_rows_of_a_case() -> None:
    case = item()
    image = case["image"].as_tensor()
    mri, ct = (v[0] for v in fusion_sources(image[None]))
    paste = torch.where(case["bone"] > 0, ct, mri)
    rows = CaseMetrics(threshold=torch.tensor([0.5])).measure(case, prediction(case, paste, case["label"].float()))
    by_method = {r["method"]: r for r in rows}
    assert list(by_method) == ["roi_fusion", "average", "maximum", "paste", "target"]
    ours = by_method["roi_fusion"]
    assert ours["brain_ssim"] == pytest.approx(1.0)
    assert ours["bone_ssim"] == pytest.approx(1.0)
    assert ours["brain_ssim_context"] < 1
    assert ours["seam_ratio"] == by_method["paste"]["seam_ratio"]
    assert ours["lesion_dice"] == 1.0
    assert ours["lesion_ml"] == pytest.approx(4 * 5 * 2 * 5 / 1000)
    assert ours["volume_class"] == "small"
    assert by_method["target"]["brain_ssim"] == pytest.approx(1.0)
    assert by_method["average"]["brain_ssim"] < 0.9
    assert not any(k.startswith("lesion_d") for k in by_method["paste"])  # no head ran there


def test_an_unknown_lesion_gives_no_score() -> None:
    case = item(known=0.0)
    row = CaseMetrics().measure(case, prediction(case, case["image"][:1].as_tensor(), torch.rand(1, 24, 24, 4)))[0]
    assert "lesion_dice" not in row
    assert math.isnan(row["lesion_ml"])
    assert row["volume_class"] == "unknown"


def test_a_lesion_beyond_the_ct_is_missed_and_not_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    case = item()
    inside = int(case["label"].sum())
    found = prediction(case, case["image"][:1].as_tensor(), case["label"].float())
    row = CaseMetrics(with_baselines=False).measure({**case, "label_voxels": float(inside + 60)}, found)[0]
    assert row["lesion_dice"] == pytest.approx(2 * inside / (2 * inside + 60))
    assert row["lesion_ml"] == pytest.approx((inside + 60) * 5 / 1000)
    assert row["lesion_volume_difference_ml"] == pytest.approx(-60 * 5 / 1000)
    assert math.isnan(row["lesion_hd95_mm"])
    assert "0.30 of 0.50 mL of the lesion lie outside" in caplog.text
    nothing = {**case, "label": torch.zeros_like(case["label"]), "label_voxels": 60.0}
    row = CaseMetrics(with_baselines=False).measure(nothing, torch.zeros_like(found))[0]
    assert (row["lesion_dice"], row["n_empty_ref"], row["volume_class"]) == (0, 0, "small")
    whole = CaseMetrics(with_baselines=False).measure({**case, "label_voxels": float(inside)}, found)[0]
    assert whole["lesion_dice"] == 1
    assert whole["lesion_hd95_mm"] == 0


def test_only_masks_of_the_case_guide(caplog: pytest.LogCaptureFixture) -> None:
    batch = {**collate_cases([item()]), "bone_known": torch.ones(1), "brain_known": torch.zeros(1)}
    masks = CasePreparer(("brain_mask", "bone_mask", "lesion_mask"))(batch)[3]["masks"]
    assert set(masks) == {"bone_mask", "lesion_mask"}
    assert "no brain_mask.nii.gz to guide by" in caplog.text
    assert set(CasePreparer("bone_mask")(batch)[3]["masks"]) == {"bone_mask"}
    with pytest.raises(InputError, match="guidance_masks: expected names of brain_mask, bone_mask, lesion_mask, got 'skull'"):
        CasePreparer("skull")


def test_spacing_comes_from_each_case() -> None:
    shifted = item("a")["label"].roll(2, 3).float()
    found = []
    for spacing in ((1.0, 1.0, 5.0), (1.0, 1.0, 0.5)):
        case = item("a", spacing=spacing)
        found.append(
            CaseMetrics(with_baselines=False).measure(case, prediction(case, case["image"][:1].as_tensor(), shifted))[0]
        )
    assert found[0]["lesion_hd95_mm"] > 5 * found[1]["lesion_hd95_mm"]


class FakeNet(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Loader(list):
    """Batches whose workers have read their own copies of the data set."""

    dataset = SimpleNamespace(errors={})


def test_an_evaluator_passes_over_refused_cases(tmp_path: Path) -> None:
    good = [item("aa"), item("bbb")]
    bad = {"case": "bad", "refused": "bad/ct.nii.gz: why"}
    batches = [collate_cases([good[0]]), collate_cases([bad]), collate_cases([good[1], {**bad, "case": "worse"}])]
    loader = Loader(batches)

    def infer(inputs: torch.Tensor, network: torch.nn.Module, *args: object, **kwargs: object) -> torch.Tensor:
        return torch.cat([inputs[:, :1], torch.full_like(inputs[:, :1], 0.2), *[torch.zeros_like(inputs[:, :1])] * 4], dim=1)

    metrics = default_metrics()
    evaluator = CaseEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=FakeNet(),
        inferer=infer,
        prepare_batch=CasePreparer(),
        key_val_metric={"score": CaseMetrics(metrics=metrics)},
        additional_metrics=metrics,
    )
    evaluator.logger.disabled = True
    evaluator.run()
    state = evaluator.state
    assert {r["case"] for r in state.case_rows} == {"aa", "bbb"}
    assert loader.dataset.errors == {"bad": "bad/ct.nii.gz: why", "worse": "bad/ct.nii.gz: why"}
    assert state.metrics["n_empty_pred"] == 2
    assert state.metrics["lesion_dice"] == 0
    assert state.metrics["score"] == pytest.approx(
        np.mean([state.metrics[k] for k in ("brain_ssim_context", "bone_ssim_context", "lesion_dice")])
    )
    assert state.baselines["paste"]["brain_ssim"] == pytest.approx(1.0)
    require_results(evaluator, SimpleNamespace(errors={"bad": "b/mri.nii.gz: why"}))
    evaluator.state.case_rows = []
    with pytest.raises(InputError, match=r"b/mri\.nii\.gz: why"):
        require_results(evaluator, SimpleNamespace(errors={"bad": "b/mri.nii.gz: why"}))


def rows() -> list[dict]:
    rng = np.random.default_rng(0)
    out = []
    for n in range(30):
        volume = float(rng.uniform(0, 40))
        dice = math.nan if n == 0 else float(rng.uniform(0.4, 0.9))
        base = {"case": f"c{n}", "lesion_ml": volume, "volume_class": volume_class(volume)}
        out.append(
            {
                **base,
                "method": "roi_fusion",
                "brain_ssim": float(rng.uniform(0.9, 1)),
                "lesion_dice": dice,
                "n_empty_pred": float(n == 0),
                "n_empty_ref": float(n == 0),
                "fused_at_bounds": 0.0,
            }
        )
        out.append({**base, "method": "paste", "brain_ssim": 1.0, "bone_psnr": math.inf})
    return out


def test_the_summary_counts_what_is_missing_and_brackets_the_mean(tmp_path: Path) -> None:
    table = rows()
    summary = write_tables(tmp_path, table)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    own = summary["methods"]["roi_fusion"]
    dice = [r["lesion_dice"] for r in table if r["method"] == "roi_fusion"][1:]
    assert own["lesion_dice"]["mean"] == pytest.approx(np.mean(dice), abs=1e-6)
    assert own["lesion_dice"]["median"] == pytest.approx(np.median(dice), abs=1e-6)
    assert (own["lesion_dice"]["count"], own["lesion_dice"]["missing"]) == (29, 1)
    low, high = own["lesion_dice"]["ci95"]
    assert low < np.mean(dice) < high
    assert (high - low) == pytest.approx(2 * 1.96 * np.std(dice) / 29**0.5, rel=0.25)
    assert summary["counts"] == {"n_empty_pred": 1, "n_empty_ref": 1, "fused_at_bounds": 0}
    assert summary["methods"]["paste"]["bone_psnr"]["mean"] == "inf"
    assert summary["methods"]["paste"]["brain_ssim"]["ci95"] == [1.0, 1.0]
    assert sum(c["cases"] for c in summary["by_volume_class"].values()) == 30
    assert summarise(table) == summary  # the bootstrap is seeded


def test_the_table_leaves_missing_cells_empty(tmp_path: Path) -> None:
    write_tables(tmp_path, rows())
    with (tmp_path / "metrics.csv").open() as f:
        table = list(csv.DictReader(f))
    assert len(table) == 60
    assert table[0]["lesion_dice"] == ""
    assert table[1]["bone_psnr"] == "inf"
    assert table[1]["lesion_dice"] == ""
    assert set(table[0]) >= {"case", "method", "volume_class", "lesion_ml", "brain_ssim"}


def test_volume_classes() -> None:
    assert [volume_class(v) for v in (0, 0.1, 4.99, 5, 20, 20.1)] == ["none", "small", "small", "medium", "medium", "large"]
