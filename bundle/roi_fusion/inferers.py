# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The sampling inferer: a pair of volumes in; fused image, lesion probability, uncertainty and provenance out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, sliding_window_inference
from torch import nn

from .diffusion import Level, Scheduler, inference_levels, sample
from .errors import InputError
from .guidance import TYPICAL_MRI_SCALE, GuidedDraw, RoiGuidance
from .intensity import fusion_sources
from .network import RoiFusionNet

__all__ = ["PREDICTION_CHANNELS", "SamplingInferer", "entropy_bits"]

#: Channels of what the inferer returns: F in normalised units; mean lesion probability over draws; its predictive entropy
#: in bits; the gate (share of the MRI) and the residual of the written draw; deviation of the probability between draws.
PREDICTION_CHANNELS = ("fused", "lesion_prob", "uncertainty", "provenance", "residual", "lesion_std")


def entropy_bits(probability: torch.Tensor) -> torch.Tensor:
    """Entropy of a yes/no variable in bits, 0…1."""
    p = probability.double().clamp(1e-12, 1 - 1e-12)
    return (-(p * p.log2() + (1 - p) * (1 - p).log2())).clamp(0, 1).to(probability.dtype)


class SamplingInferer(Inferer):
    """Sample [F, S] by few deterministic steps and return the channels of :data:`PREDICTION_CHANNELS`.

    The image part of the network runs once; each step and draw runs the small denoiser only. The written fused volume is the
    first draw; probability and uncertainty come from all draws. A stroke lesion lies in the brain: its probability is the
    lesion head's times the brain head's.

    Args:
        scheduler: from :func:`~roi_fusion.diffusion.make_scheduler`; must not clip.
        num_inference_steps: 1 … ``num_train_timesteps``.
        num_samples: draws; even ones see the input mirrored left to right.
        seed: of the noise; every call starts from it, so a case does not depend on those before it.
        roi_size: volumes beyond this size in voxels are denoised patch by patch inside each step, with one noise field and
            Gaussian blending of the logits; ``None`` never splits.
        overlap: share of a patch that overlaps its neighbour.
        sampler: ``(predict_x0, noise, levels) → x₀``, as :func:`~roi_fusion.diffusion.sample`.
        guidance: settings of :class:`~roi_fusion.guidance.RoiGuidance`; ``None`` is off. The written draw is guided in brain,
            bone and lesion, the others in the lesion.
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
        overlap: float = 0.25,
        sampler: Callable[..., torch.Tensor] = sample,
        guidance: RoiGuidance | None = None,
        keep_draws: bool = False,
    ) -> None:
        if int(num_samples) != num_samples or num_samples < 1:
            raise InputError(f"num_samples: wanted a whole number of 1 or more, came {num_samples}")
        if not 0 <= overlap < 1:
            raise InputError(f"overlap: wanted a share from 0 to below 1, came {overlap}")
        self.levels = inference_levels(scheduler, num_inference_steps)
        self.num_samples, self.seed, self.overlap = int(num_samples), int(seed), float(overlap)
        self.sampler = sampler
        self.guidance = guidance or RoiGuidance(mode="off")
        self.half_time = 0.5 * scheduler.num_train_timesteps
        self.reports: list[dict[str, Any]] = []
        self.keep_draws = keep_draws
        self.roi_size = tuple(int(s) for s in roi_size) if roi_size else None
        #: Of the network that ran last. MONAI Label loads the weights into a copy of ``network_def``, so
        #: what comes after the inferer cannot read it there.
        self.threshold = torch.full((1,), 0.5)
        self.volume_quantile = torch.full((1,), -1.0)

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        """``[B, 2, X, Y, Z]`` → ``[B, 6, X, Y, Z]``; leaves a MetaTensor's meta data on the result.

        Keywords are ``intensity``, the constants of each case by name as ``[B]``, which put guidance on the MRI's own scale;
        and ``masks``, 0/1 ``[B, 1, X, Y, Z]`` by the names of :data:`~roi_fusion.guidance.MASK_NAMES`, which guide in place
        of the network's own.
        """
        net = _network_of(network)
        self.threshold.copy_(net.threshold)
        self.volume_quantile.copy_(torch.as_tensor(net.volume_quantile))
        plain = (inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs).float()
        scale, masks = kwargs.get("intensity") or {}, kwargs.get("masks") or {}
        self.reports, results = [], []
        with torch.no_grad():
            for i in range(len(plain)):
                mri_scale = (float(scale["mri_mean"][i]), float(scale["mri_std"][i])) if scale else TYPICAL_MRI_SCALE
                own_masks = {k: torch.as_tensor(v)[i : i + 1].to(plain.device) for k, v in masks.items()}
                results.append(self._one(plain[i : i + 1], net, mri_scale, own_masks))
        out = torch.cat(results)
        return MetaTensor(out, meta=inputs.meta) if isinstance(inputs, MetaTensor) else out

    def _one(
        self, image: torch.Tensor, net: RoiFusionNet, mri_scale: tuple[float, float], masks: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        written: torch.Tensor | None = None
        probabilities, logits = [], []
        decoders: dict[bool, Callable[[torch.Tensor, Level], torch.Tensor]] = {}
        for draw in range(self.num_samples):
            mirrored = draw % 2 == 1
            view = image.flip(2) if mirrored else image
            if mirrored not in decoders:
                decoders[mirrored] = self._decoder(view, net)
            noise = torch.randn(image.shape, generator=generator).to(image)
            seen = {k: v.flip(2) for k, v in masks.items()} if mirrored else masks
            guided = GuidedDraw(self.guidance, net, view, mri_scale, seen, regional=draw == 0, half_time=self.half_time)
            raw = self._draw(view, noise, net, decoders[mirrored], guided)
            if draw == 0:
                energies = [[round(value, 6) for value in pair] for pair in guided.energies]
            probability = torch.sigmoid(raw[:, :1].float() / net.temperature) * torch.sigmoid(raw[:, 1:2].float())
            probabilities.append(probability.flip(2) if mirrored else probability)
            if self.keep_draws:
                logits.append(raw[:, :2].flip(2) if mirrored else raw[:, :2])
            if written is None:
                gate = torch.sigmoid(raw[:, 3:4].float())
                fused = net.compose(image, raw)[:, :1]
                mri, ct = fusion_sources(image)
                blend = gate * mri + (1 - gate) * ct
                head = (image != 0).any(dim=1, keepdim=True)
                written = torch.cat([fused, gate, (fused - blend) * head], dim=1)
        assert written is not None
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
        """``(x_t, level) → raw logits`` for one image: whole with shared features, or patch by patch."""

        def time_of(level: Level, count: int) -> torch.Tensor:
            return torch.full((count,), level.t, device=image.device)

        roi, description = self.roi_size, net.describe(image)
        if roi is None or all(n <= r for n, r in zip(image.shape[2:], roi)):
            features = net.encode(image, description)
            return lambda x_t, level: net.decode(features, x_t, time_of(level, len(x_t)))
        size = [min(n, r) for n, r in zip(image.shape[2:], roi)]

        def patchwise(x_t: torch.Tensor, level: Level) -> torch.Tensor:
            def predictor(patch: torch.Tensor) -> torch.Tensor:
                return net.decode(net.encode(patch[:, :2], description), patch[:, 2:], time_of(level, len(patch)))

            both = torch.cat([image, x_t], dim=1)
            return sliding_window_inference(both, size, 1, predictor, overlap=self.overlap, mode="gaussian")  # type: ignore[return-value]

        return patchwise


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
    """The network inside DDP, EMA and :class:`~roi_fusion.training.DenoisingModel`."""
    while not hasattr(module, "encode"):
        inner = getattr(module, "module", None) or getattr(module, "network", None)
        if inner is None:
            raise InputError(f"network: wanted a RoiFusionNet, came {type(module).__name__}")
        module = inner
    return module  # type: ignore[return-value]
