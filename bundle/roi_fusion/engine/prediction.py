# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Prediction from plain Python: two files in; arrays and result files out. The parts come from ``inference.json`` alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from ..config.check import inference_parser
from ..config.knob_values import check_writable
from ..config.root import BUNDLE_ROOT
from ..data.bids_out import write_run
from ..data.cases import collate_cases, inference_datalist, sentence_for
from ..data.dicom_out.write import DICOM_FOLDER, write_dicom
from ..data.naming import Naming, original_of
from ..data.results import RESULT_FILES, save_case
from ..errors import InputError
from ..values import as_bool
from .dicom_writer import check_dicom_mri
from .evaluator import CasePreparer
from .weights import load_weights
from .writers import ResultWriter

__all__ = ["Prediction", "Predictor", "predict", "prepare"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is predicted of one case. Volumes ``[X, Y, Z]`` lie on the MRI's grid, as the MRI's file holds it.

    Attributes:
        case: its name.
        lesion_ml: volume of the lesion in mL; None where a part of the brain was not seen and nothing was found.
        lesion_ml_interval: (low, high) in mL, which holds nine of ten true volumes; None where there is none.
        lesion_ml_interval_note: why there is no interval; None where there is one.
        lesion_ml_is_lower_bound: a part of the brain was not seen, so `lesion_ml` is a part of the lesion.
        warnings: sentences on the input and the result.
        outside_training: what of the case is unlike all that the weights were trained on, as sentences; None where the weights
            do not say what they know.
        fused: fused volume, in MRI units, float32.
        lesion: mask, 0 or 1, uint8.
        lesion_prob: lesion probability, 0 to 1, float32.
        uncertainty: entropy of the probability in bits, float32.
        provenance: share of the MRI in the fused volume, NaN outside the head, float32.
        residual: part of the fused volume that is from neither image, in MRI units, float32.
        conflict: mask of the CT's bone over brain that the MRI shows, 0 or 1, uint8.
        affine: voxel indices to mm in RAS, ``[4, 4]``.
        files: name of a volume, such as ``fused``, and ``result`` → file that was written; empty without an `output_dir`.
            ``dicom`` is the folder of DICOM files, where the knob `dicom` is true.
        facts: all that ``result.json`` holds.
    """

    case: str
    lesion_ml: float | None
    lesion_ml_interval: tuple[float, float] | None
    lesion_ml_interval_note: str | None
    lesion_ml_is_lower_bound: bool
    warnings: tuple[str, ...]
    outside_training: tuple[str, ...] | None
    fused: np.ndarray
    lesion: np.ndarray
    lesion_prob: np.ndarray
    uncertainty: np.ndarray
    provenance: np.ndarray
    residual: np.ndarray
    conflict: np.ndarray
    affine: np.ndarray
    files: dict[str, Path]
    facts: dict[str, Any]

    def __getitem__(self, name: str) -> np.ndarray:
        """A volume, or ``affine``, by its name: ``result["fused"]``.

        Raises:
            KeyError: for another name.
        """
        found = getattr(self, name, None)
        if not isinstance(found, np.ndarray):
            raise KeyError(name)
        return found


def _prepare(
    parser: ConfigParser,
    mri_path: str | Path | None,
    ct_path: str | Path | None,
    naming: Naming | None = None,
) -> dict[str, Any]:
    if mri_path is None and ct_path is None:
        raise InputError("mri_path and ct_path: expected a file for one of them at least, got none")
    mri, ct = (None if path is None else str(path) for path in (mri_path, ct_path))
    case = inference_datalist("", mri=mri, ct=ct, naming=naming)[0]
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

    def settings(self) -> dict[str, Any]:
        """What a result depends on besides its images, as ``result.json`` records it; ``registration`` says whether a CT is
        registered."""
        registered = as_bool("register", self._parser.get_parsed_content("register"))
        return {**ResultWriter("", self.inferer, (), self.network).settings(), "guidance_masks": [], "registration": registered}

    def __call__(
        self, mri_path: str | Path | None, ct_path: str | Path | None = None, output_dir: str | Path | None = None
    ) -> Prediction:
        """Predict one pair; see :func:`predict`."""
        dicom = as_bool("dicom", self._parser.get_parsed_content("dicom"))
        if dicom and output_dir is None:
            raise InputError("dicom: expected an output_dir for results as DICOM, got none")
        if dicom:
            check_dicom_mri(mri_path)
        if output_dir is not None:
            check_writable("output_dir", output_dir)
        names, name_key = (self._parser.get_parsed_content(k) for k in ("names", "name_key"))
        case = _prepare(self._parser, mri_path, ct_path, Naming(names, name_key, output_dir))
        extra = self._preparer(collate_cases([case]))[3]  # what guides, as an evaluation hands it over
        case["pred"] = self.inferer(case["image"][None].to(self.device), self.network, **extra)[0].cpu()
        result = self._postprocess(case)
        writer = ResultWriter(output_dir or "", self.inferer, self._preparer.guidance_masks, self.network)
        facts = writer.facts(case, result)
        files: dict[str, Path] = {}
        if output_dir is not None:
            folder = save_case(output_dir, facts["case"], result, facts)
            files = {stem: folder / f"{stem}.nii.gz" for stem, _ in RESULT_FILES.values()} | {"result": folder / "result.json"}
            if dicom:
                write_dicom(folder, original_of(facts["mri"]), original_of(facts["ct"]) or None)
                files["dicom"] = folder / DICOM_FOLDER
            write_run(output_dir, self._parser.get_parsed_content("bids"))
        volumes = {stem: np.asarray(result[key][0]).astype(dtype) for key, (stem, dtype) in RESULT_FILES.items()}
        interval, unlike = facts["lesion_ml_interval"], facts["outside_training"]
        return Prediction(
            case=facts["case"],
            lesion_ml=facts["lesion_ml"],
            lesion_ml_interval=None if interval is None else (interval[0], interval[1]),
            lesion_ml_interval_note=facts["lesion_ml_interval_note"],
            lesion_ml_is_lower_bound=facts["lesion_ml_is_lower_bound"],
            warnings=tuple(facts["warnings"]),
            outside_training=None if unlike is None else tuple(unlike),
            affine=np.asarray(result["pred"].affine, dtype=np.float64),
            files=files,
            facts=facts,
            **volumes,
        )


def predict(
    mri_path: str | Path | None,
    ct_path: str | Path | None = None,
    output_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    bundle_root: str | Path = BUNDLE_ROOT,
    **knobs: Any,
) -> Prediction:
    """Fuse one MRI and one CT of a patient and segment the lesion; for many pairs keep a :class:`Predictor`.

    Args:
        mri_path: MRI in NIfTI, or a folder of DICOM files; None where there is the CT alone.
        ct_path: CT in HU, on any grid that overlaps the MRI's; None takes the one beside the MRI, or the MRI alone.
        output_dir: where ``<case>/`` with the volumes and ``result.json`` is written; None writes nothing.
        checkpoint: weights; the bundle's ``models/model.pt`` when it is None.
        device: torch device; CUDA where there is one when it is None.
        bundle_root: folder that holds ``configs/`` and ``models/``.
        knobs: of ``inference.json``, such as ``num_inference_steps=8`` or ``num_samples=1``.

    Returns:
        The lesion's volume with its interval, warnings, volumes and files, see :class:`Prediction`.

    Raises:
        InputError: when the pair, the weights or a knob cannot be used; the sentence says what was expected and what it got.
    """
    return Predictor(checkpoint, device=device, bundle_root=bundle_root, **knobs)(mri_path, ct_path, output_dir)
