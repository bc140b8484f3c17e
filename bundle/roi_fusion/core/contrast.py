# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What kind of MRI a case has, in a few numbers that modulate every block of the network."""

import torch
from torch import nn

__all__ = ["CT_CLASSES", "HISTOGRAM", "ContrastDescriptor", "contrast_facts", "mri_facts"]

#: Air, fat, CSF, brain, blood and bone in an ordinary head after companding and normalisation.
CT_CLASSES = (-2.1, -1.6, -1.0, -0.35, 0.4, 1.7)


#: Bins of the histogram of the MRI's normalised intensities: first and last centre, and how many.
HISTOGRAM = (-3.0, 5.0, 16)


def mri_facts(mri: torch.Tensor, ct: torch.Tensor) -> torch.Tensor:
    """What the MRI tells by itself, for heads without a CT: a soft histogram over what it shows, and what is shown at all.

    Args:
        mri, ct: normalised, 0 where nothing is shown, ``[B, N]``.

    Returns:
        ``[B, 19]``: 16 bins, 1 where they were evenly filled, whether there is an MRI, whether there is a CT, and the share of
        the head that the MRI shows (below 1 around a skull-stripped brain).
    """
    shown = (mri != 0).to(mri.dtype)
    count = shown.sum(1)
    head = ((mri != 0) | (ct != 0)).to(mri.dtype).sum(1)
    first, last, bins = -3.0, 5.0, 16  # HISTOGRAM, which TorchScript cannot read
    step = (last - first) / (bins - 1)
    place = (mri.clamp(first, last) - first) / step
    facts: list[torch.Tensor] = []
    for k in range(bins):  # triangular bins: each value counts for its two neighbours
        facts.append(((1 - (place - k).abs()).clamp(min=0) * shown).sum(1) * bins / (count + 1.0))
    facts.append((count > 0).to(mri.dtype))
    facts.append(((ct != 0).to(mri.dtype).sum(1) > 0).to(mri.dtype))
    facts.append(count / (head + 1.0))
    return torch.stack(facts, dim=1)


def contrast_facts(image: torch.Tensor, centres: torch.Tensor, width: float = 0.25) -> torch.Tensor:
    """What kind of MRI this is: how bright, how varied and how much of it lies where the CT shows each of its classes, and what
    the MRI tells by itself (:func:`mri_facts`).

    Args:
        image: normalised MRI and CT of a whole head, ``[B, 2, X, Y, Z]``.
        centres: of the CT classes in normalised CT units, ``[K]``.
        width: of each class.

    Returns:
        ``[B, 3K + 19]``.
    """
    thin = image[:, :, ::2, ::2].float().flatten(2)  # every fourth voxel says enough
    mri, ct = thin[:, 0], thin[:, 1]
    head = ((mri != 0) | (ct != 0)).to(mri.dtype)
    facts: list[torch.Tensor] = []
    for k in range(centres.shape[0]):
        weight = torch.exp(-0.5 * ((ct - centres[k]) / width) ** 2) * head
        mass = weight.sum(1)
        mean = (weight * mri).sum(1) / (mass + 1.0)
        spread = ((weight * (mri - mean[:, None]) ** 2).sum(1) / (mass + 1.0) + 1e-6).sqrt()
        facts += [mean, spread, mass / (head.sum(1) + 1.0)]
    return torch.cat([torch.stack(facts, dim=1), mri_facts(mri, ct)], dim=1)


class ContrastDescriptor(nn.Module):
    """Embeds what :func:`contrast_facts` says: a lesion is dark on ADC and bright elsewhere, and no small neighbourhood tells
    which of both it sees. What the MRI tells by itself enters through weights that start at 0, so weights from before behave as
    they did.
    """

    centres: torch.Tensor

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.tensor(CT_CLASSES))
        self.by_ct = 3 * len(CT_CLASSES)
        self.layers = nn.Sequential(nn.Linear(self.by_ct, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.by_mri = nn.Linear(HISTOGRAM[2] + 3, embedding, bias=False)
        nn.init.zeros_(self.by_mri.weight)

    def forward(self, facts: torch.Tensor) -> torch.Tensor:
        """``[B, 3K + 19]`` → ``[B, E]``."""
        facts = facts.to(self.centres.dtype)
        h = self.layers[0](facts[:, : self.by_ct]) + self.by_mri(facts[:, self.by_ct :])
        return self.layers[3](self.layers[2](self.layers[1](h)))
