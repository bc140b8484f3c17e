# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""ROI Fusion: fuse a patient's MRI and head CT by ROI-guided diffusion and segment the stroke lesion.

For research, not for diagnosis.
"""

import lazy_loader

__version__ = "0.2.0"

# Modules are imported when they are first named: config expressions can import ``roi_fusion`` but no dotted name.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["config", "console", "core", "data", "engine", "errors", "metrics", "report", "values"],
    submod_attrs={
        "core.network": ["RoiFusionNet"],
        "engine.inferer": ["SamplingInferer"],
        "engine.prediction": ["Prediction", "Predictor", "predict"],
        "errors": ["InputError"],
    },
)
