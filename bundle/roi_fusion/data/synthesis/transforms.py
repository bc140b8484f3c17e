# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Synthesis as transforms of a config: draw a head, paint its MRI and CT, cut crops, mix the crops of several heads."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Randomizable, Transform

from ...errors import InputError
from ..augment import RandRegistrationJitterd
from ..lesions import PackedLesions
from .anatomy import draw_anatomy
from .contrast import draw_age, draw_contrast
from .ct import paint_ct
from .geometry import Geometry, draw_geometry
from .heads import HeadMaps, choose_ids
from .mri import paint_mri, stripped_brain

__all__ = [
    "RandCropInterestd",
    "RandDrawHeadd",
    "RandPaintd",
    "RandShownJitterd",
    "RepeatedCompose",
    "ShuffleCropsd",
    "choose_lesions",
    "draw_list",
]

logger = logging.getLogger(__name__)

_VOLUMES = ("image", "ct", "label", "brain", "bone", "dense", "head", "mri_shown", "interest")


def draw_list(count: int) -> list[dict[str, str]]:
    """Entries of a data set of `count` cases an epoch; what each holds is drawn anew every time."""
    if int(count) != count or count < 1:
        raise InputError(f"cases_per_epoch: expected a whole number of 1 or more, got {count}")
    return [{"case": f"synthetic_{n:05d}"} for n in range(int(count))]


def choose_lesions(path: str | Path | None, lesion_ids: str | None, part: str) -> PackedLesions | None:
    """The lesions of one part; None, procedural ones, without a file.

    Args:
        path: packed lesions.
        lesion_ids: ``"first:last"``; None takes the first seven ninths for ``train``, the next ninth for ``val``.
        part: ``train`` or ``val``.
    """
    if not path:
        return None
    if not lesion_ids:
        count = len(PackedLesions(path))
        train, val = max(1, count * 7 // 9), max(1, count // 9)
        first = min(train, count - 1)
        lesion_ids = f"0:{train}" if part == "train" else f"{first}:{min(first + val, count)}"
    return PackedLesions(path, str(lesion_ids))


class RandDrawHeadd(Randomizable, Transform):
    """Add ``geometry``: tissue shares of a varied head. They are costly, so each is used `uses` times on average.

    A rolling pool is kept; every call replaces one entry with probability ``1 / uses`` and returns a random one.

    Args:
        label_maps: packed file or folder of label maps; None is the MNI atlas.
        lesions: packed lesions; None draws procedural ones.
        heads: ids, see :func:`~.heads.choose_ids`.
        lesion_ids: see :func:`choose_lesions`.
        part: ``train`` or ``val``.
        lesion_free_share: share of heads without a lesion.
        pool: number of geometries kept.
        uses: how often each is painted on average.

    Raises:
        InputError: for unusable label maps or lesions.
    """

    def __init__(
        self,
        label_maps: str | None = None,
        lesions: str | None = None,
        heads: str | Sequence[str] | None = None,
        lesion_ids: str | None = None,
        part: str = "train",
        lesion_free_share: float = 0.15,
        pool: int = 12,
        uses: float = 4.0,
    ) -> None:
        if not 0 <= lesion_free_share <= 1 or pool < 1 or uses < 1:
            raise InputError(
                f"synthesis: expected a share from 0 to 1, pool and uses of 1 or more, got {lesion_free_share}, {pool}, {uses}"
            )
        self.maps = HeadMaps(label_maps)
        self.ids = choose_ids(self.maps, heads, part)
        self.lesions = choose_lesions(lesions, lesion_ids, part)
        self.lesion_free_share, self.pool_size, self.uses = lesion_free_share, int(pool), float(uses)
        self._pool: list[Geometry] = []

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        rng = np.random.default_rng(self.R.randint(0, 2**31, 4))
        if len(self._pool) < min(self.pool_size, 2) or rng.random() < 1 / self.uses:
            new = self._draw(rng)
            if len(self._pool) >= self.pool_size:
                self._pool.pop(0)
            self._pool.append(new)
            return {**data, "geometry": new}
        return {**data, "geometry": self._pool[int(rng.integers(len(self._pool)))]}

    def _draw(self, rng: np.random.Generator) -> Geometry:
        head = self.maps[str(rng.choice(self.ids))]
        for _ in range(5):
            geometry = draw_geometry(rng, draw_anatomy(rng, head, self.lesions, self.lesion_free_share))
            if int(geometry.brain.sum()) >= 64:
                return geometry
        raise InputError(f"{head.name}: expected a brain in the field of view, got none in five tries")


class RandPaintd(Randomizable, Transform):
    """Paint a geometry: ``image``, ``ct``, ``label``, ``brain``, ``bone``, ``interest``, ``missing``, with a CT also ``head``.

    Args:
        stripped_share: share of samples whose MRI shows the brain alone.
        no_ct_share, no_mri_share: shares of samples without CT or MRI.
        free_share: share of MRIs whose tissues are drawn freely.
    """

    def __init__(
        self, stripped_share: float = 0.4, no_ct_share: float = 0.3, no_mri_share: float = 0.1, free_share: float = 0.35
    ) -> None:
        shares = (stripped_share, no_ct_share, no_mri_share, free_share)
        if not all(0 <= s <= 1 for s in shares) or no_ct_share + no_mri_share > 1:
            raise InputError(f"synthesis: expected shares from 0 to 1, got {', '.join(f'{s:g}' for s in shares)}")
        self.stripped_share, self.no_ct_share, self.no_mri_share, self.free_share = shares

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        g: Geometry = d.pop("geometry")
        rng = np.random.default_rng(self.R.randint(0, 2**31, 4))
        kind = rng.random()
        missing = "ct" if kind < self.no_ct_share else ("mri" if kind > 1 - self.no_mri_share else "")
        age = draw_age(rng)
        contrast = draw_contrast(rng, age, free_share=self.free_share, ct_seen=missing != "ct")
        label, brain, interest = g.truth, g.brain, g.interest
        if missing == "mri":
            image, notes = torch.zeros(g.truth.shape), dict[str, Any](contrast="none")
        else:
            image, notes, distortion = paint_mri(rng, g, contrast, age)
            label = distortion.apply(label)
            interest = torch.where(label > 0, 2, torch.where(interest == 2, 3, interest)).to(interest.dtype)
            if missing == "ct":  # beside a CT the brain is where the CT shows it
                brain = distortion.apply(brain)
            if rng.random() < self.stripped_share:
                kept = stripped_brain(rng, g, distortion)
                if int(kept.sum()) >= 256:
                    image, label = image * kept, label * kept
                    notes["stripped"] = True
        if missing == "ct":
            ct: torch.Tensor = torch.zeros_like(image)
        else:
            ct, ct_notes = paint_ct(rng, g, age, lesion_visible=True if missing == "mri" else None)
            notes.update(ct_notes)
        affine = torch.from_numpy(g.grid.affine)
        for key, volume in (
            ("image", image),
            ("ct", ct),
            ("label", label),
            ("brain", brain),
            ("bone", g.bone),
            ("interest", interest),
        ):
            d[key] = MetaTensor(volume[None].clone(), affine=affine.clone())
        if missing != "ct":
            d["head"] = MetaTensor(g.head[None].clone(), affine=affine.clone())
        d.update(missing=missing, label_known=1.0, notes={**g.notes, **notes, "missing": missing})
        return d


class RepeatedCompose(Compose):
    """A ``Compose`` whose result is handed out several times before it is made anew: what follows cuts other crops from it.

    Args:
        transforms: run in this order.
        uses: how often each result is handed out.

    Raises:
        InputError: for fewer than one use.
    """

    def __init__(self, transforms: Sequence[Any], uses: int = 2) -> None:
        super().__init__(transforms)
        if int(uses) != uses or uses < 1:
            raise InputError(f"painting_uses: expected a whole number of 1 or more, got {uses}")
        self.uses, self._left = int(uses), 0
        self._last: dict[Hashable, Any] = {}

    def __call__(self, input_: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]  # as MONAI's Compose
        if not self._left:
            self._last, self._left = super().__call__(input_, *args, **kwargs), self.uses
        self._left -= 1
        return dict(self._last)


class RandCropInterestd(Randomizable, Transform):
    """Cut crops around the lesion, around what looks like one, and anywhere in the brain.

    Args:
        spatial_size: of a crop, voxels.
        num_samples: crops a head.
        weights: of look-alikes, lesion and other brain; what a head lacks is left out.
    """

    def __init__(
        self, spatial_size: Sequence[int], num_samples: int = 4, weights: tuple[float, float, float] = (0.28, 0.52, 0.2)
    ) -> None:
        self.size, self.num_samples, self.weights = [int(n) for n in spatial_size], int(num_samples), np.array(weights)

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        interest = data["interest"].as_tensor()[0]
        found = [torch.nonzero(interest == code) for code in (1, 2, 3)]
        weights = self.weights * np.array([len(f) > 0 for f in found])
        if not weights.sum():
            found, weights = [torch.nonzero(interest >= 0)], np.ones(1)
        crops = []
        for _ in range(self.num_samples):
            kind = found[int(self.R.choice(len(weights), p=weights / weights.sum()))]
            centre = kind[int(self.R.randint(len(kind)))].numpy() + self.R.randint(-1, 2, 3) * np.array(self.size) // 5
            start = [int(np.clip(c - n // 2, 0, max(0, s - n))) for c, n, s in zip(centre, self.size, interest.shape)]
            window = (slice(None), *(slice(a, a + n) for a, n in zip(start, self.size)))
            crop = {k: (v[window] if k in _VOLUMES else v) for k, v in data.items()}
            crops.append({k: (v.clone() if k in _VOLUMES else v) for k, v in crop.items()})
        return crops


class RandShownJitterd(RandRegistrationJitterd):
    """As :class:`~roi_fusion.data.augment.RandRegistrationJitterd`; what the MRI hid stays hidden."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        hidden = (data["mri_shown"].as_tensor() == 0) & (data["head"].as_tensor() > 0)
        d = super().__call__(data)
        if data.get("partly_shown"):
            image = d["image"].clone()
            image[(data["image"].as_tensor() == 0) | hidden] = 0
            d["image"] = image
            now_hidden = (d["head"].as_tensor() > 0) & (image.as_tensor() == 0)
            d["dense"] = torch.maximum(d["dense"], now_hidden.to(d["dense"].dtype))
        return d


class ShuffleCropsd(Randomizable, Transform):
    """Keep crops of earlier heads and hand out a random one for each that comes, so that a batch does not hold one head only.

    Args:
        keep: crops kept; 0 passes crops on as they come.
        keys: entries of a crop that are passed on, all when None.
    """

    def __init__(self, keep: int = 48, keys: Sequence[str] | None = None) -> None:
        self.keep, self.keys = int(keep), None if keys is None else set(keys)
        self._crops: list[dict[Hashable, Any]] = []

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        crop = {k: v for k, v in data.items() if self.keys is None or k in self.keys}
        if len(self._crops) < self.keep:  # while it fills, crops come more than once
            self._crops.append(crop)
            return dict(self._crops[int(self.R.randint(len(self._crops)))])
        if not self.keep:
            return crop
        at = int(self.R.randint(len(self._crops)))
        out, self._crops[at] = self._crops[at], crop
        return dict(out)
