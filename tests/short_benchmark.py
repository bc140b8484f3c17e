# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Options of a benchmark that takes seconds."""

from __future__ import annotations

from pathlib import Path

from conftest import BUNDLE
from roi_fusion_tools.benchmark.quality import QualityOptions

WEIGHTS = str(BUNDLE / "models" / "model.pt")


def tiny_options(root: Path) -> QualityOptions:
    """A benchmark of seconds."""
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
