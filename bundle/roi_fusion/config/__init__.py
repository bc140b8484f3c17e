# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Knobs of the configs and the checks of a config."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["bundle_run", "check", "ending", "faults", "knob_values", "knobs", "paths", "root"]
)
