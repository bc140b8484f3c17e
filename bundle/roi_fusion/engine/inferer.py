# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The sampling inferer: a pair of volumes in; fused image, lesion probability, uncertainty and provenance out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.inferers import Inferer
from torch import nn

from ..core.guidance import GuidedDraw, RoiGuidance
from ..core.intensity import TYPICAL_SCALES, fusion_sources
from ..core.network import RoiFusionNet, autocast_for
from ..core.schedule import Level, Scheduler, inference_levels, sample
from ..core.tiles import encode_in_slabs, tile_decoder
from ..core.uncertainty import entropy_bits
from ..data.grids import left_right_axis
from ..errors import InputError

__all__ = ["SamplingInferer", "sample_case"]

#: What a plain tensor is taken for: axial slices 5 mm apart.
_AXIAL = torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0]))


class SamplingInferer(Inferer):
    """Sample [F, S] by few deterministic steps and return the channels of :data:`PREDICTION_CHANNELS`.

    The image part of the network runs once; each step and draw runs the small denoiser only. The written fused volume is the
    first draw; probability and uncertainty come from all draws. A stroke lesion lies in the brain: its probability is the
    lesion head's times the brain head's.

    Args:
        scheduler: from :func:`~roi_fusion.core.schedule.make_scheduler`; must not clip.
        num_inference_steps: 1 … ``num_train_timesteps``.
        num_samples: draws; every other one sees the input mirrored left to right.
        seed: of the noise; every call starts from it, so a case does not depend on those before it.
        roi_size: volumes beyond this size in voxels are denoised tile by tile inside each step, with one noise field and the
            result of one piece, see :mod:`~roi_fusion.core.tiles`; ``None`` never splits.
        sampler: ``(predict_x0, noise, levels) → x₀``, as :func:`~roi_fusion.core.schedule.sample`.
        guidance: settings of :class:`~roi_fusion.core.guidance.RoiGuidance`; ``None`` is off. The written draw is guided in
            brain, bone and lesion, the others in the lesion.
        precision: of the network's passes, see :func:`~roi_fusion.core.network.autocast_for`.
        keep_draws: leave the lesion and brain logits of every draw in ``reports`` as ``logits``, ``[N, 2, X, Y, Z]``.

    After a call ``reports`` holds per case the guidance's ``energy`` before and after each step, and the ``spread`` (mean
    deviation of the lesion probability where it is above 0.05) from noise alone, from mirrors alone and from both.

    Raises:
        InputError: for a count below 1, or a scheduler that clips.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        num_inference_steps: int = 4,
        num_samples: int = 2,
        seed: int = 0,
        roi_size: Sequence[int] | None = (320, 320, 40),
        sampler: Callable[..., torch.Tensor] = sample,
        guidance: RoiGuidance | None = None,
        keep_draws: bool = False,
        precision: str = "auto",
    ) -> None:
        if int(num_samples) != num_samples or num_samples < 1:
            raise InputError(f"num_samples: expected a whole number of 1 or more, got {num_samples}")
        self.levels = inference_levels(scheduler, num_inference_steps)
        self.num_samples, self.seed = int(num_samples), int(seed)
        self.sampler = sampler
        self.guidance = guidance or RoiGuidance(mode="off")
        self.half_time = 0.5 * scheduler.num_train_timesteps
        self.reports: list[dict[str, Any]] = []
        self.keep_draws = keep_draws
        autocast_for(precision, torch.device("cpu"))
        self.precision = precision
        self.roi_size = tuple(int(s) for s in roi_size) if roi_size else None
        #: Of the network that ran last. MONAI Label loads the weights into a copy of ``network_def``, so
        #: what comes after the inferer cannot read it there.
        self.threshold = torch.full((1,), 0.5)
        self.volume_quantile = torch.full((1,), -1.0)

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        """``[B, 2, X, Y, Z]`` → ``[B, 6, X, Y, Z]``; leaves a MetaTensor's meta data on the result.

        Keywords are ``intensity``, the constants of each case by name as ``[B]``, which put guidance on the MRI's own scale;
        and ``masks``, 0/1 ``[B, 1, X, Y, Z]`` by the names of :data:`~roi_fusion.core.guidance.MASK_NAMES`, which guide in
        place of the network's own.
        """
        net = _network_of(network)
        self.threshold.copy_(net.threshold)
        self.volume_quantile.copy_(torch.as_tensor(net.volume_quantile))
        plain = (inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs).float()
        scale, masks = kwargs.get("intensity") or {}, kwargs.get("masks") or {}
        affines = torch.as_tensor(inputs.affine).reshape(-1, 4, 4) if isinstance(inputs, MetaTensor) else _AXIAL[None]
        self.reports, results = [], []
        with torch.no_grad():
            for i in range(len(plain)):
                scales = TYPICAL_SCALES
                if scale:
                    scales = {v: (float(scale[f"{v}_mean"][i]), float(scale[f"{v}_std"][i])) for v in TYPICAL_SCALES}
                own_masks = {k: torch.as_tensor(v)[i : i + 1].to(plain.device) for k, v in masks.items()}
                results.append(self._one(plain[i : i + 1], net, scales, own_masks, affines[min(i, len(affines) - 1)]))
        out = torch.cat(results)
        return MetaTensor(out, meta=inputs.meta) if isinstance(inputs, MetaTensor) else out

    def _one(
        self,
        image: torch.Tensor,
        net: RoiFusionNet,
        scales: Mapping[str, tuple[float, float]],
        masks: Mapping[str, torch.Tensor],
        affine: torch.Tensor,
    ) -> torch.Tensor:
        mirror_axis = 2 + left_right_axis(affine)
        spacing_mm = tuple(affine_to_spacing(affine).tolist())
        generator = torch.Generator().manual_seed(self.seed)
        probabilities, logits = [], []
        decoders: dict[bool, Callable[[torch.Tensor, Level], torch.Tensor]] = {}
        for draw in range(self.num_samples):
            mirrored = draw % 2 == 1
            view = image.flip(mirror_axis) if mirrored else image
            if mirrored not in decoders:
                decoders[mirrored] = self._decoder(view, net)
            noise = torch.randn(image.shape, generator=generator).to(image)
            seen = {k: v.flip(mirror_axis) for k, v in masks.items()} if mirrored else masks
            guided = GuidedDraw(
                self.guidance,
                net,
                view,
                scales["mri"],
                scales["ct"],
                spacing_mm,
                seen,
                regional=draw == 0,
                half_time=self.half_time,
                num_inference_steps=len(self.levels),
            )
            raw = self._draw(view, noise, net, decoders[mirrored], guided)
            probability = net.lesion_probability(raw[:, :1], raw[:, 1:2])
            probabilities.append(probability.flip(mirror_axis) if mirrored else probability)
            if self.keep_draws:
                logits.append(raw[:, :2].flip(mirror_axis) if mirrored else raw[:, :2])
            if draw == 0:
                energies = [[round(value, 6) for value in pair] for pair in guided.energies]
                gate = torch.sigmoid(raw[:, 3:4].float())
                fused = net.compose(image, raw)[:, :1]
                mri, ct = fusion_sources(image)
                blend = gate * mri + (1 - gate) * ct
                head = (image != 0).any(dim=1, keepdim=True)
                written = torch.cat([fused, gate, (fused - blend) * head], dim=1)
        stack = torch.stack(probabilities)
        mean, spread = stack.mean(0), stack.std(0, unbiased=False)
        self.reports.append({"energy": energies, "spread": _spread(stack, mean)})
        if self.keep_draws:
            self.reports[-1]["logits"] = torch.cat(logits)
        return torch.cat([written[:, :1], mean, entropy_bits(mean), written[:, 1:], spread], dim=1)

    def _draw(
        self,
        image: torch.Tensor,
        noise: torch.Tensor,
        net: RoiFusionNet,
        decode: Callable[[torch.Tensor, Level], torch.Tensor],
        guided: GuidedDraw,
    ) -> torch.Tensor:
        """Raw logits of the last step of one run."""
        last: list[torch.Tensor] = []

        def predict_x0(x_t: torch.Tensor, level: Level) -> torch.Tensor:
            raw = guided.correct(decode(x_t, level), x_t, level, decode)
            last[:] = [raw]
            return torch.cat([net.compose(image, raw)[:, :1], 2 * torch.sigmoid(raw[:, :1].float()) - 1], dim=1)

        self.sampler(predict_x0, noise, self.levels)
        return last[0]

    def _decoder(self, image: torch.Tensor, net: RoiFusionNet) -> Callable[[torch.Tensor, Level], torch.Tensor]:
        """``(x_t, level) → raw logits`` for one image, in one piece or in several."""
        roi = self.roi_size or image.shape[2:]
        with autocast_for(self.precision, image.device):
            features = encode_in_slabs(net, image, net.describe(image), math.prod(roi))
        decode = tile_decoder(net, features, image.shape[2:], roi)

        def at_level(x_t: torch.Tensor, level: Level) -> torch.Tensor:
            with autocast_for(self.precision, image.device):
                return decode(x_t, torch.full((len(x_t),), level.t, device=image.device))

        return at_level


def sample_case(inferer: SamplingInferer, network: nn.Module, item: Mapping[str, Any]) -> torch.Tensor:
    """The inferer's channels ``[6, X, Y, Z]`` for one preprocessed case, guided on its own MRI's scale.

    Args:
        inferer: to run.
        network: with its weights.
        item: with ``image`` ``[2, X, Y, Z]`` and ``intensity``.
    """
    intensity = {k: [v] for k, v in item["intensity"].items()}
    return torch.as_tensor(inferer(item["image"][None], network, intensity=intensity)[0])


def _spread(draws: torch.Tensor, mean: torch.Tensor) -> dict[str, float | None]:
    """Mean deviation of the lesion probability over the lesion and its surroundings, by what caused it.

    Args:
        draws: ``[N, 1, 1, X, Y, Z]``; those of odd number saw a mirrored input.
        mean: of the draws.
    """
    where = mean > 0.05
    if len(draws) < 2 or not bool(where.any()):
        return {"noise": None, "mirror": None, "both": None}
    plain, mirrored = draws[0::2], draws[1::2]
    noise = ((plain.std(0, unbiased=False) + mirrored.std(0, unbiased=False)) / 2) if len(draws) > 3 else None
    parts = {"noise": noise, "mirror": (plain.mean(0) - mirrored.mean(0)).abs() / 2, "both": draws.std(0, unbiased=False)}
    return {k: None if v is None else round(float(v[where].mean()), 6) for k, v in parts.items()}


def _network_of(module: nn.Module) -> RoiFusionNet:
    """The network inside DDP, EMA and :class:`~roi_fusion.engine.training.DenoisingModel`."""
    while not hasattr(module, "encode"):
        inner = getattr(module, "module", None) or getattr(module, "network", None)
        if inner is None:
            raise InputError(f"network: expected a RoiFusionNet, got {type(module).__name__}")
        module = inner
    return module  # type: ignore[return-value]
