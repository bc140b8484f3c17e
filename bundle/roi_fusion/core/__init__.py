# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The method: network, schedules, target, guidance, losses. Needs torch and MONAI, knows no files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "blocks",
        "channels",
        "choices",
        "contrast",
        "guidance",
        "intensity",
        "lesion_guidance",
        "losses",
        "masks",
        "network",
        "precision",
        "regional_energy",
        "regional_guidance",
        "schedule",
        "ssim",
        "target",
        "tiles",
        "uncertainty",
    ],
)
