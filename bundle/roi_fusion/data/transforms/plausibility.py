# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The judgement of :mod:`~roi_fusion.data.plausibility` as transforms of the preprocessing."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from ...core.choices import PLAUSIBILITY_MODES
from ...errors import InputError
from ...values import printable
from ..ct_fill import repair_ct
from ..plausibility import Placed, judge_lesion, judge_pair
from .loading import file_of

__all__ = ["JudgePaird", "RepairCTd", "placed", "warn_once", "warnings_of"]

logger = logging.getLogger(__name__)


#: What is said of a case with one image by the one that is missing.
_ALONE = {
    "ct": "no CT: the lesion is sought in the MRI alone, and the fused volume shows the MRI without the CT's bone",
    "mri": "no MRI: the lesion is sought in the CT alone, and the fused volume shows the CT",
}


def warnings_of(item: Mapping[Any, Any]) -> list[str]:
    """The sentences that a case carries. They travel as one text, which MONAI collates and takes apart as it does names."""
    return [line for line in str(item.get("warnings") or "").split("\n") if line]


def _with_warnings(d: dict[Hashable, Any], sentences: list[str]) -> None:
    d["warnings"] = "\n".join([*warnings_of(d), *(s.replace("\n", " ") for s in sentences)])


@lru_cache(maxsize=4096)  # an epoch reads its cases again
def warn_once(case: str, sentence: str) -> None:
    """Say a sentence on the console, once a process."""
    logger.warning("%s: %s", printable(case), printable(sentence))


def _check_mode(mode: str) -> str:
    if mode not in PLAUSIBILITY_MODES:
        raise InputError(f"plausibility: expected one of {', '.join(PLAUSIBILITY_MODES)}, got {mode!r}")
    return mode


class RepairCTd(Transform):
    """:func:`~roi_fusion.data.ct_fill.repair_ct` on the CT as it was read; notes where it shows nothing for the judge.

    Args:
        mode: of the knob ``plausibility``; ``off`` leaves the CT as it is.
        ct_key: the CT, ``[1, X, Y, Z]``.
    """

    def __init__(self, mode: str = "refuse", ct_key: str = "ct") -> None:
        self.mode, self.ct_key = _check_mode(mode), ct_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        _with_warnings(d, [])
        volume = d.get(self.ct_key)
        if self.mode == "off" or volume is None or volume.ndim != 4 or volume.shape[0] != 1:
            return d
        if not bool(torch.isfinite(volume).all()):
            return d  # refused by CheckVolumesd
        array = np.asarray(volume[0])
        ct, unseen, notices = repair_ct(array, file_of(volume))
        if ct is not array:
            d[self.ct_key] = MetaTensor(torch.from_numpy(ct)[None], meta=volume.meta)
        d["ct_unseen"] = unseen
        _with_warnings(d, notices)
        return d


class JudgePaird(Transform):
    """:func:`~roi_fusion.data.plausibility.judge_pair` before the volumes come onto one grid.

    Adds ``plausibility``, its numbers, and lengthens ``warnings``, its sentences a line each.

    Args:
        mode: ``refuse`` what cannot be a head, ``warn`` of it too, or ``off``.
        image_key, ct_key, label_key: the volumes, ``[1, X, Y, Z]``.

    Raises:
        InputError: with ``refuse``, the first of the judgement's refusals.
    """

    def __init__(self, mode: str = "refuse", image_key: str = "image", ct_key: str = "ct", label_key: str = "label") -> None:
        self.mode, self.keys = _check_mode(mode), {"mri": image_key, "ct": ct_key, "label": label_key}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        unseen = d.pop("ct_unseen", None)
        if self.mode == "off":
            return d
        mri, ct = (None if d.get("missing") == m else placed(d[self.keys[m]]) for m in ("mri", "ct"))
        names = (file_of(d[self.keys["mri"]]), file_of(d[self.keys["ct"]]))
        judged = judge_pair(mri, ct, ct_unseen=unseen, names=names)
        label = d.get(self.keys["label"])
        if label is not None and ct is not None:
            judge_lesion(judged, np.asarray(label[0]), np.asarray(label.affine, dtype=np.float64), file_of(label))
        if judged.refusals and self.mode == "refuse":
            raise InputError(judged.refusals[0])
        d["plausibility"] = judged.facts
        alone = [_ALONE[d["missing"]]] if d.get("missing") else []
        _with_warnings(d, [*judged.refusals, *judged.warnings, *judged.notes, *alone])
        for sentence in warnings_of(d):
            warn_once(str(d.get("case", "")), sentence)
        return d


def placed(volume: MetaTensor) -> Placed:
    """A volume ``[1, X, Y, Z]`` as the judgement takes it."""
    return Placed(np.asarray(volume[0], dtype=np.float32), np.asarray(volume.affine, dtype=np.float64))
