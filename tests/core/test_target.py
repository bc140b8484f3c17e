# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import torch

from roi_fusion.core.intensity import fusion_sources
from roi_fusion.core.target import brain_region, ct_weight, fusion_target, lesion_state


def test_the_target_is_ct_in_bone_and_mri_elsewhere_with_a_blend_of_one_voxel() -> None:
    roi, brain = torch.zeros(1, 1, 12, 12, 3), torch.zeros(1, 1, 12, 12, 3)
    roi[:, :, 4:8, 4:8] = 1
    brain[:, :, 8:] = 1
    weight = ct_weight(roi, brain)
    assert torch.equal(weight == 1, roi == 1)
    assert weight[0, 0, 8, 5, 1] == 0  # beside bone, in the brain
    assert weight[0, 0, 3, 5, 1] == 0.5
    assert weight[0, 0, 2, 5, 1] == 0
    assert weight[0, 0, 3, 3, 1] == 0  # diagonal
    assert (weight[0, 0, :, :, 0] == weight[0, 0, :, :, 2]).all()
    region = brain_region(brain, roi)
    assert region[0, 0, 8, 5, 1] == 0  # the seam
    assert region[0, 0, 9, 5, 1] == region[0, 0, 8, 1, 1] == 1
    image = torch.randn(1, 2, 12, 12, 3)
    target = fusion_target(image, weight)
    assert torch.equal(target[weight == 1], fusion_sources(image)[1][weight == 1])
    assert torch.equal(target[weight == 0], image[:, :1][weight == 0])
    assert lesion_state(torch.tensor([0, 1])).tolist() == [-1.0, 1.0]
