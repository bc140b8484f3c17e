# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The network's deterministic form as one file for plain torch (TorchScript) or onnxruntime (ONNX), of any spatial shape."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from roi_fusion.core.network import RoiFusionNet
from roi_fusion.errors import InputError

__all__ = ["FORMATS", "export_model"]

logger = logging.getLogger(__name__)


#: Name → ending of the file.
FORMATS = {"torchscript": ".ts", "onnx": ".onnx"}


#: Largest difference to the eager network, in standard deviations over the head and in logits.
TOLERANCE = 1e-3


# No size divides by 16 or equals another, so that an exported graph that fixes a size or skips the padding is caught.
_TRACED, _CHECKED = (2, 2, 50, 42, 6), (1, 2, 35, 57, 3)


def export_model(network: RoiFusionNet, path: str | Path, file_format: str = "torchscript") -> float:
    """Write the network as one file, run that file on another shape, and compare with the network itself.

    The file takes ``image`` ``[B, 2, X, Y, Z]`` (see :func:`roi_fusion.engine.prediction.prepare`) and returns ``pred``
    ``[B, 5, X, Y, Z]`` with the channels of :data:`roi_fusion.core.channels.OUTPUT_CHANNELS`.

    Args:
        network: with its weights.
        path: file to write.
        file_format: a name of :data:`FORMATS`.

    Returns:
        The largest difference between the file's result and the network's.

    Raises:
        InputError: for an unknown format, a missing package, or a file whose result differs by more than :data:`TOLERANCE`.
    """
    if file_format not in FORMATS:
        raise InputError(f"format: expected one of {', '.join(FORMATS)}, got {file_format!r}")
    network = network.cpu().eval()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    run = _write_torchscript(network, path) if file_format == "torchscript" else _write_onnx(network, path)
    image = torch.randn(_CHECKED, generator=torch.Generator().manual_seed(0))
    image[:, :, :4] = 0  # some air, where the fused image is exactly 0
    with torch.inference_mode():
        difference = float((run(image) - network(image)).abs().max())
    if not difference <= TOLERANCE:
        raise InputError(f"{path}: expected the network's own result to {TOLERANCE:g}, got a difference of {difference:g}")
    logger.info("%s: %s, %.1f MB, equal to the network to %.1g", path, file_format, path.stat().st_size / 1e6, difference)
    return difference


def _write_torchscript(network: RoiFusionNet, path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    torch.jit.script(network).save(str(path))
    return torch.jit.load(str(path))


def _write_onnx(network: RoiFusionNet, path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise InputError(
            f"format: expected the packages onnx, onnxscript and onnxruntime for onnx, found no {e.name}"
        ) from None
    # It warns of every operator of torchvision, which nothing here needs.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    axes = {0: "batch", 2: "x", 3: "y", 4: "z"}
    program = torch.onnx.export(
        network,
        (torch.zeros(_TRACED),),
        dynamo=True,
        input_names=["image"],
        output_names=["pred"],
        dynamic_shapes={"image": axes},
        external_data=False,
        verbose=False,
    )
    assert program is not None
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
