# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from roi_fusion.core.intensity import TYPICAL_SCALES
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.schedule import make_scheduler
from roi_fusion.engine.calibration import calibrate_checkpoint, draws_of, note_familiarity
from roi_fusion.engine.inferer import SamplingInferer, sample_case
from roi_fusion.engine.weights import load_weights, record_of, write_record
from roi_fusion.errors import InputError
from roi_fusion.metrics import familiarity
from roi_fusion.values import PREDICTION_CHANNELS


@pytest.mark.parametrize("temperature", [1.0, 6.0, 20.0])
def test_the_fit_sees_every_voxel_that_a_mask_holds_at_inference(net: RoiFusionNet, temperature: float) -> None:
    torch.manual_seed(0)
    image = MetaTensor(torch.randn(2, 32, 32, 4), affine=torch.eye(4))
    label = MetaTensor(torch.zeros(1, 32, 32, 4), affine=torch.eye(4))
    label[:, 4:8, 4:8, 1] = 1
    constants = {f"{v}_{k}": c for v, pair in TYPICAL_SCALES.items() for k, c in zip(("mean", "std"), pair)}
    item = {"image": image, "label": label, "intensity": constants}
    inferer = SamplingInferer(make_scheduler(), 2, 2)
    try:
        with torch.no_grad():
            net.out.bias[0] -= 6.0  # false alarms far from the lesion that only a high temperature shows
        case = draws_of(inferer, net, item)
        net.temperature.fill_(temperature)
        probability = sample_case(inferer, net, item)[PREDICTION_CHANNELS.index("lesion_prob")]
        for threshold in (0.1, 0.26):
            assert int((case.probability(temperature) > threshold).sum()) == int((probability > threshold).sum())
        if temperature == 20.0:
            assert (probability > 0.1).sum() > 100
    finally:
        net.temperature.fill_(1.0)
        with torch.no_grad():
            net.out.bias[0] += 6.0


def test_known_cases_are_noted_beside_weights_that_stay(
    tmp_path: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "model.pt"
    torch.save(RoiFusionNet().state_dict(), weights)
    write_record(weights, {"scheduler": "ddim"})
    before = weights.read_bytes()
    with pytest.raises(InputError, match="expected 20 cases or more, got 3"):
        note_familiarity(weights, small_dataset)
    monkeypatch.setattr(familiarity, "_FEWEST", 3)
    assert note_familiarity(weights, small_dataset) == 3
    assert weights.read_bytes() == before
    record = record_of(load_weights(RoiFusionNet(), weights))
    assert record["scheduler"] == "ddim"
    assert record["familiarity"]["cases"] == 3
    assert record["familiarity"]["ranges"]["slice_mm"] == [9.0, 9.0]


def test_calibration_fits_a_quantile_for_each_mode_and_says_what_is_missing(tmp_path: Path, small_dataset: Path) -> None:
    weights = tmp_path / "model.pt"
    torch.save(RoiFusionNet().state_dict(), weights)
    for modes, sentence in ((("mri",), "modes: expected pair"), (("pair", "pet"), "modes: expected pair")):
        with pytest.raises(InputError, match=sentence):
            calibrate_checkpoint(weights, small_dataset, None, tmp_path / "out.pt", modes)
    with pytest.raises(InputError, match="expected at least 9 pairs"):
        calibrate_checkpoint(weights, small_dataset, None, tmp_path / "out.pt", num_samples=1, num_inference_steps=1)
