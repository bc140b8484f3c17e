# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Where the time of one pair goes, from files to files: start and imports, loading the weights, the case, and peak memory."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from typing import Any

START = time.perf_counter()

from roi_fusion.config.root import BUNDLE_ROOT  # noqa: E402
from roi_fusion.errors import InputError  # noqa: E402

__all__ = ["profile_inference"]


def profile_inference(
    mri: str,
    ct: str,
    checkpoint: str = str(BUNDLE_ROOT / "models" / "model.pt"),
    num_inference_steps: int = 4,
    num_samples: int = 1,
    guidance: str = "logits",
    precision: str = "auto",
    threads: int = 2,
    repeats: int = 2,
    table: bool = False,
) -> None:
    """Run one pair `repeats` times and print one line of JSON: seconds and GB.

    Args:
        mri: file of the MRI.
        ct: file of the CT.
        checkpoint: weights.
        num_inference_steps: sampling steps.
        num_samples: draws.
        guidance: off, logits or full.
        precision: auto, bf16 or fp32.
        threads: processor threads.
        repeats: runs; the fastest counts.
        table: print PyTorch's table of operators too.
    """
    for name, count in (("threads", threads), ("repeats", repeats)):
        if count < 1:
            raise InputError(f"{name}: expected a whole number of 1 or more, got {count}")
    import torch

    torch.set_num_threads(threads)
    from roi_fusion.engine.prediction import Predictor

    imported = time.perf_counter()
    knobs: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "num_samples": num_samples,
        "guidance": guidance,
        "precision": precision,
    }
    predictor = Predictor(checkpoint=checkpoint, **knobs)
    loaded = time.perf_counter()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            begun = time.perf_counter()
            predictor(mri, ct, folder)
            seconds.append(time.perf_counter() - begun)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if table:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                predictor(mri, ct, folder)
            print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))
    found = {
        **knobs,
        "threads": threads,
        "imports_s": round(imported - START, 2),
        "weights_s": round(loaded - imported, 2),
        "case_s": round(min(seconds), 2),
        "first_case_s": round(seconds[0], 2),
        "peak_gb": round(peak, 2),
    }
    print(json.dumps(found))
