#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Write the network as TorchScript (plain torch) or ONNX (onnxruntime) and check the file against the network."""

from pathlib import Path
from typing import cast

from _cli import main
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.engine.prediction import Predictor
from roi_fusion.errors import InputError
from roi_fusion_tools.export import FORMATS, export_model


def export(format: str, output: str | None = None, checkpoint: str | None = None) -> None:
    """Write <output>, by default the bundle's models/model.ts or model.onnx. Takes half a minute for ONNX.

    Args:
        format: torchscript or onnx.
        output: file to write.
        checkpoint: weights; the bundle's models/model.pt when not given.
    """
    if output is not None and Path(output).is_dir():
        raise InputError(f"output: expected a file to write, got the folder {output}")
    network = cast(RoiFusionNet, Predictor(checkpoint, device="cpu").network)
    default = Path(__file__).resolve().parents[1] / "bundle" / "models" / f"model{FORMATS.get(format, '')}"
    difference = export_model(network, output or default, format)
    print(f"{output or default}: equal to the network to {difference:.1g}")


if __name__ == "__main__":
    main(export)
