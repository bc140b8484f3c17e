# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A whole head around the MNI brain: warped, with skull, face, ventricles and a lesion, as shares of tissues."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

from .atlas import Field, mni_template
from .lesions import MNI_BOX, Lesion

TISSUES = ("grey", "white", "csf", "cortical_bone", "diploe", "soft", "fat", "eye", "cavity", "air", "blood", "calcium")


def smooth_field(rng: np.random.Generator, channels: int, knot_mm: float, extent_mm: float = 130.0) -> Field:
    """Smooth Gaussian noise of unit variance at its knots, cubic between knots `knot_mm` apart, over ±`extent_mm`."""
    knots = int(np.ceil(2 * extent_mm / knot_mm)) + 1
    values = rng.standard_normal((channels, knots, knots, knots)).astype(np.float32)
    if knot_mm > 12:  # linear interpolation between near knots is smooth enough
        fine = int(np.ceil(8 * extent_mm / knot_mm)) + 1
        values = np.stack([ndimage.zoom(c, fine / knots, order=3, mode="nearest") for c in values])
    return Field(values, (-extent_mm,) * 3, 2 * extent_mm / (values.shape[1] - 1))


def rotation(degrees: Sequence[float] | np.ndarray) -> np.ndarray:
    """Rotation about x, then y, then z."""
    a, b, c = np.deg2rad(degrees)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rz @ ry @ rx


class Anatomy:
    """A random head: answers how much of each tissue lies at points given in patient millimetres."""

    def __init__(self, rng: np.random.Generator, lesion: Lesion | None) -> None:
        self.tissue, self.shell, _ = mni_template()
        self.scale = rng.uniform(0.92, 1.06, 3)
        self.tilt_degrees = rng.uniform(-8, 8, 3)
        self.shift_mm = rng.uniform([-4, -6, -6], [4, 6, 6])
        self.warp = smooth_field(rng, 3, 32.0)
        self.warp_mm = float(rng.uniform(1.0, 3.0))
        self.thickness = smooth_field(rng, 3, 40.0)
        self.sheets = smooth_field(rng, 1, 11.0)
        self.csf_gap_mm = float(rng.uniform(0.8, 3.0))
        self.skull_mm = float(rng.uniform(5.0, 9.0))
        self.scalp_mm = float(rng.uniform(4.0, 9.0))
        self.sharpness = float(rng.uniform(2.0, 3.0))
        self.atrophy = float(rng.uniform(-0.5, 0.9))
        self.lesion: Field | None = None
        if lesion is not None:
            # Half a voxel of blur only: an outline drawn on images is about this sharp.
            soft = ndimage.gaussian_filter(lesion.mask.astype(np.float32), 0.5)
            self.lesion = Field(soft[None], MNI_BOX[1][:3, 3], 1.0)
        self.spots: list[tuple[str, np.ndarray, np.ndarray]] = []  # tissue, centre and radii in MNI mm
        if rng.random() < 0.15:
            centre = np.array([rng.choice([-1, 1]) * rng.uniform(15, 40), rng.uniform(-50, 30), rng.uniform(-5, 40)])
            self.spots.append(("blood", centre, rng.uniform(4, 14, 3)))
        if rng.random() < 0.5:
            radius = rng.uniform(1.5, 4)
            spread = radius * rng.uniform(0.7, 1.3, 3)
            self.spots += [("calcium", np.array([side * 24.0, -42, 8]), spread) for side in (-1, 1)]
        if rng.random() < 0.4:
            self.spots.append(("calcium", np.array([0.0, -27, 3]), rng.uniform(2, 4, 3)))

    def _to_mni_without_warp(self, points_mm: torch.Tensor) -> torch.Tensor:
        matrix = torch.tensor(rotation(self.tilt_degrees) / self.scale, dtype=torch.float32)
        return points_mm @ matrix.T + torch.tensor(self.shift_mm + [0, -18, 8], dtype=torch.float32)

    def shares(self, points_mm: torch.Tensor, blur_mm: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Tissue shares ``[12, X, Y]`` (they sum to 1) and the lesioned part of (grey, white) ``[2, X, Y]`` of one slice.

        Args:
            points_mm: ``[X, Y, thin, 3]`` in patient millimetres; the planes of a thick slice are averaged.
            blur_mm: width over which a surface fades, one voxel for partial volume.
        """
        mni = self._to_mni_without_warp(points_mm)
        # Skull and scalp end 33 mm off the CSF at most; nothing beyond needs a tissue.
        reach_mm = self.csf_gap_mm + 33 + 4 * self.warp_mm
        near = self.shell.at_plane(mni)[0] * float(np.mean(self.scale)) < reach_mm
        if float(mni[..., 2].min()) < _FACE_TOP_MM:
            near |= _face(mni, blur_mm) > 0
        index = near.any(-1).flatten().nonzero()[:, 0]
        planes, thin = (points_mm.shape[0], points_mm.shape[1]), points_mm.shape[2]
        shares = torch.zeros(len(TISSUES), planes[0] * planes[1])
        shares[TISSUES.index("air")] = 1
        lesioned = torch.zeros(2, planes[0] * planes[1])
        if len(index):
            warped = mni + self.warp_mm * self.warp.at_plane(mni).movedim(0, -1)
            head = warped.flatten(0, 1)[index].flatten(0, 1)
            thickness = self.thickness.at_plane(mni).flatten(1, 2)[:, index].flatten(1)
            part = self._head_shares(head, thickness, blur_mm)
            shares[:, index] = part.reshape(-1, len(index), thin).mean(-1)
            if self.lesion is not None:
                lesioned[:, index] = (part[:2] * self.lesion.at(head)).reshape(2, len(index), thin).mean(-1)
        return shares.reshape(-1, *planes), lesioned.reshape(-1, *planes)

    def _head_shares(self, mni: torch.Tensor, thickness: torch.Tensor, blur_mm: float) -> torch.Tensor:
        distance = self.shell.at(mni)[0] * float(np.mean(self.scale))
        skull_noise, layer_noise, scalp_noise = thickness
        skull_end = self.csf_gap_mm + (self.skull_mm * (1 + 0.3 * skull_noise)).clamp(3.0, 16.0)
        table = (0.24 + 0.05 * layer_noise).clamp(0.15, 0.4) * (skull_end - self.csf_gap_mm)
        scalp = (self.scalp_mm * (1 + 0.3 * scalp_noise)).clamp(2.5, 14.0)

        def within(limit_mm: torch.Tensor | float) -> torch.Tensor:
            return ((limit_mm - distance) / blur_mm + 0.5).clamp(0, 1)

        cranial, skull = within(self.csf_gap_mm), within(skull_end)
        inner, diploe = within(self.csf_gap_mm + table), within(skull_end - table)
        out = {name: torch.zeros_like(distance) for name in TISSUES}
        out["cortical_bone"] = (inner - cranial) + (skull - diploe)
        out["diploe"] = diploe - inner
        out["fat"] = within(skull_end + scalp - 1.5) - within(skull_end + 0.45 * scalp)
        self._fill_brain(out, mni, cranial, blur_mm)
        out["soft"] = (within(skull_end + scalp) - skull - out["fat"]).clamp(min=0)
        if float(mni[:, 2].min()) < _FACE_TOP_MM:
            self._fill_face(out, mni, skull, blur_mm)
        shares = torch.stack([out[name] for name in TISSUES]).clamp(min=0)
        shares[TISSUES.index("air")] = (1 - shares.sum(0)).clamp(min=0)
        return shares / shares.sum(0, keepdim=True)

    def _fill_brain(self, out: dict[str, torch.Tensor], mni: torch.Tensor, cranial: torch.Tensor, blur_mm: float) -> None:
        """Grey, white, CSF, blood and calcium; the averaged template is sharpened so that one person's sulci appear."""
        grey, white = self.tissue.at(mni).clamp(1e-4, 1)
        logits = self.sharpness * torch.stack([grey, white, (1 - grey - white).clamp(1e-4, 1)]).log()
        logits[2] += self.atrophy
        brain = torch.softmax(logits, 0) * cranial
        for name, centre, radii in self.spots:
            spot = _ellipsoid(mni, centre, radii, blur_mm)
            out[name] = torch.maximum(out[name], spot * (cranial if name == "calcium" else brain[0] + brain[1]))
        brain = brain * (1 - (out["blood"] + out["calcium"]) / cranial.clamp(min=1e-4)).clamp(0, 1)
        out["grey"], out["white"], out["csf"] = brain

    def _fill_face(self, out: dict[str, torch.Tensor], mni: torch.Tensor, skull: torch.Tensor, blur_mm: float) -> None:
        """Face and neck below the skull: soft tissue, eyes, orbital fat, sinuses, mastoid cells, facial and petrous bone."""

        def pair(x: float, y: float, z: float, *radii: float) -> torch.Tensor:
            return torch.maximum(_ellipsoid(mni, (x, y, z), radii, blur_mm), _ellipsoid(mni, (-x, y, z), radii, blur_mm))

        face = _face(mni, blur_mm)
        rest = (torch.maximum(out["soft"] + skull + out["fat"], face) - skull - out["fat"]).clamp(min=0)
        sheet = self.sheets.at(mni)[0].abs()
        facial = _ellipsoid(mni, (0, 48, -50), (55, 42, 48), blur_mm) * (face - skull > 0.5)
        septa = ((0.16 - sheet) / 0.08 + 0.5).clamp(0, 1) * facial
        sinus = torch.maximum(
            _ellipsoid(mni, (0, 62, -48), (13, 26, 26), blur_mm), _ellipsoid(mni, (0, 74, 2), (22, 7, 11), blur_mm)
        )
        mastoid = pair(52, -36, -40, 11, 13, 13) * ((sheet - 0.35) / 0.2).clamp(0, 1)
        for name, share in (
            ("eye", pair(32, 66, -32, 11, 11, 11)),
            ("fat", pair(32, 58, -32, 17, 20, 16)),
            ("cavity", torch.maximum(sinus, mastoid)),
            ("cortical_bone", torch.maximum(septa, pair(31, -26, -36, 26, 9, 9))),
        ):
            part = rest * share
            out[name] = out[name] + part
            rest = rest - part
        out["soft"] = rest


def _ellipsoid(
    points: torch.Tensor, centre: Sequence[float] | np.ndarray, radii: Sequence[float] | np.ndarray, blur_mm: float
) -> torch.Tensor:
    """1 inside the ellipsoid, 0 outside, fading over about `blur_mm`; ``[N, 3]`` → ``[N]``."""
    square = sum(((x - float(c)) / float(r)) ** 2 for x, c, r in zip(points.unbind(-1), centre, radii))
    return ((1 - square.sqrt()) * (float(min(radii)) / blur_mm) + 0.5).clamp_(0, 1)  # type: ignore[union-attr]


#: Nothing of the face, the sinuses or the petrous bone reaches above this MNI height.
_FACE_TOP_MM = 14.0


def _face(mni: torch.Tensor, blur_mm: float) -> torch.Tensor:
    """Face and neck: soft tissue below and in front of the brain."""
    return torch.maximum(
        _ellipsoid(mni, (0, 42, -62), (62, 52, 62), blur_mm), _ellipsoid(mni, (0, -22, -112), (56, 62, 70), blur_mm)
    )


def grid_points(shape: Sequence[int], spacing_mm: Sequence[float], index: int, thin: int) -> torch.Tensor:
    """Points of slice `index` in mm about the volume's centre, ``[X, Y, thin, 3]``: `thin` planes through the slice."""
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(shape[:2], spacing_mm[:2])]
    depth = (index - (shape[2] - 1) / 2 + (torch.arange(thin) + 0.5) / thin - 0.5) * spacing_mm[2]
    return torch.stack(torch.meshgrid(*axes, depth, indexing="ij"), -1).float()


def render_shares(
    anatomy: Anatomy,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    rotation: np.ndarray | None = None,
    shift_mm: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Tissue shares ``[12, X, Y, Z]`` and lesioned shares ``[2, X, Y, Z]`` of a head on a grid, after a rigid transform.

    Args:
        anatomy: the head.
        shape: voxels along each axis.
        spacing_mm: voxel size along each axis, in mm.
        rotation: ``[3, 3]``; none when None.
        shift_mm: ``[3]`` in mm; none when None.
    """
    thin = int(np.clip(round(spacing_mm[2] / 2.0), 1, 4))
    matrix = torch.tensor((np.eye(3) if rotation is None else rotation).T, dtype=torch.float32)
    shift = torch.tensor(np.zeros(3) if shift_mm is None else shift_mm, dtype=torch.float32)
    slices = []
    for k in range(shape[2]):
        points = (grid_points(shape, spacing_mm, k, thin) - shift) @ matrix.T
        slices.append(anatomy.shares(points, blur_mm=float(np.mean(spacing_mm[:2]))))
    return tuple(torch.stack(part, -1).numpy() for part in zip(*slices))  # type: ignore[return-value]
