#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Write the network as TorchScript (plain torch) or ONNX (onnxruntime) and check the file against the network."""

from pathlib import Path

from _cli import main
from roi_fusion.errors import InputError
from roi_fusion.export import FORMATS, export_model
from roi_fusion.prediction import Predictor


def export(format: str, output: str | None = None, checkpoint: str | None = None) -> None:
    """Write <output>, by default the bundle's models/model.ts or model.onnx. Takes half a minute for ONNX.

    Args:
        format: torchscript or onnx.
        output: file to write.
        checkpoint: weights; the bundle's models/model.pt when not given.
    """
    if output is not None and Path(output).is_dir():
        raise InputError(f"output: wanted a file to write, came the folder {output}")
    network = Predictor(checkpoint, device="cpu").network
    default = Path(__file__).resolve().parents[1] / "bundle" / "models" / f"model{FORMATS.get(format, '')}"
    difference = export_model(network, output or default, format)
    print(f"{output or default}: equal to the network to {difference:.1g}")


if __name__ == "__main__":
    main(export)
