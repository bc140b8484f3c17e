# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Stroke lesions in MNI space for phantoms: procedural shapes, or real masks from a packed file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from ..errors import InputError

__all__ = ["MNI_BOX", "Lesion", "PackedLesions", "procedural_lesion"]

#: Shape and index-to-millimetre affine (RAS) of the 1 mm MNI box on which lesions are drawn: the brain and a margin.
MNI_BOX: tuple[tuple[int, int, int], np.ndarray] = (
    (157, 189, 156),
    np.array([[1.0, 0, 0, -78], [0, 1, 0, -112], [0, 0, 1, -70], [0, 0, 0, 1]]),
)


@dataclass(frozen=True)
class Lesion:
    """A lesion in MNI space.

    Attributes:
        mask: boolean ``[157, 189, 156]`` on :data:`MNI_BOX`.
        kind: ``"territorial"``, ``"lacunar"``, ``"multifocal"`` or ``"packed:<id>"``.
    """

    mask: np.ndarray
    kind: str


@lru_cache(maxsize=1)
def _centres() -> np.ndarray:
    """Millimetre coordinates of the voxel centres of :data:`MNI_BOX`, ``[3, 157, 189, 156]`` float32."""
    shape, affine = MNI_BOX
    return np.stack(
        np.meshgrid(*(np.arange(n, dtype=np.float32) + np.float32(affine[i, 3]) for i, n in enumerate(shape)), indexing="ij")
    )


def _wobbly_ball(rng: np.random.Generator, centre_mm: np.ndarray, radii_mm: np.ndarray, roughness: float) -> np.ndarray:
    """Distance from `centre_mm` in units of `radii_mm`, made uneven by smooth noise: its level sets are lesion shapes."""
    scaled = (_centres() - centre_mm[:, None, None, None]) / radii_mm[:, None, None, None]
    knots = torch.from_numpy(rng.standard_normal((1, 1, 12, 14, 12)).astype(np.float32))
    noise = torch.nn.functional.interpolate(knots, size=MNI_BOX[0], mode="trilinear", align_corners=True)[0, 0].numpy()
    return np.sqrt((scaled**2).sum(0)) * (1 + roughness * noise)


def _grow_to_volume(field: np.ndarray, tissue: np.ndarray, volume_ml: float) -> np.ndarray:
    """The connected region of `tissue` around the minimum of `field` that holds `volume_ml` (1 voxel = 1 µL)."""
    field = np.where(tissue, field, np.inf)
    expected = int(np.clip(round(volume_ml * 1000), 8, tissue.sum()))
    cutoff = np.partition(field.ravel(), expected - 1)[expected - 1]
    parts, _ = ndimage.label(field <= cutoff)
    return parts == parts[np.unravel_index(int(np.argmin(field)), field.shape)]


def procedural_lesion(rng: np.random.Generator, tissue: np.ndarray) -> Lesion:
    """Draw a territorial, lacunar or multifocal infarct; 60 % hold less than 5 mL, as acute series do.

    Args:
        rng: source of randomness.
        tissue: where grey or white matter is, boolean on :data:`MNI_BOX`.
    """
    small = rng.random() < 0.6
    volume_ml = float(np.exp(rng.uniform(np.log(0.2), np.log(5.0)) if small else rng.uniform(np.log(5.0), np.log(150.0))))
    kind = str(rng.choice(["lacunar", "multifocal", "territorial"], p=[0.4, 0.3, 0.3])) if small else "territorial"

    def centre(deep: bool) -> np.ndarray:
        side = rng.choice([-1.0, 1.0])
        if deep:  # basal ganglia, thalamus, corona radiata
            return np.array([side * rng.uniform(12, 32), rng.uniform(-30, 25), rng.uniform(-5, 30)])
        return np.array([side * rng.uniform(25, 58), rng.uniform(-75, 45), rng.uniform(-15, 50)])

    if kind == "lacunar":
        volume_ml = min(volume_ml, 1.8)  # 15 mm across at most
        field = _wobbly_ball(rng, centre(deep=True), rng.uniform(0.8, 1.25, 3), 0.05)
        return Lesion(_grow_to_volume(field, tissue, volume_ml), kind)
    if kind == "territorial":
        field = _wobbly_ball(rng, centre(deep=False), rng.uniform(0.7, 1.4, 3), 0.12)
        return Lesion(_grow_to_volume(field, tissue, volume_ml), kind)
    mask = np.zeros(MNI_BOX[0], bool)
    for share in rng.dirichlet(np.ones(int(rng.integers(2, 7)))):
        field = _wobbly_ball(rng, centre(deep=False), rng.uniform(0.7, 1.4, 3), 0.08)
        mask |= _grow_to_volume(field, tissue, volume_ml * share)
    return Lesion(mask, kind)


class PackedLesions:
    """Real lesion masks in MNI space from one packed ``.npz`` file.

    The file holds ``ids[N]``, ``lower[N, 3]`` and ``shape[N, 3]`` (bounding boxes in voxels), ``offset[N + 1]`` into
    ``bits`` (``numpy.packbits`` of each box in C order), ``affine[4, 4]`` (1 mm voxels, axes along x, y, z) and ``grid[3]``.

    Args:
        path: the ``.npz`` file.
        lesion_ids: ``"first:last"``, half open as a Python slice, by position in the file; all when ``None``.

    Raises:
        InputError: when the file is missing or not of this form, or when the range holds no lesion.
    """

    def __init__(self, path: str | Path, lesion_ids: str | None = None) -> None:
        try:
            with np.load(path, allow_pickle=False) as packed:
                self._data = {k: packed[k] for k in ("ids", "lower", "shape", "offset", "bits", "affine")}
        except FileNotFoundError:
            raise InputError(f"{path}: expected a packed lesion file (.npz), found no such file") from None
        except (KeyError, ValueError, OSError) as e:
            raise InputError(f"{path}: expected a packed lesion file (.npz), got something else ({e})") from None
        count = len(self._data["ids"])
        first, last = parse_range(lesion_ids, count)
        self.positions = np.arange(first, last)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> Lesion:
        d, n = self._data, int(self.positions[i])
        shape = tuple(int(s) for s in d["shape"][n])
        bits = d["bits"][d["offset"][n] : d["offset"][n + 1]]
        box = np.unpackbits(bits)[: int(np.prod(shape))].reshape(shape).astype(bool)
        voxels = np.argwhere(box) + d["lower"][n]
        millimetres = voxels @ d["affine"][:3, :3].T + d["affine"][:3, 3]
        grid_shape, grid_affine = MNI_BOX
        index = np.round(millimetres - grid_affine[:3, 3]).astype(int)
        index = index[((index >= 0) & (index < grid_shape)).all(1)]
        mask = np.zeros(grid_shape, bool)
        mask[tuple(index.T)] = True
        return Lesion(mask, f"packed:{d['ids'][n]}")


def parse_range(text: str | None, count: int) -> tuple[int, int]:
    """``"first:last"`` → two integers within ``0…count``; ``None`` → everything.

    Raises:
        InputError: when the text is not of this form or the range is empty.
    """
    if text is None:
        return 0, count
    try:
        first, last = (int(part) for part in str(text).split(":"))
    except ValueError:
        raise InputError(f"lesion_ids: expected FIRST:LAST such as 0:800, got {text!r}") from None
    if not 0 <= first < last <= count:
        raise InputError(f"lesion_ids: expected a range within 0:{count}, got {text!r}")
    return first, last
