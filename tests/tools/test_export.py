# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import BUNDLE
from helpers import documented_examples, run_documented
from in_process import run_cli
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.engine.prediction import prepare
from roi_fusion.engine.weights import load_weights
from roi_fusion.errors import InputError
from roi_fusion_tools.export import FORMATS, TOLERANCE, export_model

SHIPPED = BUNDLE / "models" / "model.pt"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights; where there are none, random ones that use every layer."""
    if SHIPPED.is_file():
        return SHIPPED
    torch.manual_seed(0)
    network = RoiFusionNet()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("file_format", ["torchscript", "onnx"])
def test_one_command_writes_a_file_that_equals_the_network(
    file_format: str, weights: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bundle" / "models" / f"model{FORMATS[file_format]}"
    printed = run_cli("export", file_format, "--output", str(path), "--checkpoint", str(weights))
    assert "equal to the network to" in printed

    folder = tiny_dataset / "phantom_0000"
    image = prepare(folder / "mri.nii.gz", folder / "ct.nii.gz")["image"].as_tensor()[None].float()
    with torch.inference_mode():
        eager = load_weights(RoiFusionNet(), weights).eval()(image).numpy()
        if file_format == "torchscript":
            result = torch.jit.load(str(path))(image).numpy()
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            result = session.run(["pred"], {"image": image.numpy()})[0]
    assert result.shape == eager.shape
    assert np.abs(result - eager).max() <= TOLERANCE
    run_documented(tmp_path, tiny_dataset, weights, documented_examples(file_format) + "assert pred.shape[:2] == (1, 5)")


def test_a_file_that_differs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roi_fusion_tools.export.TOLERANCE", -1.0)
    with pytest.raises(InputError, match="expected the network's own result"):
        export_model(RoiFusionNet((8, 8, 12, 12), (4, 4, 6)), tmp_path / "model.ts")


def test_an_unknown_format_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="format: expected one of torchscript, onnx, got 'onx'"):
        export_model(RoiFusionNet((8, 8, 12, 12), (4, 4, 6)), tmp_path / "model.onx", "onx")
