# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Number format of the network's passes."""

from __future__ import annotations

import torch

from ..errors import InputError

__all__ = ["PRECISIONS", "autocast_for"]

#: Accepted values of the ``precision`` setting.
PRECISIONS = ("auto", "bf16", "fp32")


def autocast_for(precision: str, device: torch.device) -> torch.autocast:
    """The autocast context that the network's passes run in.

    Args:
        precision: ``auto`` uses bfloat16 on CUDA and float32 elsewhere; ``bf16`` and ``fp32`` force one of them. On a processor
            with AVX-512 BF16 or AMX, bfloat16 passes take half as long or less.
        device: device of the tensors.

    Raises:
        InputError: when `precision` is none of :data:`PRECISIONS`.

    Example:
        >>> with autocast_for("bf16", torch.device("cpu")):
        ...     print((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        torch.bfloat16
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    half = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)
