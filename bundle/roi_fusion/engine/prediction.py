# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Prediction from plain Python: two files in; arrays and result files out. The parts come from ``inference.json`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from ..config.check import inference_parser
from ..config.knob_values import check_writable
from ..config.root import BUNDLE_ROOT
from ..data.cases import collate_cases, inference_datalist, sentence_for
from ..data.results import RESULT_FILES, save_case
from ..errors import InputError
from .evaluator import CasePreparer
from .weights import load_weights
from .writers import ResultWriter

__all__ = ["Predictor", "predict", "prepare"]


def _prepare(parser: ConfigParser, mri_path: str | Path, ct_path: str | Path) -> dict[str, Any]:
    case = inference_datalist("", mri=str(mri_path), ct=str(ct_path))[0]
    try:
        return parser.get_parsed_content("preprocessing")(case)
    except Exception as e:  # MONAI wraps what a transform raises, and readers raise whatever broken bytes lead them to
        raise InputError(sentence_for(e, case)) from e


def prepare(mri_path: str | Path, ct_path: str | Path, bundle_root: str | Path = BUNDLE_ROOT) -> dict[str, Any]:
    """A pair of files after the bundle's preprocessing.

    Args:
        mri_path: MRI in NIfTI.
        ct_path: CT in HU, on any grid that overlaps the MRI's.
        bundle_root: folder that holds ``configs/``.

    Returns:
        The case: ``image`` is the network's input ``[2, X, Y, Z]`` (what exported models take, with a batch axis before it),
        ``intensity`` the constants of its normalisation; ``bone``, ``brain``, ``head`` and others lie beside them.

    Raises:
        InputError: when the pair cannot be used; the sentence names the file, what was expected and what it got.
    """
    return _prepare(inference_parser({}, bundle_root), mri_path, ct_path)


class Predictor:
    """The bundle's network with its weights, loaded once, for any number of pairs.

    Args:
        checkpoint: weights; the bundle's ``models/model.pt`` when it is None.
        device: torch device; CUDA where there is one when it is None.
        bundle_root: folder that holds ``configs/`` and ``models/``.
        knobs: of ``inference.json``, such as ``num_inference_steps=8`` or ``num_samples=1``.

    Raises:
        InputError: when weights are missing or belong to another network, or a knob is unknown or out of range.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        bundle_root: str | Path = BUNDLE_ROOT,
        **knobs: Any,
    ) -> None:
        if checkpoint is not None:
            knobs["checkpoint"] = str(checkpoint)
        if device is not None:
            knobs["device"] = torch.device(device)
        self._parser = inference_parser(knobs, bundle_root)
        self.device: torch.device = self._parser.get_parsed_content("device")
        used_with = {k: self._parser.get_parsed_content(k) for k in ("scheduler", "hu_points", "scaled_points")}
        self.network = load_weights(
            self._parser.get_parsed_content("network"), self._parser.get_parsed_content("checkpoint"), used_with
        ).eval()
        self.inferer = self._parser.get_parsed_content("inferer")
        self._preparer = CasePreparer(self._parser.get_parsed_content("guidance_masks"))
        self._postprocess = self._parser.get_parsed_content("postprocessing")

    def __call__(
        self, mri_path: str | Path, ct_path: str | Path, output_dir: str | Path | None = None
    ) -> dict[str, np.ndarray]:
        """Predict one pair; see :func:`predict`."""
        if output_dir is not None:
            check_writable("output_dir", output_dir)
        case = _prepare(self._parser, mri_path, ct_path)
        extra = self._preparer(collate_cases([case]))[3]  # what guides, as an evaluation hands it over
        case["pred"] = self.inferer(case["image"][None].to(self.device), self.network, **extra)[0].cpu()
        result = self._postprocess(case)
        if output_dir is not None:
            writer = ResultWriter(output_dir, self.inferer, self._preparer.guidance_masks, self.network)
            save_case(output_dir, str(case["case"]), result, writer.facts(case, result))
        volumes = {stem: np.asarray(result[key][0]).astype(dtype) for key, (stem, dtype) in RESULT_FILES.items()}
        return {**volumes, "affine": np.asarray(result["pred"].affine, dtype=np.float64)}


def predict(
    mri_path: str | Path,
    ct_path: str | Path,
    output_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    bundle_root: str | Path = BUNDLE_ROOT,
    **knobs: Any,
) -> dict[str, np.ndarray]:
    """Fuse one MRI and one CT of a patient and segment the lesion; for many pairs keep a :class:`Predictor`.

    Args:
        mri_path: MRI in NIfTI.
        ct_path: CT in HU, on any grid that overlaps the MRI's.
        output_dir: where ``<case>/`` with the volumes and ``result.json`` is written; None writes nothing.
        checkpoint: weights; the bundle's ``models/model.pt`` when it is None.
        device: torch device; CUDA where there is one when it is None.
        bundle_root: folder that holds ``configs/`` and ``models/``.
        knobs: of ``inference.json``, such as ``num_inference_steps=8`` or ``num_samples=1``.

    Returns:
        Arrays ``[X, Y, Z]`` on the MRI's grid, as the MRI's file holds it: ``fused`` and ``residual`` (in MRI units),
        ``lesion`` (0/1), ``lesion_prob``, ``uncertainty`` (bits), ``provenance`` (share of the MRI, NaN outside the head); and
        ``affine`` ``[4, 4]``.

    Raises:
        InputError: when the pair, the weights or a knob cannot be used; the sentence says what was expected and what it got.
    """
    return Predictor(checkpoint, device=device, bundle_root=bundle_root, **knobs)(mri_path, ct_path, output_dir)
