# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Calibrates weights on validation cases: runs the draws, fits the constants, writes the checkpoint."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from tqdm import tqdm

from ..config.check import inference_parser
from ..core.network import RoiFusionNet
from ..core.schedule import make_scheduler
from ..data.grids import spacing_of
from ..data.modes import MODES, link_mode
from ..errors import InputError
from ..metrics.calibration import (
    COVERAGE,
    HOTTEST,
    NEVER,
    Draws,
    cases_needed,
    conformal_quantile,
    fit_temperature,
    fit_threshold,
)
from ..metrics.familiarity import CaseSignature, fit_familiarity
from ..metrics.lesion import lesion_region
from ..values import PREDICTION_CHANNELS
from .inferer import SamplingInferer, intensity_of
from .lesion_statement import signature_of
from .weights import load_weights, record_of, write_record

__all__ = ["calibrate", "calibrate_checkpoint", "draws_of", "note_familiarity", "signatures_of"]

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
    apart = ((expit(lesion) * expit(brain)).mean(0) > 0.5) & (probability == 0)
    lesion = np.where(apart, -30.0, lesion)  # told apart: no lesion at any temperature
    hottest = np.where(apart, 0.0, hottest)
    region = lesion_region(probability > 0.5, label, spacing_mm=spacing, margin_mm=10.0)
    where = region | label | (hottest > NEVER)
    return Draws(
        lesion=lesion[:, where],
        brain=brain[:, where],
        label=label[where],
        judged=region[where],
        voxel_ml=float(np.prod(spacing)) / 1000,
    )


def calibrate(
    network: RoiFusionNet, inferer: SamplingInferer, items: Mapping[str, Iterable[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Fit temperature, threshold and volume quantiles, and set them in the network's buffers.

    Temperature and threshold are fitted on the cases of all modes together, a quantile on those of each mode that has enough
    of them; the buffer holds the pair's.

    Args:
        network: with trained weights.
        inferer: its steps, draws and guidance are those that the fit holds for.
        items: mode (:data:`~roi_fusion.data.modes.MODES`) → preprocessed validation cases; those whose lesion is unknown are
            left out.

    Returns:
        The fitted values, the numbers of cases, and the settings that they hold for.

    Raises:
        InputError: when there are too few pairs.
    """
    network.temperature.fill_(1.0)
    network.threshold.fill_(0.5)
    draws: dict[str, list[Draws]] = {}
    for mode, cases in items.items():
        usable = (i for i in cases if "image" in i and float(i.get("label_known", 0)) > 0)
        draws[mode] = [draws_of(inferer, network, item) for item in usable]
    every = [d for found in draws.values() for d in found]
    temperature = fit_temperature(every)
    threshold = fit_threshold(every, temperature)
    fewest = cases_needed(COVERAGE)
    quantiles = {m: conformal_quantile(d, temperature, threshold) for m, d in draws.items() if m == "pair" or len(d) >= fewest}
    fitted = {"temperature": temperature, "threshold": threshold, "volume_quantile": quantiles["pair"]}
    for name, value in fitted.items():
        getattr(network, name).fill_(value)
    counts = {mode: len(d) for mode, d in draws.items()}
    logger.info("%s, from %d cases", ", ".join(f"{k} {v:.3f}" for k, v in fitted.items()), len(every))
    return {
        **fitted,
        "volume_quantiles": quantiles,
        "coverage": COVERAGE,
        "cases": counts,
        "num_inference_steps": len(inferer.levels),
        "num_samples": inferer.num_samples,
        "guidance": inferer.guidance.mode,
    }


def signatures_of(network: RoiFusionNet, items: Iterable[Mapping[str, Any]]) -> list[CaseSignature]:
    """What cases are compared by, from one pass over each.

    Args:
        network: with trained weights.
        items: preprocessed cases.
    """
    inferer = SamplingInferer(make_scheduler(), num_inference_steps=1, num_samples=1)
    usable = (item for item in items if "image" in item)
    return [signature_of(i, inferer.sample_cases(i["image"][None], network, intensity_of(i))[0].facts) for i in usable]


def calibrate_checkpoint(
    checkpoint: str | Path,
    dataset_dir: str | Path,
    split: str | None,
    output: str | Path,
    modes: Sequence[str] = tuple(MODES),
    training_dir: str | Path | None = None,
    **knobs: Any,
) -> dict[str, Any]:
    """Calibrate weights on validation cases by ``inference.json`` and write them with what was fitted.

    Args:
        checkpoint: weights to calibrate.
        dataset_dir: folder of pairs with lesions.
        split: of the data set, such as ``val``; None takes all cases.
        output: weights to write; ``<name>.pt.json`` beside them tells what was fitted on what, and what their training noted.
        modes: ``pair``, and where the weights shall serve for them ``mri`` and ``ct``: the same cases with one image alone.
        training_dir: folder of cases like those that the weights were trained on, 20 or more, which later cases are compared
            with (:mod:`~roi_fusion.metrics.familiarity`); without it nothing is compared.
        knobs: of ``inference.json``.

    Raises:
        InputError: for unknown modes or without the pair.
    """
    if "pair" not in modes or any(m not in MODES for m in modes):
        raise InputError(f"modes: expected pair and some of {', '.join(MODES)}, got {', '.join(modes) or 'none'}")
    network: Any = load_weights(inference_parser({**knobs}).get_parsed_content("network"), checkpoint).eval()
    with tempfile.TemporaryDirectory() as scratch:
        found = {mode: _cases(dataset_dir, mode, scratch, split=split, **knobs) for mode in modes}
        facts = calibrate(network, found["pair"][0], {mode: items for mode, (_, items) in found.items()})
        if training_dir is not None:
            known = [_cases(training_dir, mode, scratch, **knobs)[1] for mode in modes]
            facts["familiarity"] = fit_familiarity([s for items in known for s in signatures_of(network, items)])
    torch.save({k: v.cpu() for k, v in network.state_dict().items()}, output)
    write_record(output, {**{k: v for k, v in record_of(network).items() if k not in ("sha256", "roi_fusion")}, **facts})
    return facts


def note_familiarity(checkpoint: str | Path, training_dir: str | Path, modes: Sequence[str] = ("pair",)) -> int:
    """Note beside weights what cases they know, without fitting anything else; the weights stay as they are.

    Args:
        checkpoint: weights; ``<name>.pt.json`` is written again.
        training_dir: folder of cases like those that the weights were trained on, 20 or more.
        modes: with which images they were trained.

    Returns:
        The number of cases.

    Raises:
        InputError: with fewer than 20 cases.
    """
    network: Any = load_weights(inference_parser({}).get_parsed_content("network"), checkpoint).eval()
    with tempfile.TemporaryDirectory() as scratch:
        found = [s for mode in modes for s in signatures_of(network, _cases(training_dir, mode, scratch)[1])]
    known = fit_familiarity(found)
    if known is None:
        raise InputError(f"{training_dir}: expected 20 cases or more, got {len(found)}")
    write_record(checkpoint, {**record_of(network), "familiarity": known})
    return len(found)


def _cases(
    folder: str | Path, mode: str, scratch: str | Path, **knobs: Any
) -> tuple[SamplingInferer, Iterator[Mapping[str, Any]]]:
    """The inferer of ``inference.json`` and the preprocessed cases of a folder with the images of one mode."""
    linked = link_mode(folder, mode, Path(tempfile.mkdtemp(dir=scratch)) / mode)
    parser = inference_parser({"dataset_dir": str(linked), **knobs})
    inferer, dataset = parser.get_parsed_content("inferer"), parser.get_parsed_content("dataset")
    name = f"{Path(folder).name}, {mode}"
    return inferer, (dataset[i] for i in tqdm(range(len(dataset)), desc=name, unit="case"))
