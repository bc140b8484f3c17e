# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Calibrates weights on validation cases: runs the draws, fits the constants, writes the checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from ..config.check import inference_parser
from ..core.network import RoiFusionNet
from ..data.grids import spacing_of
from ..metrics.calibration import COVERAGE, HOTTEST, NEVER, Draws, conformal_quantile, fit_temperature, fit_threshold
from ..metrics.lesion import lesion_region
from ..values import PREDICTION_CHANNELS, write_json
from .inferer import SamplingInferer, intensity_of
from .weights import load_weights, record_of, write_record

__all__ = ["calibrate", "calibrate_checkpoint", "draws_of"]

logger = logging.getLogger(__name__)


def draws_of(inferer: SamplingInferer, network: RoiFusionNet, item: Mapping[str, Any]) -> Draws:
    """Run one preprocessed case whose lesion is known and keep every voxel that can come into a mask."""
    sampled = inferer.sample_cases(item["image"][None], network, intensity_of(item), keep_logits=True)[0]
    assert sampled.logits is not None
    lesion, brain = sampled.logits.float().cpu().numpy().swapaxes(0, 1)  # [N, X, Y, Z] each
    probability = sampled.channels[0, PREDICTION_CHANNELS.index("lesion_prob")].cpu().numpy()
    hottest = (expit(lesion / HOTTEST) * expit(brain)).mean(0)
    label = torch.as_tensor(item["label"])[0].numpy() > 0
    spacing = spacing_of(item["image"])
    region = lesion_region(probability > 0.5, label, spacing_mm=spacing, margin_mm=10.0)
    where = region | label | (hottest > NEVER)
    return Draws(
        lesion=lesion[:, where],
        brain=brain[:, where],
        label=label[where],
        judged=region[where],
        voxel_ml=float(np.prod(spacing)) / 1000,
    )


def calibrate(network: RoiFusionNet, inferer: SamplingInferer, items: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Fit temperature, threshold and volume quantile, and set them in the network's buffers.

    Args:
        network: with trained weights.
        inferer: its steps, draws and guidance are those that the fit holds for.
        items: preprocessed validation cases; those whose lesion is unknown are left out.

    Returns:
        The three values, the number of cases, and the settings that they hold for.

    Raises:
        InputError: when there are too few cases.
    """
    network.temperature.fill_(1.0)
    network.threshold.fill_(0.5)
    cases = [draws_of(inferer, network, i) for i in items if "image" in i and float(i.get("label_known", 0)) > 0]
    temperature = fit_temperature(cases)
    threshold = fit_threshold(cases, temperature)
    quantile = conformal_quantile(cases, temperature, threshold)
    fitted = {"temperature": temperature, "threshold": threshold, "volume_quantile": quantile}
    for name, value in fitted.items():
        getattr(network, name).fill_(value)
    logger.info("%s, from %d cases", ", ".join(f"{k} {v:.3f}" for k, v in fitted.items()), len(cases))
    return {
        **fitted,
        "coverage": COVERAGE,
        "cases": len(cases),
        "num_inference_steps": len(inferer.levels),
        "num_samples": inferer.num_samples,
        "guidance": inferer.guidance.mode,
    }


def calibrate_checkpoint(
    checkpoint: str | Path, dataset_dir: str | Path, split: str | None, output: str | Path, **knobs: Any
) -> dict[str, Any]:
    """Calibrate weights on validation cases by ``inference.json`` and write them with what was fitted.

    Args:
        checkpoint: weights to calibrate.
        dataset_dir: folder of cases with lesions.
        split: of the data set, such as ``val``; None takes all cases.
        output: weights to write; ``<name>.json`` beside them tells what was fitted on what, ``<name>.pt.json`` what their
            training noted.
        knobs: of ``inference.json``.
    """
    parser = inference_parser({"dataset_dir": str(dataset_dir), "split": split, **knobs})
    network: Any = load_weights(parser.get_parsed_content("network"), checkpoint).eval()
    inferer, dataset = parser.get_parsed_content("inferer"), parser.get_parsed_content("dataset")
    facts = calibrate(network, inferer, (dataset[i] for i in range(len(dataset))))
    torch.save({k: v.cpu() for k, v in network.state_dict().items()}, output)
    write_json(Path(output).with_suffix(".json"), facts)
    write_record(output, {k: v for k, v in record_of(network).items() if k not in ("sha256", "roi_fusion")})
    return facts
