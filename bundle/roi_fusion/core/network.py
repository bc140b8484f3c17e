# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The gated ROI diffusion network: fuses MRI and CT and segments the stroke lesion.

Two parts share the work. An anisotropic 3-D U-Net reads the image pair once per case; a small denoiser reads the noisy state
and the U-Net's features at every diffusion step. A further step or draw therefore costs a fraction of the first.

Inside, tensors are depth first (``[B, C, Z, X, Y]``) in ``channels_last_3d`` memory, two to four times faster on a CPU than
the contiguous layout. Normalisation is over the channels of each voxel, never over space, so that a voxel's result depends
on its receptive field alone and patches agree with whole volumes.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import FLAT, FULL, Block, Pyramid, double_plane, fold_plane, unfold_plane
from .channels import RAW_CHANNELS, split_raw
from .contrast import ContrastDescriptor, contrast_facts
from .intensity import fusion_sources

__all__ = ["RoiFusionNet"]


class RoiFusionNet(nn.Module):
    """Predicts the clean state x₀ = [F, S] from a noisy state and the image pair.

    The fused image is a gated blend plus a bounded residual, ``F = g·M + (1 - g)·C' + ρ·tanh(r)``: detail passes at full
    resolution, the gate g is the share of the MRI, ρ bounds what can come from neither, and C' is the CT with its bone
    brightened (:func:`~roi_fusion.core.intensity.brighten_bone`). S = 2·p - 1 is the lesion map,
    p the lesion probability. A fixed layer adds a stroke window of the CT (20…60 HU) to the input.

    Args:
        channels: widths of the image U-Net; level 0 works at half the in-plane resolution, each further one at half of the
            last. At least four levels.
        denoiser_channels: widths of the denoiser at its three levels.
        embedding_channels: width of the time embedding.
        detail_channels: width of the full-resolution head.
        residual_bound: ρ in normalised units (standard deviations over the head).
        num_train_timesteps: number of diffusion steps that ``t`` counts.
        window_centre, window_width: stroke window in normalised CT units: the position of 40 HU in an ordinary head, and the
            distance from 20 to 60 HU. The window is soft, because mean and deviation differ a little from head to head.

    ``forward(image [B, 2, X, Y, Z]) → [B, 5, X, Y, Z]`` with the channels of
    :data:`~roi_fusion.core.channels.OUTPUT_CHANNELS` is deterministic: it denoises x_T = 0 at the last timestep. Any spatial
    shape is padded inside and cropped back.

    Raises:
        ValueError: for too few or negative widths.

    Example:
        >>> network = RoiFusionNet(channels=(8, 8, 8, 8), denoiser_channels=(4, 4, 4))
        >>> network(torch.randn(1, 2, 20, 24, 3)).shape
        torch.Size([1, 5, 20, 24, 3])
    """

    window: torch.Tensor
    temperature: torch.Tensor
    threshold: torch.Tensor
    volume_quantile: torch.Tensor

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 96, 160),
        denoiser_channels: Sequence[int] = (16, 32, 48),
        embedding_channels: int = 128,
        detail_channels: int = 16,
        residual_bound: float = 0.25,
        num_train_timesteps: int = 1000,
        window_centre: float = -0.23,
        window_width: float = 0.9,
    ) -> None:
        super().__init__()
        widths, small = [int(c) for c in channels], [int(c) for c in denoiser_channels]
        if len(widths) < 4 or min(widths) < 1:
            raise ValueError(f"channels: expected four or more positive widths, got {list(channels)}")
        if len(small) != 3 or min(small) < 1:
            raise ValueError(f"denoiser_channels: expected three positive widths, got {list(denoiser_channels)}")
        self.num_train_timesteps = int(num_train_timesteps)
        self.residual_bound = float(residual_bound)
        self.divisor = 2 ** len(widths)
        #: Receptive field on each side, for :mod:`~roi_fusion.core.tiles`: two slices for each deep block of the pyramid; 44
        #: voxels in plane (rounded up to what all levels halve) and six slices for blocks, stem and head of the denoiser.
        self.encode_margin = 2 * (2 * (len(widths) - 3) + 2)
        reach = 44 + -44 % self.divisor
        self.decode_margin = (reach, reach, 6)
        self.half_embedding = 32
        self.register_buffer("window", torch.tensor([float(window_centre), float(window_width)]))
        # Fitted on validation cases after training and stored with the weights: probability = σ(logit / temperature).
        self.register_buffer("temperature", torch.ones(1))
        self.register_buffer("threshold", torch.full((1,), 0.5))
        # Quantile of the conformal interval of the lesion volume, see metrics/calibration.py; -1 until it is fitted.
        self.register_buffer("volume_quantile", torch.full((1,), -1.0))

        self.descriptor = ContrastDescriptor(embedding_channels)
        self.pyramid = Pyramid(3, widths, embedding_channels)  # MRI, CT, stroke window
        self.time = nn.Sequential(
            nn.Linear(2 * self.half_embedding, embedding_channels),
            nn.SiLU(),
            nn.Linear(embedding_channels, embedding_channels),
            nn.SiLU(),
        )
        self.stem = nn.Conv3d(8, small[0], FLAT, padding=(0, 1, 1))  # noisy F and S, folded
        self.inject = nn.ModuleList([nn.Conv3d(w, s, 1) for w, s in zip(widths, small)])
        self.down = nn.ModuleList([Block(s, s, k, embedding_channels) for s, k in zip(small, (FLAT, FULL, FULL))])
        self.shrink = nn.ModuleList([nn.Conv3d(a, b, (1, 2, 2), stride=(1, 2, 2)) for a, b in pairwise(small)])
        self.grow = nn.ModuleList([nn.Conv3d(small[2], small[1], 1), nn.Conv3d(small[1], small[0], 1)])
        self.up = nn.ModuleList(
            [Block(small[1], small[1], FULL, embedding_channels), Block(small[0], small[0], FLAT, embedding_channels)]
        )
        # Full-resolution head: unfolded features beside the inputs themselves, so that borders stay one voxel sharp.
        self.spread = nn.Conv3d(small[0] + widths[0], 4 * (detail_channels // 2), 1)
        self.detail = nn.Conv3d(detail_channels // 2 + 5, detail_channels, FLAT, padding=(0, 1, 1))
        self.refine = nn.Conv3d(detail_channels, detail_channels, FLAT, padding=(0, 1, 1))
        self.out = nn.Conv3d(detail_channels, len(RAW_CHANNELS), 1)
        bias = torch.zeros(len(RAW_CHANNELS))
        bias[RAW_CHANNELS.index("lesion")] = -3.0  # lesions are rare
        self.out.bias = nn.Parameter(bias)
        nn.init.zeros_(self.out.weight)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stub lacks this form

    def describe(self, image: torch.Tensor) -> torch.Tensor:
        """Describe the contrast of a whole pair, for :meth:`encode` of the pair or of its patches.

        Args:
            image: normalised MRI and CT of a whole head, ``[B, 2, X, Y, Z]``.

        Returns:
            Embedding ``[B, E]``.
        """
        return self.descriptor(contrast_facts(image, self.descriptor.centres))

    def encode(self, image: torch.Tensor, description: torch.Tensor) -> list[torch.Tensor]:
        """Features that do not change between diffusion steps: the padded input and those of the pyramid, depth first.

        Args:
            image: normalised MRI and CT, ``[B, 2, X, Y, Z]``.
            description: embedding from :meth:`describe` of the same images, or of the volumes that they were cropped from.

        Returns:
            Four tensors ``[B, C, Z, X', Y']`` with the plane padded and 1, 2, 4 and 8 times smaller.
        """
        window = torch.tanh((image[:, 1:2] - self.window[0]) / (0.5 * self.window[1]))
        x = self._inward(torch.cat([image, window], dim=1))
        return [x] + self.pyramid(x, description)

    def feature_means(self, image: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor:
        """What the deepest of the features that the denoiser reads are on average over the head.

        Args:
            image: normalised MRI and CT, ``[B, 2, X, Y, Z]``.
            features: of :meth:`encode`.

        Returns:
            ``[B, C]``.
        """
        deepest = features[-1].float()
        head = self._inward((image != 0).any(dim=1, keepdim=True).float())
        head = F.adaptive_avg_pool3d(head, (deepest.shape[2], deepest.shape[3], deepest.shape[4]))
        return (deepest * head).flatten(2).sum(2) / head.flatten(2).sum(2).clamp(min=1e-6)

    def decode(self, features: list[torch.Tensor], x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Predict raw logits from features and a noisy state.

        Args:
            features: from :meth:`encode`.
            x_t: noisy state [F, S], ``[B, 2, X, Y, Z]``.
            t: timesteps ``[B]``.

        Returns:
            ``[B, 5, X, Y, Z]`` with the channels of :data:`~roi_fusion.core.channels.RAW_CHANNELS`.
        """
        embedding = self._embed_time(t)
        noisy = self._inward(x_t)
        h = self.stem(fold_plane(noisy))
        skips: list[torch.Tensor] = []
        for i, (inject, block) in enumerate(zip(self.inject, self.down)):
            h = block(h + inject(features[i + 1]), embedding)
            skips.append(h)
            for j, shrink in enumerate(self.shrink):  # TorchScript indexes no module list by a variable
                if j == i:
                    h = shrink(h)
        h = skips.pop()
        for grow, block in zip(self.grow, self.up):
            h = block(skips.pop() + double_plane(grow(h)), embedding)
        h = self.spread(F.silu(torch.cat([h, features[1]], dim=1)))
        h = torch.cat([unfold_plane(h), features[0], noisy], dim=1).contiguous(memory_format=torch.channels_last_3d)
        h = self.out(F.silu(self.refine(F.silu(self.detail(h)))))
        return h.permute(0, 1, 3, 4, 2)[:, :, : x_t.shape[2], : x_t.shape[3]]  # [B, 5, X, Y, Z]

    def compose(self, image: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        """Compose the fused image and the gate from raw logits; outside the head F is exactly 0.

        Args:
            image: normalised MRI and CT, ``[B, 2, X, Y, Z]``.
            raw: logits from :meth:`decode`, ``[B, 5, X, Y, Z]``.

        Returns:
            ``[B, 5, X, Y, Z]`` with the channels of :data:`~roi_fusion.core.channels.OUTPUT_CHANNELS`.
        """
        logits = split_raw(raw.float())
        gate = torch.sigmoid(logits.gate)
        residual = self.residual_bound * torch.tanh(logits.residual)
        head = (image != 0).any(dim=1, keepdim=True).to(gate.dtype)
        mri, ct = fusion_sources(image)
        fused = (gate * mri + (1 - gate) * ct + residual) * head
        return torch.cat([fused, logits.lesion, logits.brain, logits.bone, gate], dim=1)

    def lesion_probability(self, lesion_logit: torch.Tensor, brain_logit: torch.Tensor) -> torch.Tensor:
        """Calibrated lesion probability times the probability of brain: a stroke lesion lies in the brain.

        Args:
            lesion_logit, brain_logit: logits of the two heads, any shape.
        """
        return torch.sigmoid(lesion_logit.float() / self.temperature) * torch.sigmoid(brain_logit.float())

    def denoise(
        self, x_t: torch.Tensor, image: torch.Tensor, t: torch.Tensor, facts: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predict the clean state and all heads from a noisy state, as training does.

        Args:
            x_t: noisy state [F, S], ``[B, 2, X, Y, Z]``.
            image: normalised MRI and CT of whole heads or of crops, ``[B, 2, X, Y, Z]``.
            t: timesteps ``[B]``.
            facts: output of :func:`contrast_facts` for the volumes that crops were cut from; None computes it from `image`.

        Returns:
            ``[B, 5, X, Y, Z]`` with the channels of :data:`~roi_fusion.core.channels.OUTPUT_CHANNELS`.
        """
        if facts is None:
            facts = contrast_facts(image, self.descriptor.centres)
        return self.compose(image, self.decode(self.encode(image, self.descriptor(facts)), x_t, t))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        t = torch.full((image.shape[0],), float(self.num_train_timesteps - 1), device=image.device)
        return self.denoise(torch.zeros_like(image), image, t)

    def _inward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, C, X, Y, Z]`` → padded ``[B, C, Z, X', Y']`` in channels_last_3d."""
        pad_x, pad_y = -x.shape[2] % self.divisor, -x.shape[3] % self.divisor
        x = F.pad(x.permute(0, 1, 4, 2, 3), [0, pad_y, 0, pad_x])
        return x.contiguous(memory_format=torch.channels_last_3d)

    def _embed_time(self, t: torch.Tensor) -> torch.Tensor:
        """Sinusoidal embedding (Vaswani et al. 2017) of timesteps ``[B]``, whole or not → ``[B, E]``."""
        steps = torch.arange(self.half_embedding, device=t.device, dtype=torch.float32)
        frequency = torch.exp(-math.log(10000.0) * steps / self.half_embedding)
        angle = t.float()[:, None] * (1000.0 / self.num_train_timesteps) * frequency[None]
        return self.time(torch.cat([angle.sin(), angle.cos()], dim=1))
