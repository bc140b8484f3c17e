# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""HTML report, plots and pictures."""

import lazy_loader

_SUBMODULES = [
    "case_figure",
    "cohort",
    "page",
    "pair_picture",
    "patients",
    "plots",
    "previews",
    "rendering",
    "sheets",
    "tables",
    "viewer",
    "volumes",
]
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=_SUBMODULES)
