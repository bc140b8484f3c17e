# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""ROI guidance of the sampler: at each step the gradient of an energy moves the predicted image within what gate and residual
can reach.

The energy is regional (:mod:`~roi_fusion.core.regional_energy`), and a lesion term acts on the lesion logit. Every move is
written back as logits, so F stays inside the blend and its bound, and the provenance stays exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..errors import InputError
from .channels import split_raw
from .choices import GUIDANCE_MODES, GUIDANCE_SCHEDULES, HU_POINTS, MASK_NAMES, SCALED_POINTS
from .intensity import TYPICAL_SCALES
from .lesion_guidance import LesionGuide
from .network import RoiFusionNet
from .regional_energy import RegionalEnergy, find_regions
from .regional_guidance import LogitDescent, NetworkDescent, Step
from .schedule import Level

__all__ = ["GuidedDraw", "RoiGuidance"]

#: Steps that move by all of η and γ; more steps share that way among them, and end where these do.
_FULL_STEPS = 4


@dataclass(frozen=True)
class RoiGuidance:
    """Settings of the guidance.

    Attributes:
        mode: ``off``; ``logits`` moves gate and residual of a step; ``full`` moves the noisy state, by the gradient through the
            denoiser.
        alpha, beta: weights of the brain and the bone term.
        gamma: share of the strength that the lesion logit moves in a step, at most; 0 leaves the lesion alone.
        strength: η. On the logits η·σ(κ·u) is the share of the way to the optimum of its windows that a voxel goes in an
            update; through the network it is proportional to a step of the noisy state. Both hold for up to 4 sampling steps;
            of n > 4 steps each goes 4/n of it, or else more steps would mean more guidance.
        schedule: ``constant``; or ``rising``: η times the signal of the level, so less at the noisy start.
        kappa: κ of the weight σ(κ·u), u the entropy of gate or lesion in bits: where the network is sure, it moves less.
        num_updates: gradient updates in a diffusion step.
        hu_points, scaled_points: the curve that the CT was companded with, see :func:`~roi_fusion.core.intensity.compand_hu`.

    Raises:
        InputError: for an unknown mode or schedule, a negative number, or fewer than one update.

    Example:
        >>> RoiGuidance(schedule="rising").eta(Level(t=500.0, signal=0.25, noise=0.97))
        0.25
    """

    mode: str = "logits"
    alpha: float = 2.0
    beta: float = 0.5
    gamma: float = 0.06
    strength: float = 1.0
    schedule: str = "constant"
    kappa: float = 2.0
    num_updates: int = 2
    hu_points: Sequence[float] = HU_POINTS
    scaled_points: Sequence[float] = SCALED_POINTS

    def __post_init__(self) -> None:
        for name, expected in (("mode", GUIDANCE_MODES), ("schedule", GUIDANCE_SCHEDULES)):
            if getattr(self, name) not in expected:
                raise InputError(f"guidance {name}: expected one of {', '.join(expected)}, got {getattr(self, name)!r}")
        for name in ("alpha", "beta", "gamma", "strength", "kappa"):
            if not float(getattr(self, name)) >= 0:
                raise InputError(f"guidance {name}: expected a number of 0 or more, got {getattr(self, name)}")
        if int(self.num_updates) != self.num_updates or self.num_updates < 1:
            raise InputError(f"guidance num_updates: expected a whole number of 1 or more, got {self.num_updates}")

    def eta(self, level: Level) -> float:
        """The strength η at a noise level."""
        return self.strength * (level.signal if self.schedule == "rising" else 1.0)


@dataclass
class GuidedDraw:
    """Guidance of one draw of one case; :meth:`correct` follows every prediction of the sampler.

    What lasts from step to step lies in two objects: ``descent``, made at the first step, and ``lesion``.

    Args:
        settings: settings of the guidance.
        network: gives composition, temperature and threshold.
        image: normalised MRI and CT, ``[1, 2, X, Y, Z]``.
        mri_scale, ct_scale: mean and standard deviation that map normalised units to the scaled units of MRI and CT.
        spacing_mm: voxel size along the array axes, in mm.
        masks: 0/1 ``[1, 1, X, Y, Z]`` by the names of :data:`~roi_fusion.core.choices.MASK_NAMES`; they replace the
            network's own.
        regional: whether to move the fused image, or the lesion alone.
        half_time: timestep below which the lesion is guided by the network's own prediction at that moment.
        num_inference_steps: number of sampling steps of the draw.
        chunk: slices worked on at a time.

    Attributes:
        energies: regional energy before and after each step.

    Raises:
        InputError: for an unknown mask, or one on another grid.
    """

    settings: RoiGuidance
    network: RoiFusionNet
    image: torch.Tensor
    mri_scale: tuple[float, float] = TYPICAL_SCALES["mri"]
    ct_scale: tuple[float, float] = TYPICAL_SCALES["ct"]
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 5.0)
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    regional: bool = True
    half_time: float = 500.0
    num_inference_steps: int = 1
    chunk: int = 8
    energies: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, mask in self.masks.items():
            if name not in MASK_NAMES:
                raise InputError(f"guidance_masks: expected names of {', '.join(MASK_NAMES)}, got {name!r}")
            if mask.shape[2:] != self.image.shape[2:]:
                expected, got = tuple(self.image.shape[2:]), tuple(mask.shape[2:])
                raise InputError(f"{name}: expected the grid {expected} of the image, got {got}")
        given = self.masks["lesion_mask"].float() if "lesion_mask" in self.masks else None
        self.lesion = LesionGuide(self.network, self.settings.gamma, self.settings.kappa, self.half_time, given)
        self.descent: LogitDescent | NetworkDescent | None = None

    def correct(
        self, raw: torch.Tensor, x_t: torch.Tensor, level: Level, decode: Callable[[torch.Tensor, Level], torch.Tensor]
    ) -> torch.Tensor:
        """The logits ``[1, 5, X, Y, Z]`` of this step, guided.

        Args:
            raw: what the network predicted from `x_t`, ``[1, 5, X, Y, Z]``.
            x_t: noisy state, ``[1, 2, X, Y, Z]``.
            level: noise level of this step.
            decode: ``(x_t, level) → raw``, for the mode ``full``.
        """
        if self.settings.mode == "off" or self.settings.strength == 0:
            return raw
        raw = raw.float()
        eta = self.settings.eta(level) * min(1.0, _FULL_STEPS / self.num_inference_steps)
        if self.regional:
            if self.descent is None:
                self.descent = self._start(raw)
            raw, before, after = self.descent.step(Step(raw, x_t, level, eta, decode))
            self.energies.append((before, after))
        return self.lesion.step(raw, level, eta)

    def _start(self, raw: torch.Tensor) -> LogitDescent | NetworkDescent:
        """The descent of the regional energy, whose regions are those of the first prediction."""
        settings = self.settings
        curve = (settings.hu_points, settings.scaled_points)
        regions = find_regions(raw, self.image, self.ct_scale, self.spacing_mm, self.masks, curve)
        energy = RegionalEnergy(self.image, regions, self.mri_scale, settings.alpha, settings.beta, self.chunk)
        if settings.mode == "full":
            return NetworkDescent(self.network, self.image, energy, settings.num_updates)
        gate = split_raw(raw).gate
        return LogitDescent(self.network, self.image, energy, regions, gate, settings.kappa, settings.num_updates)
