# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Texts of a command line as values of knobs. What values a knob takes is tested with the configs, in test_knobs.py."""

from __future__ import annotations

from typing import Any

import pytest

from roi_fusion.config.knob_values import value_of_text
from roi_fusion.config.knobs import KNOBS
from roi_fusion.errors import InputError


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_epochs", "12", 12),
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", "1", 1),
        ("register", "TRUE", True),
        ("patch_size", "80,80,12", [80, 80, 12]),
        ("patch_size", "[80, 80, 12]", [80, 80, 12]),
        ("hu_points", "-1000,0,1500.5", [-1000, 0, 1500.5]),
        ("guidance_masks", "['brain_mask', 'bone_mask']", ["brain_mask", "bone_mask"]),
        ("guidance_masks", "", []),
        ("gamma", "None", None),
        ("resume", "null", None),
        ("dataset_dir", "None", "None"),
        ("dataset_dir", "$1+1", "$1+1"),
        ("device", "cpu", "cpu"),
        ("run_name", "12", "12"),
    ],
)
def test_a_text_becomes_a_value(name: str, text: str, value: Any) -> None:
    found = value_of_text(name, KNOBS[name], text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("max_epochs", "ten", "max_epochs: expected a whole number of 1 or more, got 'ten'"),
        ("max_epochs", "2.5", "max_epochs: expected a whole number of 1 or more, got 2.5"),
        ("register", "maybe", "register: expected true or false, got 'maybe'"),
        ("patch_size", "80,80", "patch_size: expected three whole numbers of 1 or more"),
        ("guidance", "logit", "guidance: expected one of off, logits, full, got 'logit', near logits"),
        ("device", "gpu", "device: expected cpu, cuda or cuda:N, got 'gpu'"),
    ],
)
def test_a_text_that_is_none_is_one_sentence(name: str, text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        value_of_text(name, KNOBS[name], text)
