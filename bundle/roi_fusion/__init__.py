# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""ROI Fusion: fuse a patient's MRI and head CT by ROI-guided diffusion and segment the stroke lesion.

For research, not for diagnosis.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

__version__ = "0.1.0"

_MODULES = {module.name for module in pkgutil.iter_modules(__path__)}


def __getattr__(name: str) -> Any:
    """Import a submodule when it is first named: config expressions can import ``roi_fusion`` but no dotted name.

    ``roi_fusion.predict`` is :func:`roi_fusion.prediction.predict`.
    """
    if name == "predict":
        return importlib.import_module(f"{__name__}.prediction").predict
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
