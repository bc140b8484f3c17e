# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json

import pytest
import torch

from conftest import BUNDLE
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.errors import InputError
from roi_fusion_tools.benchmark.inference_time import profile_inference
from roi_fusion_tools.benchmark.speed import contiguous_copy, run_speed


def test_the_contiguous_copy_computes_the_same() -> None:
    torch.manual_seed(0)
    network = RoiFusionNet().eval()
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    image = torch.randn(1, 2, 32, 16, 4)
    with torch.no_grad():
        assert torch.allclose(network(image), contiguous_copy(network).eval()(image), atol=1e-4)


def test_a_profile_is_one_line_of_json(small_dataset, capsys: pytest.CaptureFixture[str]) -> None:
    case = small_dataset / "phantom_0000"
    threads = torch.get_num_threads()
    profile_inference(str(case / "mri.nii.gz"), str(case / "ct.nii.gz"), str(BUNDLE / "models" / "model.pt"), repeats=1)
    torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found["case_s"] > 0
    assert found["peak_gb"] > 0.1


def test_bad_repeats_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="repeats: expected a whole number of 1 or more, got 0"):
        run_speed(tmp_path, BUNDLE / "models" / "model.pt", repeats=0)
