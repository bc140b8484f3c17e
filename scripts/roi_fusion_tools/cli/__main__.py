# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""``python -m roi_fusion_tools.cli``, the same as ``roi-fusion``."""

from .start import main

if __name__ == "__main__":
    main()
