# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import ROOT
from roi_fusion_tools.benchmark.documents import benchmark_document, eval_metrics, model_card_parts


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
