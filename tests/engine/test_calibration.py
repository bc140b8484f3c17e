# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from roi_fusion.core.intensity import TYPICAL_SCALES
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.schedule import make_scheduler
from roi_fusion.engine.calibration import draws_of
from roi_fusion.engine.inferer import SamplingInferer, sample_case
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
