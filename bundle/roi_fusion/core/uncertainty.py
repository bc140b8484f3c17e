# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Predictive uncertainty of a probability."""

from __future__ import annotations

import torch

__all__ = ["entropy_bits"]


def entropy_bits(probability: torch.Tensor) -> torch.Tensor:
    """Entropy of a binary variable in bits, from 0 (certain) to 1 (even odds).

    Args:
        probability: 0…1, any shape.

    Returns:
        Entropy, same shape and type.

    Example:
        >>> entropy_bits(torch.tensor([0.5, 0.25]))
        tensor([1.0000, 0.8113])
    """
    p = probability.double().clamp(1e-12, 1 - 1e-12)
    return (-(p * p.log2() + (1 - p) * (1 - p).log2())).clamp(0, 1).to(probability.dtype)
