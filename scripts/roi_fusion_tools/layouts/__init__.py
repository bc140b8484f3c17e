# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Pairs of MRI and CT, and their masks, in the folder layouts of challenges, archives and scanners."""

from .find import LAYOUTS, find_pairs
from .public import IMAGES, PUBLIC_LAYOUTS
from .sources import CONTRAST_ORDER, CaseSource, Found

__all__ = ["CONTRAST_ORDER", "IMAGES", "LAYOUTS", "PUBLIC_LAYOUTS", "CaseSource", "Found", "find_pairs"]
