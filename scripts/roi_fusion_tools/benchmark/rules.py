# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What a sceptic asks for beside the network: fusion by rules, by CT thresholds with and without guidance, and in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from roi_fusion.core.blood import closed_brain, hyperdense_mask
from roi_fusion.core.channels import RAW_CHANNELS, split_output
from roi_fusion.core.guidance import GuidedDraw, RoiGuidance
from roi_fusion.core.intensity import IntensityMap, expand_hu
from roi_fusion.core.masks import cranial_masks
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.precision import autocast_for
from roi_fusion.core.schedule import inference_levels, make_scheduler
from roi_fusion.core.target import ct_weight, fusion_target
from roi_fusion.data.grids import spacing_of

from .peers import laplacian_pyramid_fusion

__all__ = ["NO_NETWORK", "RULES", "ThresholdMasks", "fused_by_rules", "guided_without_network", "one_pass", "threshold_masks"]

#: Rows without a network that this module adds to those of :func:`~roi_fusion.metrics.fusion.baselines`.
NO_NETWORK = ("Laplacian pyramid", "CT thresholds alone", "CT thresholds, guided, no network")

#: All rows that ours is compared with, case by case.
RULES = ("average", "maximum", "paste", *NO_NETWORK, "ROI Fusion, one pass")

#: Updates of the guidance without a network: as many as four sampling steps have.
_UPDATES = 2 * 4


class ThresholdMasks(NamedTuple):
    """What CT numbers alone say, 0/1 ``[1, 1, X, Y, Z]``: no reference and no network."""

    brain: torch.Tensor
    bone: torch.Tensor
    dense: torch.Tensor


def threshold_masks(item: Mapping[str, Any]) -> ThresholdMasks:
    """The masks of a preprocessed case by its CT alone, as :class:`~roi_fusion.data.transforms.masks.RoiMasksd` makes them
    for a case that brings none."""
    image, scale = torch.as_tensor(item["image"]), IntensityMap.from_case(item["intensity"])
    ct = image[1]
    hu = np.where(ct.numpy() != 0, expand_hu(scale.normalised_to_ct_scale(ct)).numpy(), -1000.0)
    spacing = spacing_of(item["image"])
    bone, brain = cranial_masks(hu, (ct != 0).numpy(), spacing)
    found = (brain, bone, hyperdense_mask(hu, closed_brain(brain, bone, spacing), spacing))
    return ThresholdMasks(*(torch.from_numpy(m)[None, None].float() for m in found))


def guided_without_network(item: Mapping[str, Any], network: RoiFusionNet, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits ``[1, 5, X, Y, Z]`` of the plain average, guided by masks alone.

    Args:
        item: the case after preprocessing.
        network: gives composition and residual bound; it does not run.
        masks: 0/1 ``[1, 1, X, Y, Z]`` as ``brain_mask`` and ``bone_mask``.
    """
    image, scale = torch.as_tensor(item["image"])[None].float(), IntensityMap.from_case(item["intensity"])
    scales = (scale.mri_mean, scale.mri_std), (scale.ct_mean, scale.ct_std)
    settings = RoiGuidance(num_updates=_UPDATES, gamma=0)
    draw = GuidedDraw(settings, network, image, *scales, spacing_of(item["image"]), masks)
    level = inference_levels(make_scheduler(), 4)[-1]
    with torch.no_grad():
        return draw.correct(torch.zeros(1, len(RAW_CHANNELS), *image.shape[2:]), image, level, lambda x_t, level: x_t)


def one_pass(item: Mapping[str, Any], network: RoiFusionNet, precision: str = "auto") -> Any:
    """The network's output in one pass from a state of 0, see :func:`~roi_fusion.core.channels.split_output`."""
    image = torch.as_tensor(item["image"])[None].float()
    with torch.no_grad(), autocast_for(precision, image.device):
        return split_output(network(image).float())


def fused_by_rules(
    item: Mapping[str, Any], network: RoiFusionNet, precision: str = "auto"
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and fused volume ``[1, X, Y, Z]`` of each row of :data:`NO_NETWORK`, and of one pass.

    Args:
        item: the case after preprocessing.
        network: for the row of one pass; the others take its composition and no weights.
        precision: of the one pass.
    """
    image = torch.as_tensor(item["image"])[None].float()
    masks = threshold_masks(item)
    yield NO_NETWORK[0], laplacian_pyramid_fusion(image)[0]
    weight = ct_weight(torch.maximum(masks.bone, masks.dense), masks.brain)
    yield NO_NETWORK[1], fusion_target(image, weight)[0]
    raw = guided_without_network(item, network, {"brain_mask": masks.brain, "bone_mask": masks.bone})
    yield NO_NETWORK[2], split_output(network.compose(image, raw)).fused[0]
    yield RULES[-1], one_pass(item, network, precision).fused[0]
