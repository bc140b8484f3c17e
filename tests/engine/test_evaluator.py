# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import case_item, case_prediction
from roi_fusion.core.intensity import fusion_sources
from roi_fusion.data.cases import collate_cases
from roi_fusion.engine.case_metrics import default_metrics
from roi_fusion.engine.evaluator import CaseEvaluator, CaseMetrics, CasePreparer, require_results, volume_class
from roi_fusion.errors import InputError


def test_rows_of_a_case() -> None:
    case = case_item()
    image = case["image"].as_tensor()
    mri, ct = (v[0] for v in fusion_sources(image[None]))
    paste = torch.where(case["bone"] > 0, ct, mri)
    rows = CaseMetrics(threshold=torch.tensor([0.5])).measure(case, case_prediction(case, paste, case["label"].float()))
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
    case = case_item(known=0.0)
    row = CaseMetrics().measure(case, case_prediction(case, case["image"][:1].as_tensor(), torch.rand(1, 24, 24, 4)))[0]
    assert "lesion_dice" not in row
    assert math.isnan(row["lesion_ml"])
    assert row["volume_class"] == "unknown"


def test_a_lesion_beyond_the_ct_is_missed_and_not_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    case = case_item()
    inside = int(case["label"].sum())
    found = case_prediction(case, case["image"][:1].as_tensor(), case["label"].float())
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
    batch = {**collate_cases([case_item()]), "bone_known": torch.ones(1), "brain_known": torch.zeros(1)}
    masks = CasePreparer(("brain_mask", "bone_mask", "lesion_mask"))(batch)[3]["masks"]
    assert set(masks) == {"bone_mask", "lesion_mask"}
    assert "no brain_mask.nii.gz to guide by" in caplog.text
    assert set(CasePreparer("bone_mask")(batch)[3]["masks"]) == {"bone_mask"}
    with pytest.raises(InputError, match="guidance_masks: expected names of brain_mask, bone_mask, lesion_mask, got 'skull'"):
        CasePreparer("skull")


def test_spacing_comes_from_each_case() -> None:
    shifted = case_item("a")["label"].roll(2, 3).float()
    found = []
    for spacing in ((1.0, 1.0, 5.0), (1.0, 1.0, 0.5)):
        case = case_item("a", spacing=spacing)
        found.append(
            CaseMetrics(with_baselines=False).measure(case, case_prediction(case, case["image"][:1].as_tensor(), shifted))[0]
        )
    assert found[0]["lesion_hd95_mm"] > 5 * found[1]["lesion_hd95_mm"]


class FakeNet(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Loader(list):
    """Batches whose workers have read their own copies of the data set."""

    dataset = SimpleNamespace(errors={})


def test_an_evaluator_passes_over_refused_cases(tmp_path: Path) -> None:
    good = [case_item("aa"), case_item("bbb")]
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
    require_results(evaluator, SimpleNamespace(errors={"bad": "b/mri.nii.gz: why"}), tmp_path)
    evaluator.state.case_rows = []
    with pytest.raises(InputError, match=r"b/mri\.nii\.gz: why"):
        require_results(evaluator, SimpleNamespace(errors={"bad": "b/mri.nii.gz: why"}), tmp_path)


def test_volume_classes() -> None:
    assert [volume_class(v) for v in (0, 0.1, 4.99, 5, 20, 20.1)] == ["none", "small", "small", "medium", "medium", "large"]
