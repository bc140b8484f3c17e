# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The words and numbers that options take. Imports nothing, so that a command line can name and check them at once."""

from __future__ import annotations

__all__ = [
    "GUIDANCE_MODES",
    "GUIDANCE_SCHEDULES",
    "HU_POINTS",
    "MASK_NAMES",
    "PLAUSIBILITY_MODES",
    "PRECISIONS",
    "PRESETS",
    "SCALED_POINTS",
]

GUIDANCE_MODES = ("off", "logits", "full")

GUIDANCE_SCHEDULES = ("constant", "rising")

#: User-supplied masks that may replace the network's own in the guidance.
MASK_NAMES = ("brain_mask", "bone_mask", "lesion_mask")

PLAUSIBILITY_MODES = ("refuse", "warn", "off")

#: Number format of the network's passes.
PRECISIONS = ("auto", "bf16", "fp32")

#: Weights (α brain, β bone, γ lesion) of the loss by clinical question.
PRESETS: dict[str, tuple[float, float, float]] = {
    "default": (1.0, 1.0, 2.0),
    "stroke": (1.0, 1.2, 3.0),
    "brain_tumor": (1.5, 0.5, 2.0),
    "bone_tumor": (0.5, 2.0, 2.0),
    "metastasis": (1.0, 1.0, 3.0),
}

#: Fixed points of the CT's companding: air, fat, water, blood, spongy bone and dense bone; brain (0…80 HU) gets a third of the
#: range. A plain window of ±1000 HU would leave grey and white matter 0.004 apart.
HU_POINTS = (-1000.0, -100.0, 0.0, 80.0, 300.0, 1500.0)

#: Scaled values of the CT at these points.
SCALED_POINTS = (0.05, 0.15, 0.25, 0.60, 0.72, 1.0)
