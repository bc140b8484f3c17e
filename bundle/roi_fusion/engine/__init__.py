# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Training, inference and evaluation engines and their handlers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "calibration",
        "case_metrics",
        "checkpoint",
        "cluster",
        "cluster_worker",
        "doctor",
        "doctor_chart",
        "doctor_rules",
        "evaluator",
        "handlers",
        "inferer",
        "prediction",
        "progress",
        "resume",
        "run_record",
        "tracking",
        "tracking_model",
        "training",
        "training_run",
        "weights",
        "writers",
    ],
)
