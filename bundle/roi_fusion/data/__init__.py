# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""From files to tensors and back: cases, reading, grids, registration, transforms."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "atlas",
        "atlas_head",
        "augment",
        "bids_out",
        "cases",
        "ct_fill",
        "dicom",
        "dicom_volume",
        "fingerprint",
        "grids",
        "history",
        "io",
        "itk_bridge",
        "itk_files",
        "lesions",
        "naming",
        "nifti",
        "plausibility",
        "registration",
        "results",
        "shards",
        "splits",
        "synthesis",
        "transforms",
        "volume",
    ],
)
