# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Metrics of fusion, lesion and calibration, and the tables made of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["calibration", "fusion", "lesion", "surface", "table"])
