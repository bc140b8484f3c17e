# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""From the scanner to the case folder: read, check, register, resample, mask, measure, write; resumable, in parallel."""

from .case import prepare_case
from .options import PrepareOptions
from .run import prepare_dataset

__all__ = ["PrepareOptions", "prepare_case", "prepare_dataset"]
