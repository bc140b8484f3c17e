# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The worst cases of a benchmark as one picture: MRI, CT, fused volume, true (green) and found lesion (red)."""

from __future__ import annotations

import json
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.engine.prediction import Predictor
from roi_fusion.errors import InputError
from roi_fusion.report.case_figure import case_figure

__all__ = ["picture_failures"]


def picture_failures(
    benchmark_dir: str,
    output: str = str(BUNDLE_ROOT / "docs" / "failures.png"),
    checkpoint: str = str(BUNDLE_ROOT / "models" / "model.pt"),
    precision: str = "auto",
) -> None:
    """Predict the worst cases of <benchmark_dir>/quality.json again and picture one slice of each.

    Args:
        benchmark_dir: output folder of `roi-fusion benchmark quality`.
        output: picture to write.
        checkpoint: weights.
        precision: auto, bf16 or fp32, of the network's passes.
    """
    root = Path(benchmark_dir)
    try:
        worst = json.loads((root / "quality.json").read_text())["worst_cases"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{root / 'quality.json'}: expected the result of roi-fusion benchmark quality, found none") from None
    predictor = Predictor(checkpoint, num_samples=2, precision=precision)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in worst:
            source = root / "test_cases" / case["case"]
            predictor(source / "mri.nii.gz", source / "ct.nii.gz", folder)
            figure = case_figure(Path(folder) / case["case"], source / "lesion_mask.nii.gz", num_slices=1)
            buffer = BytesIO()
            figure.savefig(buffer, dpi=70, facecolor="black")
            rows.append(np.asarray(Image.open(buffer).convert("RGB")))
    width = min(r.shape[1] for r in rows)
    Image.fromarray(np.vstack([r[:, :width] for r in rows])).save(output, optimize=True)
    print(output)
