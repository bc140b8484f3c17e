# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Training cases painted from label maps of whole heads, drawn anew for every step.

A label map is varied (``anatomy``, ``lookalikes``), sampled on a scanner's grid (``geometry``) and painted (``mri``, ``ct``).
``transforms`` makes a training of it and ``samples`` a picture; ``unseen`` writes case folders for validation and tests.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["samples", "transforms", "unseen"])
