#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Fit the lesion's temperature, threshold and volume interval on validation cases and store them with the weights."""

from _cli import main
from roi_fusion.engine.calibration import calibrate_checkpoint


def calibrate(
    checkpoint: str,
    dataset_dir: str,
    output: str,
    split: str | None = "val",
    num_inference_steps: int = 4,
    num_samples: int = 4,
    guidance: str = "logits",
    precision: str = "auto",
) -> None:
    """Write calibrated weights, and a .json beside them.

    Args:
        checkpoint: trained weights.
        dataset_dir: folder of cases whose lesions are known.
        output: weights to write.
        split: of the data set; None for all cases.
        num_inference_steps: sampling steps that the fit shall hold for.
        num_samples: draws that the fit shall hold for.
        guidance: off, logits or full.
        precision: auto, bf16 or fp32.
    """
    facts = calibrate_checkpoint(
        checkpoint,
        dataset_dir,
        split,
        output,
        num_inference_steps=num_inference_steps,
        num_samples=num_samples,
        guidance=guidance,
        precision=precision,
    )
    for name in ("temperature", "threshold", "volume_quantile"):
        print(f"{name}: {facts[name]:.3f}")
    print(f"{output}: from {facts['cases']} cases")


if __name__ == "__main__":
    main(calibrate)
