# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What a prediction says about itself reaches who writes it, by MONAI's decollation and by MONAI Label's index."""

from __future__ import annotations

import math

import pytest
import torch
from monai.data import MetaTensor, decollate_batch

from roi_fusion.core.facts import CaseFacts, facts_of, facts_to_meta
from roi_fusion.errors import InputError

FIRST = CaseFacts(
    0.3, 1.5, [[0.5, 0.25], [0.25, 0.125]], {"noise": 0.1, "mirror": None, "both": 0.2}, 0.5, 0.25, [1.0, 2.0], [3.0]
)
SECOND = CaseFacts(
    0.3, 1.5, [[0.75, 0.5], [0.5, 0.375]], {"noise": None, "mirror": None, "both": None}, 0.0, 0.0, [4.0, 5.0], [6.0]
)


def batch(facts: list[CaseFacts]) -> MetaTensor:
    meta = {"filename_or_obj": ["a.nii.gz", "b.nii.gz"][: len(facts)], **facts_to_meta(facts)}
    return MetaTensor(torch.zeros(len(facts), 6, 4, 4, 2), meta=meta)


def test_decollation_gives_each_case_its_own() -> None:
    assert [facts_of(case) for case in decollate_batch(batch([FIRST, SECOND]))] == [FIRST, SECOND]
    assert [facts_of(case) for case in decollate_batch(batch([SECOND]))] == [SECOND]


def test_an_index_into_a_batch_of_one_keeps_them() -> None:
    assert facts_of(batch([FIRST])[0].cpu()) == FIRST


def test_an_unguided_prediction_has_no_energies() -> None:
    plain = CaseFacts(lesion_spread=dict.fromkeys(("noise", "mirror", "both")))
    for case in (batch([plain])[0], decollate_batch(batch([plain, plain]))[1]):
        found = facts_of(case)
        assert found == CaseFacts(0.5, -1.0, [], plain.lesion_spread, contrast=[], features=[])
        assert not any(isinstance(v, float) and math.isnan(v) for v in found.lesion_spread.values())


def test_a_tensor_without_facts_is_refused() -> None:
    for tensor in (torch.zeros(6, 4, 4, 2), MetaTensor(torch.zeros(6, 4, 4, 2))):
        with pytest.raises(InputError, match="prediction: expected one of SamplingInferer with its lesion_threshold"):
            facts_of(tensor)
