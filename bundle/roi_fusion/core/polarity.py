# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Whether a stroke lesion is bright or dark in an MRI: dark on ADC and T1, bright on DWI, FLAIR and T2.

No crop tells, and what a few averages over CT classes tell is too little: T1 and T2 were taken for each other in every second
painted head. A thumbnail of the whole head shows it: where fluid, white matter and cortex lie, and which is brighter.
"""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["PolarityScout", "polarity_facts", "polarity_loss"]


def _means_along_last(x: torch.Tensor, count: int) -> torch.Tensor:
    """Means over `count` even parts of the last axis: one axis of ``adaptive_avg_pool3d``, which ONNX does not have."""
    size = x.shape[4]
    part, at = torch.arange(count, device=x.device)[:, None], torch.arange(size, device=x.device)[None]
    first = torch.div(part * size, count, rounding_mode="floor")
    beyond = torch.div((part + 1) * size + count - 1, count, rounding_mode="floor")
    weights = ((at >= first) & (at < beyond)).to(x.dtype)
    return x @ (weights / weights.sum(1, keepdim=True)).t()


def polarity_facts(image: torch.Tensor) -> torch.Tensor:
    """A thumbnail of MRI and CT over the box of what they show, and room for a sign that is known.

    Args:
        image: normalised MRI and CT of a whole head, 0 where they show nothing, ``[B, 2, X, Y, Z]``.

    Returns:
        ``[B, 2·24·24·12 + 1]``, last 0: the sign is not known.
    """
    x = image.float()
    x = _means_along_last(x.permute(0, 1, 3, 4, 2), 24)  # [B, 2, Y, Z, 24]
    x = _means_along_last(x.permute(0, 1, 3, 4, 2), 24)  # [B, 2, Z, 24, 24]
    x = _means_along_last(x.permute(0, 1, 3, 4, 2), 12)  # [B, 2, 24, 24, 12]
    thumbnail = x.flatten(1)
    return torch.cat([thumbnail, torch.zeros_like(thumbnail[:, :1])], dim=1)


def polarity_loss(dark_logit: torch.Tensor, dark: torch.Tensor) -> torch.Tensor:
    """Cross entropy of what the scout says.

    Args:
        dark_logit: ``[B]``.
        dark: 1 where a lesion is dark, 0 where it is bright, -1 where nothing tells, ``[B]``.

    Returns:
        Mean over the cases that tell, a scalar; 0 without any.
    """
    told = (dark >= 0).to(dark_logit.dtype)
    error = F.binary_cross_entropy_with_logits(dark_logit, dark.clamp(min=0), reduction="none")
    return (error * told).sum() / told.sum().clamp(min=1)


class PolarityScout(nn.Module):
    """Reads from a case's thumbnail whether its lesion is dark, so that the network reads such an MRI inverted.

    Weights that are new to it say "bright" for every case, so weights from before behave as they did.
    """

    prior: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(3, 16, 3, padding=1)
        self.second = nn.Conv3d(16, 32, 3, padding=1)
        self.third = nn.Conv3d(32, 32, 3, padding=1)
        self.join = nn.Linear(64, 32)
        self.out = nn.Linear(32, 1)
        nn.init.zeros_(self.out.weight)
        # Added to the logit: -20 until a training sets it to 0.
        self.register_buffer("prior", torch.full((1,), -20.0))
        self.requires_grad_(False)

    def learn(self) -> None:
        """Let a training that knows each lesion's polarity fit the scout; any other leaves it as it is."""
        self.requires_grad_(True)
        self.prior.zero_()

    def dark_logit(self, facts: torch.Tensor) -> torch.Tensor:
        """Logit of a dark lesion, the mean over the thumbnail's reflections in plane.

        Args:
            facts: of :func:`polarity_facts`, ``[B, N + 1]``.

        Returns:
            ``[B, 1]``.
        """
        x = facts[:, :-1].reshape(-1, 2, 24, 24, 12)
        x = torch.cat([x, (x[:, :1] != 0).to(x.dtype)], dim=1)
        x = torch.cat([x, x.flip(2), x.flip(3), x.flip(2).flip(3)])
        x = F.avg_pool3d(F.silu(self.first(x)), 2)
        x = F.avg_pool3d(F.silu(self.second(x)), 2)
        x = F.silu(self.third(x)).flatten(2)
        x = self.out(F.silu(self.join(torch.cat([x.mean(2), x.amax(2)], dim=1))))
        return x.reshape(4, -1, 1).mean(0)

    def sign(self, facts: torch.Tensor) -> torch.Tensor:
        """What to multiply an MRI by: 1 where a lesion is bright, -1 where it is dark; a sign that the facts hold stays.

        Args:
            facts: of :func:`polarity_facts`, ``[B, N + 1]``.

        Returns:
            ``[B, 1]``.
        """
        told = facts[:, -1:]
        seen = torch.where(self.dark_logit(facts) + self.prior > 0, -torch.ones_like(told), torch.ones_like(told))
        return torch.where(told != 0, told, seen)
