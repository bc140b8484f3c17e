# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The network's channels by name. Both tuples script and export: they hold views of one tensor."""

from typing import NamedTuple

import torch

__all__ = ["OUTPUT_CHANNELS", "RAW_CHANNELS", "NetworkOutput", "RawLogits", "split_output", "split_raw"]


class RawLogits(NamedTuple):
    """What the denoiser predicts, each ``[B, 1, X, Y, Z]`` and unbounded; ``torch.cat(logits, dim=1)`` joins them again.

    Attributes:
        lesion, brain, bone: logits of the three segmentation heads.
        gate: logit of the share of the MRI in the fused image.
        residual: argument of the tanh that bounds the residual.
    """

    lesion: torch.Tensor
    brain: torch.Tensor
    bone: torch.Tensor
    gate: torch.Tensor
    residual: torch.Tensor


class NetworkOutput(NamedTuple):
    """The channels of the network's ``forward`` and ``denoise``, each ``[B, 1, X, Y, Z]``.

    Attributes:
        fused: fused image in normalised units, exactly 0 outside the head.
        lesion_logit, brain_logit, bone_logit: logits of the three segmentation heads.
        gate: share of the MRI in the fused image, 0…1.
    """

    fused: torch.Tensor
    lesion_logit: torch.Tensor
    brain_logit: torch.Tensor
    bone_logit: torch.Tensor
    gate: torch.Tensor


#: Channels of ``decode``, in order.
RAW_CHANNELS = RawLogits._fields

#: Channels of ``forward`` and ``denoise``, in order.
OUTPUT_CHANNELS = NetworkOutput._fields


def split_raw(raw: torch.Tensor) -> RawLogits:
    """Name the channels of raw logits.

    Args:
        raw: logits ``[B, 5, X, Y, Z]`` from :meth:`~roi_fusion.core.network.RoiFusionNet.decode`.

    Returns:
        Views ``[B, 1, X, Y, Z]`` of `raw`.

    Example:
        >>> raw = torch.arange(5.0).view(1, 5, 1, 1, 1)
        >>> split_raw(raw).gate.item()
        3.0
        >>> torch.equal(torch.cat(split_raw(raw), dim=1), raw)
        True
    """
    lesion, brain, bone, gate, residual = raw.split(1, dim=1)
    return RawLogits(lesion, brain, bone, gate, residual)


def split_output(output: torch.Tensor) -> NetworkOutput:
    """Name the channels of the network's output.

    Args:
        output: ``[B, 5, X, Y, Z]`` from ``forward``, ``denoise`` or ``compose``.

    Returns:
        Views ``[B, 1, X, Y, Z]`` of `output`.

    Example:
        >>> split_output(torch.arange(5.0).view(1, 5, 1, 1, 1)).fused.item()
        0.0
    """
    fused, lesion, brain, bone, gate = output.split(1, dim=1)
    return NetworkOutput(fused, lesion, brain, bone, gate)
