# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Predictive uncertainty of a probability."""

from __future__ import annotations

import torch

__all__ = ["entropy_bits"]


def entropy_bits(probability: torch.Tensor) -> torch.Tensor:
    """Entropy of a yes/no variable in bits, 0…1."""
    p = probability.double().clamp(1e-12, 1 - 1e-12)
    return (-(p * p.log2() + (1 - p) * (1 - p).log2())).clamp(0, 1).to(probability.dtype)
