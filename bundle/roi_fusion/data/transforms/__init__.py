# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""MONAI transforms of the preprocessing and of the results."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["geometry", "intensity", "loading", "masks", "plausibility", "results", "shown"]
)
