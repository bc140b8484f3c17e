# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Number format of the network's passes."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from pathlib import Path

import torch

from ..errors import InputError
from .choices import PRECISIONS

__all__ = ["autocast_for", "has_bfloat16"]

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def has_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this processor calculates in bfloat16 (AVX-512 BF16 or AMX); False where its flags cannot be read.

    Args:
        cpuinfo: file that lists the processor's flags.
    """
    try:
        text = Path(cpuinfo).read_text()
    except OSError:
        return False
    return bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", text))


@lru_cache(maxsize=8)
def _say_precision(precision: str, device: str, half: bool) -> None:
    """Logs once which format was taken."""
    logger.info("precision %s: %s on this %s", precision, "bfloat16" if half else "float32", device)


def autocast_for(precision: str, device: torch.device) -> torch.autocast:
    """The autocast context that the network's passes run in.

    Args:
        precision: ``auto`` uses bfloat16 on CUDA and on processors that calculate in it (:func:`has_bfloat16`), and float32
            elsewhere, where bfloat16 takes twice as long; ``bf16`` and ``fp32`` force one of them.
        device: device of the tensors.

    Raises:
        InputError: when `precision` is none of :data:`~roi_fusion.core.choices.PRECISIONS`.

    Example:
        >>> with autocast_for("bf16", torch.device("cpu")):
        ...     print((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        torch.bfloat16
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    half = precision == "bf16" or (precision == "auto" and (device.type == "cuda" or has_bfloat16()))
    _say_precision(precision, device.type, half)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)
