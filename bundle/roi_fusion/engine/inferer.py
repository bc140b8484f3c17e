# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The sampling inferer: a pair of volumes in; fused image, lesion probability, uncertainty and provenance out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.inferers import Inferer
from torch import nn

from ..core.channels import split_output, split_raw
from ..core.contrast import contrast_facts
from ..core.facts import SPREAD_CAUSES, CaseFacts, facts_to_meta
from ..core.guidance import GuidedDraw, RoiGuidance
from ..core.intensity import TYPICAL_SCALES, expand_hu, fusion_sources
from ..core.lesion_places import set_apart
from ..core.network import RoiFusionNet
from ..core.precision import autocast_for
from ..core.schedule import Level, Scheduler, inference_levels, sample
from ..core.tiles import encode_in_slabs, tile_decoder
from ..core.uncertainty import entropy_bits
from ..data.grids import left_right_axis
from ..errors import InputError

__all__ = ["Sampled", "SamplingInferer", "intensity_of", "sample_case"]

#: What a plain tensor is taken for: axial slices 5 mm apart.
_AXIAL = torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0]))


class Sampled(NamedTuple):
    """The prediction of one case.

    Attributes:
        channels: ``[1, 6, X, Y, Z]`` with the channels of :data:`~roi_fusion.values.PREDICTION_CHANNELS`.
        facts: what the prediction says about itself.
        logits: lesion and brain logits of every draw, ``[N, 2, X, Y, Z]``, where they were asked for.
    """

    channels: torch.Tensor
    facts: CaseFacts
    logits: torch.Tensor | None = None


class SamplingInferer(Inferer):
    """Sample [F, S] by few deterministic steps and return the channels of :data:`~roi_fusion.values.PREDICTION_CHANNELS`.

    The image part of the network runs once; each step and draw runs the small denoiser only. The written fused volume is the
    first draw; probability and uncertainty come from all draws. A stroke lesion lies in the brain: its probability is the
    lesion head's times the brain head's, and parts of it in fluid or outside the brain are told apart
    (:func:`~roi_fusion.core.lesion_places.set_apart`). A call changes nothing in the inferer: what a prediction says about
    itself travels with it as meta data, see :func:`~roi_fusion.core.facts.facts_of`.

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
        precision: of the network's passes, see :func:`~roi_fusion.core.precision.autocast_for`.

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
        precision: str = "auto",
    ) -> None:
        if int(num_samples) != num_samples or num_samples < 1:
            raise InputError(f"num_samples: expected a whole number of 1 or more, got {num_samples}")
        self.levels = inference_levels(scheduler, num_inference_steps)
        self.num_samples, self.seed = int(num_samples), int(seed)
        self.sampler = sampler
        self.guidance = guidance or RoiGuidance(mode="off")
        self.half_time = 0.5 * scheduler.num_train_timesteps
        autocast_for(precision, torch.device("cpu"))
        self.precision = precision
        self.roi_size = tuple(int(s) for s in roi_size) if roi_size else None

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        """Predict a batch ``[B, 2, X, Y, Z]``.

        Args:
            inputs: normalised MRI and CT.
            network: :class:`~roi_fusion.core.network.RoiFusionNet`, plain or wrapped.
            args: not used.
            kwargs: ``intensity`` and ``masks`` as in :meth:`sample_cases`.

        Returns:
            ``MetaTensor`` ``[B, 6, X, Y, Z]`` with the meta data of `inputs` and the facts of each case.
        """
        cases = self.sample_cases(inputs, network, kwargs.get("intensity"), kwargs.get("masks"))
        meta = dict(inputs.meta) if isinstance(inputs, MetaTensor) else {}
        out = torch.cat([case.channels for case in cases])
        return MetaTensor(out, meta={**meta, **facts_to_meta([case.facts for case in cases])})

    def sample_cases(
        self,
        inputs: torch.Tensor,
        network: nn.Module,
        intensity: Mapping[str, Any] | None = None,
        masks: Mapping[str, torch.Tensor] | None = None,
        *,
        keep_logits: bool = False,
    ) -> list[Sampled]:
        """Predict a batch ``[B, 2, X, Y, Z]`` case by case.

        Args:
            inputs: normalised MRI and CT.
            network: :class:`~roi_fusion.core.network.RoiFusionNet`, plain or wrapped.
            intensity: constants of each case's normalisation by name, ``[B]``; they put guidance on the MRI's own scale.
            masks: 0/1 ``[B, 1, X, Y, Z]`` by the names of :data:`~roi_fusion.core.choices.MASK_NAMES`, which guide in place
                of the network's own.
            keep_logits: also return the logits of every draw.
        """
        net = _network_of(network)
        plain = (inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs).float()
        affines = torch.as_tensor(inputs.affine).reshape(-1, 4, 4) if isinstance(inputs, MetaTensor) else _AXIAL[None]
        cases = []
        with torch.no_grad():
            for i in range(len(plain)):
                scales = TYPICAL_SCALES
                if intensity:
                    scales = {v: (float(intensity[f"{v}_mean"][i]), float(intensity[f"{v}_std"][i])) for v in TYPICAL_SCALES}
                own_masks = {k: torch.as_tensor(v)[i : i + 1].to(plain.device) for k, v in (masks or {}).items()}
                affine = affines[min(i, len(affines) - 1)]
                cases.append(self._one(plain[i : i + 1], net, scales, own_masks, affine, keep_logits))
        return cases

    def _one(
        self,
        image: torch.Tensor,
        net: RoiFusionNet,
        scales: Mapping[str, tuple[float, float]],
        masks: Mapping[str, torch.Tensor],
        affine: torch.Tensor,
        keep_logits: bool,
    ) -> Sampled:
        mirror_axis = 2 + left_right_axis(affine)
        spacing_mm = tuple(affine_to_spacing(affine).tolist())
        generator = torch.Generator().manual_seed(self.seed)
        probabilities, kept, energies = [], [], []
        decoders: dict[bool, Callable[[torch.Tensor, Level], torch.Tensor]] = {}
        brain = torch.zeros_like(image[:, :1])
        for draw in range(self.num_samples):
            mirrored = draw % 2 == 1
            view = image.flip(mirror_axis) if mirrored else image
            if mirrored not in decoders:
                features = self._features(view, net)
                decoders[mirrored] = self._decoder(view, net, features)
                if not mirrored:
                    contrast = contrast_facts(view, net.descriptor.centres)[0].tolist()
                    means = net.feature_means(view, features)[0].tolist()
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
            logits = split_raw(raw)
            probability = net.lesion_probability(logits.lesion, logits.brain)
            probabilities.append(probability.flip(mirror_axis) if mirrored else probability)
            brain += torch.sigmoid((logits.brain.flip(mirror_axis) if mirrored else logits.brain).float())
            if keep_logits:
                both = torch.cat([logits.lesion, logits.brain], dim=1)
                kept.append(both.flip(mirror_axis) if mirrored else both)
            if draw == 0:
                energies = [[round(value, 6) for value in pair] for pair in guided.energies]
                fused, provenance, residual = _composed(image, raw, net)
        draws = torch.cat(probabilities)
        mean, deviation = draws.mean(0, keepdim=True), draws.std(0, unbiased=False, keepdim=True)
        apart = set_apart(
            mean,
            brain / self.num_samples,
            self._hounsfield(image, scales["ct"]),
            threshold=float(net.threshold),
            spacing_mm=spacing_mm,
        )
        facts = CaseFacts(
            float(net.threshold),
            float(net.volume_quantile),
            energies,
            _spread(draws, mean),
            apart.in_fluid_ml,
            apart.outside_brain_ml,
            contrast,
            means,
        )
        mean = apart.probability
        channels = torch.cat([fused, mean, entropy_bits(mean), provenance, residual, deviation], dim=1)
        return Sampled(channels, facts, torch.cat(kept) if kept else None)

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
            return torch.cat(
                [split_output(net.compose(image, raw)).fused, 2 * torch.sigmoid(split_raw(raw).lesion.float()) - 1], dim=1
            )

        self.sampler(predict_x0, noise, self.levels)
        return last[0]

    def _hounsfield(self, image: torch.Tensor, scale: tuple[float, float]) -> torch.Tensor | None:
        """The CT of a pair in HU, NaN where it shows nothing; None without a CT."""
        ct = image[:, 1:2]
        if not bool((ct != 0).any()):
            return None
        mean, deviation = scale
        hu = expand_hu(ct * deviation + mean, self.guidance.hu_points, self.guidance.scaled_points)
        return torch.where(ct != 0, hu, torch.full_like(hu, math.nan))

    def _features(self, image: torch.Tensor, net: RoiFusionNet) -> list[torch.Tensor]:
        """What the network's image part says of one image, in one piece or in several."""
        with autocast_for(self.precision, image.device):
            return encode_in_slabs(net, image, net.describe(image), math.prod(self.roi_size or image.shape[2:]))

    def _decoder(
        self, image: torch.Tensor, net: RoiFusionNet, features: list[torch.Tensor]
    ) -> Callable[[torch.Tensor, Level], torch.Tensor]:
        """``(x_t, level) → raw logits`` for one image, in one piece or in several."""
        roi = self.roi_size or image.shape[2:]
        decode = tile_decoder(net, features, image.shape[2:], roi)

        def at_level(x_t: torch.Tensor, level: Level) -> torch.Tensor:
            with autocast_for(self.precision, image.device):
                return decode(x_t, torch.full((len(x_t),), level.t, device=image.device))

        return at_level


def sample_case(inferer: SamplingInferer, network: nn.Module, item: Mapping[str, Any]) -> torch.Tensor:
    """The prediction ``[6, X, Y, Z]`` of one preprocessed case, guided on its own MRI's scale.

    Args:
        inferer: inferer to run.
        network: network with its weights.
        item: case with ``image`` ``[2, X, Y, Z]`` and ``intensity``.
    """
    return inferer.sample_cases(item["image"][None], network, intensity_of(item))[0].channels[0]


def intensity_of(item: Mapping[str, Any]) -> dict[str, list[float]]:
    """The constants of one case's normalisation as those of a batch of one."""
    return {name: [value] for name, value in item["intensity"].items()}


def _composed(image: torch.Tensor, raw: torch.Tensor, net: RoiFusionNet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fused image, share of the MRI and residual of raw logits, each ``[1, 1, X, Y, Z]``."""
    gate, fused = torch.sigmoid(split_raw(raw).gate.float()), split_output(net.compose(image, raw)).fused
    mri, ct = fusion_sources(image)
    head = (image != 0).any(dim=1, keepdim=True)
    return fused, gate, (fused - (gate * mri + (1 - gate) * ct)) * head


def _spread(draws: torch.Tensor, mean: torch.Tensor) -> dict[str, float | None]:
    """Mean deviation of the lesion probability over the lesion and its surroundings, by what caused it.

    Args:
        draws: lesion probability of each draw, ``[N, 1, X, Y, Z]``; draws of odd number saw a mirrored input.
        mean: mean over the draws, ``[1, 1, X, Y, Z]``.
    """
    where = mean[0] > 0.05
    if len(draws) < 2 or not bool(where.any()):
        return dict.fromkeys(SPREAD_CAUSES)
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
