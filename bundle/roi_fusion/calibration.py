# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What is fitted on validation cases after training and stored with the weights: the temperature of the lesion probability, the
threshold of the mask, and the quantile behind the interval of the lesion volume."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit

from .cases import write_json
from .errors import InputError
from .inferers import PREDICTION_CHANNELS, SamplingInferer, sample_case
from .knobs import inference_parser
from .metrics import lesion_region
from .network import RoiFusionNet
from .resume import load_weights
from .transforms import spacing_of

__all__ = [
    "Draws", "calibrate", "calibrate_checkpoint", "conformal_quantile", "draws_of", "fit_temperature", "fit_threshold",
    "volume_interval",
]  # fmt: skip

logger = logging.getLogger(__name__)

#: Share of cases whose true lesion volume the interval shall hold.
COVERAGE = 0.9
#: Limits of the temperature.
_COLDEST, _HOTTEST = 0.2, 20.0
#: Voxels that reach this probability at no temperature count neither for a mask nor for doubt.
_NEVER = 0.02


@dataclass(frozen=True)
class Draws:
    """One validation case where its lesion is in question.

    Attributes:
        lesion, brain: logits of every draw, ``[N, V]``.
        label: 0/1 ``[V]``.
        judged: which of the V voxels lie in the dilated lesion region, where calibration is judged.
        voxel_ml: volume of a voxel.
    """

    lesion: np.ndarray
    brain: np.ndarray
    label: np.ndarray
    judged: np.ndarray
    voxel_ml: float

    def probability(self, temperature: float) -> np.ndarray:
        """Mean lesion probability over the draws, ``[V]``."""
        return (expit(self.lesion / temperature) * expit(self.brain)).mean(0)


def fit_temperature(cases: Sequence[Draws]) -> float:
    """The temperature of the least Brier score in the dilated lesion regions, from 0.2 to 20.

    Each case counts the same. Cross entropy, the usual choice (Guo et al. 2017), is ruled by the few lesions that are missed
    with certainty, and would blur all others for them; the Brier score is as proper and bounded.
    """
    judged = [c for c in cases if c.judged.any()]
    if not judged:
        raise InputError("calibration: wanted cases with a lesion or a predicted one, came none")

    def brier(log_temperature: float) -> float:
        errors = [c.probability(math.exp(log_temperature))[c.judged] - c.label[c.judged] for c in judged]
        return float(np.mean([np.mean(e**2) for e in errors]))

    return math.exp(minimize_scalar(brier, bounds=(math.log(_COLDEST), math.log(_HOTTEST)), method="bounded").x)


def fit_threshold(cases: Sequence[Draws], temperature: float) -> float:
    """The threshold of the highest mean Dice, from 0.2 to 0.8 in steps of 0.02.

    A case without a lesion counts 1 where nothing is found and 0 where something is: a few voxels of false alarm cost what a
    missed lesion costs.
    """
    if not any(c.label.any() for c in cases):
        raise InputError("calibration: wanted cases with a lesion, came none")
    known = [(c.probability(temperature), c.label > 0) for c in cases]

    def mean_dice(threshold: float) -> float:
        dice = []
        for p, y in known:
            mask = p > threshold
            total = np.count_nonzero(mask) + np.count_nonzero(y)
            dice.append(2 * np.count_nonzero(mask & y) / total if total else 1.0)
        return float(np.mean(dice))

    return max((round(float(t), 2) for t in np.arange(0.2, 0.801, 0.02)), key=mean_dice)


def _doubt_ml(lesion_ml: float, probability: np.ndarray, voxel_ml: float) -> float:
    """The unit of an error of the volume: what lies between sure and possible, a tenth of the lesion, 0.2 mL."""
    between = float(np.count_nonzero((probability > 0.1) & (probability <= 0.9))) * voxel_ml
    return between + 0.1 * lesion_ml + 0.2


def conformal_quantile(cases: Sequence[Draws], temperature: float, threshold: float, coverage: float = COVERAGE) -> float:
    """Quantile of the errors of the volume in units of doubt (split conformal prediction, Lei et al. 2018).

    Temperature and threshold, two numbers, are fitted on the same cases, which makes the interval a little narrow.

    Raises:
        InputError: with fewer cases than the coverage needs.
    """
    n = len(cases)
    rank = math.ceil((n + 1) * coverage)
    if rank > n:
        raise InputError(f"calibration: wanted at least {math.ceil(round(coverage / (1 - coverage), 6))} cases, came {n}")
    scores = []
    for case in cases:
        p = case.probability(temperature)
        lesion_ml = float(np.count_nonzero(p > threshold)) * case.voxel_ml
        true_ml = float(np.count_nonzero(case.label)) * case.voxel_ml
        scores.append(abs(true_ml - lesion_ml) / _doubt_ml(lesion_ml, p, case.voxel_ml))
    return float(np.sort(scores)[rank - 1])


def volume_interval(
    lesion_ml: float, probability: torch.Tensor, voxel_ml: float, quantile: float
) -> tuple[float, float] | None:
    """The conformal 90 % interval of the lesion volume in mL; None where the weights were not calibrated.

    Args:
        lesion_ml: volume of the mask.
        probability: of the lesion, any shape.
        voxel_ml: volume of a voxel.
        quantile: from :func:`conformal_quantile`; negative when it was not fitted.
    """
    if quantile < 0:
        return None
    reach = quantile * _doubt_ml(lesion_ml, probability.detach().cpu().numpy(), voxel_ml)
    return max(lesion_ml - reach, 0.0), lesion_ml + reach


def draws_of(inferer: SamplingInferer, network: RoiFusionNet, item: Mapping[str, Any]) -> Draws:
    """Run one preprocessed case whose lesion is known and keep every voxel that can come into a mask."""
    prediction = sample_case(inferer, network, item)
    logits = inferer.reports[0]["logits"].float().cpu().numpy()  # [N, 2, X, Y, Z]
    probability = prediction[PREDICTION_CHANNELS.index("lesion_prob")].cpu().numpy()
    hottest = (expit(logits[:, 0] / _HOTTEST) * expit(logits[:, 1])).mean(0)
    label = torch.as_tensor(item["label"])[0].numpy() > 0
    spacing = spacing_of(item["image"])
    region = lesion_region(probability > 0.5, label, spacing_mm=spacing, margin_mm=10.0)
    where = region | label | (hottest > _NEVER)
    return Draws(
        lesion=logits[:, 0][:, where], brain=logits[:, 1][:, where], label=label[where], judged=region[where],
        voxel_ml=float(np.prod(spacing)) / 1000,
    )  # fmt: skip


def calibrate(network: RoiFusionNet, inferer: SamplingInferer, items: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Fit temperature, threshold and volume quantile, and set them in the network's buffers.

    Args:
        network: with trained weights.
        inferer: with ``keep_draws``; its steps, draws and guidance are those that the fit holds for.
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
        output: weights to write; a ``.json`` beside them tells what was fitted on what.
        knobs: of ``inference.json``.
    """
    parser = inference_parser({"dataset_dir": str(dataset_dir), "split": split, **knobs})
    network: Any = load_weights(parser.get_parsed_content("network"), checkpoint).eval()
    inferer, dataset = parser.get_parsed_content("inferer"), parser.get_parsed_content("dataset")
    inferer.keep_draws = True
    facts = calibrate(network, inferer, (dataset[i] for i in range(len(dataset))))
    torch.save({k: v.cpu() for k, v in network.state_dict().items()}, output)
    write_json(Path(output).with_suffix(".json"), facts)
    return facts
