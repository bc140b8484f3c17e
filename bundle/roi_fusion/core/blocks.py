# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Layers of the network. Tensors are depth first, ``[B, C, Z, X, Y]``; all of them script."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["FLAT", "FULL", "Block", "Pyramid", "double_plane", "fold_plane", "unfold_plane"]

#: Kernels: in plane, and over neighbouring slices too.
FLAT, FULL = (1, 3, 3), (3, 3, 3)


class _ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each voxel, ``[B, C, Z, X, Y]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 4, 1)  # [B, Z, X, Y, C]: contiguous already in channels_last_3d
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 4, 1, 2, 3)


class Block(nn.Module):
    """Pre-activation residual block, modulated by an embedding (FiLM, Perez et al. 2018)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: tuple[int, int, int], embedding: int) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.norm1 = _ChannelNorm(channels_in)
        self.conv1 = nn.Conv3d(channels_in, channels_out, kernel, padding=padding)
        self.film = nn.Linear(embedding, 2 * channels_out)
        self.norm2 = _ChannelNorm(channels_out)
        self.conv2 = nn.Conv3d(channels_out, channels_out, kernel, padding=padding)
        self.skip = nn.Conv3d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        for zero in (self.film.weight, self.film.bias, self.conv2.weight):
            nn.init.zeros_(zero)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        scale, shift = self.film(embedding)[:, :, None, None, None].chunk(2, dim=1)
        return self.skip(x) + self.conv2(F.silu(h * (1 + scale) + shift))


def fold_plane(x: torch.Tensor) -> torch.Tensor:
    """Space to depth in plane: ``[B, C, Z, X, Y]`` → ``[B, 4C, Z, X/2, Y/2]``."""
    b, c, z, h, w = x.shape
    x = x.reshape(b, c, z, h // 2, 2, w // 2, 2).permute(0, 4, 6, 1, 2, 3, 5)  # [B, 2, 2, C, Z, X/2, Y/2]
    return x.reshape(b, 4 * c, z, h // 2, w // 2).contiguous(memory_format=torch.channels_last_3d)


def unfold_plane(x: torch.Tensor) -> torch.Tensor:
    """Depth to space in plane, ``[B, 4C, Z, X/2, Y/2]`` → ``[B, C, Z, X, Y]``; inverse of :func:`fold_plane`."""
    b, c, z, h, w = x.shape
    x = x.reshape(b, 2, 2, c // 4, z, h, w).permute(0, 3, 4, 5, 1, 6, 2)  # [B, C/4, Z, X/2, 2, Y/2, 2]
    return x.reshape(b, c // 4, z, 2 * h, 2 * w)


def double_plane(x: torch.Tensor) -> torch.Tensor:
    """Nearest-neighbour upsampling in plane: ``[B, C, Z, X, Y]`` → ``[B, C, Z, 2X, 2Y]``."""
    return F.interpolate(x, scale_factor=[1.0, 2.0, 2.0], mode="nearest")


class Pyramid(nn.Module):
    """U-Net over the image pair; returns the features of its decoder at 1/2, 1/4 and 1/8 of the in-plane resolution.

    Args:
        inputs: number of input channels.
        widths: channels of each level, at least four; level 0 works at half of the in-plane resolution.
        embedding: width of the embedding that modulates the blocks.
    """

    def __init__(self, inputs: int, widths: list[int], embedding: int) -> None:
        super().__init__()
        kernels = [FLAT, FLAT] + [FULL] * (len(widths) - 2)
        self.stem = nn.Conv3d(4 * inputs, widths[0], FLAT, padding=(0, 1, 1))
        self.down = nn.ModuleList([Block(w, w, k, embedding) for w, k in zip(widths[:-1], kernels)])
        self.shrink = nn.ModuleList([nn.Conv3d(a, b, (1, 2, 2), stride=(1, 2, 2)) for a, b in pairwise(widths)])
        self.bottom = nn.ModuleList([Block(widths[-1], widths[-1], FULL, embedding) for _ in range(2)])
        pairs = list(zip(widths[:-1], widths[1:], kernels))[::-1]
        self.grow = nn.ModuleList([nn.Conv3d(deep, wide, 1) for wide, deep, _ in pairs])
        self.up = nn.ModuleList([Block(2 * wide, wide, k, embedding) for wide, _, k in pairs])

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> list[torch.Tensor]:
        h = self.stem(fold_plane(x))
        skips: list[torch.Tensor] = []
        for block, shrink in zip(self.down, self.shrink):
            h = block(h, embedding)
            skips.append(h)
            h = shrink(h)
        for block in self.bottom:
            h = block(h, embedding)
        features: list[torch.Tensor] = []
        for grow, block in zip(self.grow, self.up):
            h = block(torch.cat([double_plane(grow(h)), skips.pop()], dim=1), embedding)
            features.insert(0, h)
        return features[:3]
