# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Rigid registration of a head CT and an MRI by mutual information: volumes and affines in, a matrix and its quality out.

First a search over many poses on a coarse grid, as an MRI and a CT of one patient may lie 20 mm and 15° apart and cover
different parts of the head; then ITK's Mattes mutual information on three levels. Matrices map RAS millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation
from scipy.stats import qmc

from ..core.choices import HU_POINTS, SCALED_POINTS
from ..core.masks import head_mask
from ..errors import InputError
from .grids import block_mean, shear_mm, spacing_mm, straighten, thick_axis_last
from .itk_bridge import from_itk_transform, load_itk, nearest_rotation, to_itk_image, to_itk_transform

__all__ = ["Registration", "measure", "register"]

_COARSE_MM = 3.6


#: Levels of the refinement: voxel in mm, smoothing in mm, samples. Fewer samples are faster and noisier.
_LEVELS = ((3.6, 2.0, 32_000), (1.8, 1.0, 85_000), (0.9, 0.0, 170_000))


_JUDGE_POINTS, _JUDGE_BINS = 40_000, 32


#: A pose that shows the CT at fewer of the MRI's head points than this is no candidate.
_MIN_OVERLAP = 0.35


#: A move as small as this that gains nothing says that the pair was aligned before.
_ALIGNED_MM = 1.5


@dataclass(frozen=True)
class Registration:
    """What a registration found.

    Attributes:
        matrix: maps MRI millimetres to CT millimetres, both RAS, ``[4, 4]``.
        centre_mm: RAS point of the MRI about which it turns.
        before, after: normalised mutual information (0 none, 1 each image tells the other) at the given and the found pose.
        overlap: share of the MRI's head inside the CT's field of view, 0…1.
        kind: ``"rigid"`` or ``"affine"``.
        aligned_before: the given pose was at least as good, and stays.
    """

    matrix: np.ndarray
    centre_mm: np.ndarray
    before: float
    after: float
    overlap: float
    kind: str = "rigid"
    aligned_before: bool = False

    def facts(self) -> dict[str, Any]:
        """Numbers for JSON; rotation and shift are those of the MRI's head."""
        angle = np.degrees(Rotation.from_matrix(nearest_rotation(self.matrix[:3, :3])).magnitude())
        moved = self.matrix[:3, :3] @ self.centre_mm + self.matrix[:3, 3] - self.centre_mm
        return {
            "kind": self.kind,
            "mri_to_ct": [[round(float(v), 6) for v in row] for row in self.matrix],
            "shift_mm": round(float(np.linalg.norm(moved)), 2),
            "rotation_degrees": round(float(angle), 2),
            "mutual_information_before": round(self.before, 4),
            "mutual_information_after": round(self.after, 4),
            "overlap": round(self.overlap, 3),
            "aligned_before": self.aligned_before,
        }


@dataclass(frozen=True)
class _Scan:
    """A volume ready to be compared: ``[X, Y, Z]`` in 0…1, its affine, and its head."""

    array: np.ndarray
    affine: np.ndarray
    head: np.ndarray

    @property
    def centre_mm(self) -> np.ndarray:
        return self.affine[:3, :3] @ np.array(ndimage.center_of_mass(self.head)) + self.affine[:3, 3]

    @property
    def top_mm(self) -> float:
        """Height of the vertex."""
        index = np.argwhere(self.head)
        return float(np.percentile(index @ self.affine[2, :3] + self.affine[2, 3], 99.5))


def _upright(array: np.ndarray, affine: np.ndarray, outside: float) -> tuple[np.ndarray, np.ndarray]:
    array, affine = thick_axis_last(np.asarray(array), np.asarray(affine, dtype=np.float64))
    if np.abs(shear_mm(array.shape, affine)).max() > 0.1:
        return straighten(array, affine, outside)
    return array, affine


def _ready_mri(array: np.ndarray, affine: np.ndarray) -> _Scan:
    array, affine = _upright(array, affine, 0.0)
    array = np.asarray(array, dtype=np.float32)
    head = head_mask(array, spacing_mm(affine).tolist(), modality="mri")
    if head.sum() < 64:
        raise InputError(f"MRI: expected a head to register, got {int(head.sum())} voxels of tissue")
    low, high = np.percentile(array[head], [0.5, 99.5])
    low = min(0.0, float(low))
    return _Scan(np.clip((array - low) / max(float(high) - low, 1e-9), 0, 1), affine, head)


def _ready_ct(array: np.ndarray, affine: np.ndarray) -> _Scan:
    array, affine = _upright(array, affine, -1000.0)
    array, affine = block_mean(np.clip(array, -1000, 2000), affine, _LEVELS[-1][0])
    head = head_mask(array, spacing_mm(affine).tolist())
    if head.sum() < 64:
        raise InputError(f"CT: expected a head to register, got {int(head.sum())} voxels of tissue")
    # Table and head holder would draw the MRI's air to themselves.
    return _Scan(np.interp(np.where(head, array, -1000), HU_POINTS, SCALED_POINTS).astype(np.float32), affine, head)


class _Similarity:
    """Normalised mutual information of a pose, at random points in and around the MRI's head.

    Args:
        mri, ct: the scans.
        count: points. Those that fall between voxels are spread there at random, against grid artefacts.
        bins: of both histogram axes; more need more points.
    """

    def __init__(self, mri: _Scan, ct: _Scan, count: int = 6000, bins: int = 24) -> None:
        rng = np.random.default_rng(0)
        near = ndimage.distance_transform_edt(~mri.head, sampling=spacing_mm(mri.affine)) < 8.0
        index = np.argwhere(near)
        index = index[np.sort(rng.choice(len(index), min(count, len(index)), replace=False))]
        spread = index + rng.uniform(-0.5, 0.5, index.shape)
        self.points = spread @ mri.affine[:3, :3].T + mri.affine[:3, 3]
        self.bins = bins
        self._mri = self._binned(ndimage.map_coordinates(mri.array, spread.T, order=1, mode="nearest"))
        self._ct, self._ct_to_index = ct.array, np.linalg.inv(ct.affine)

    def _binned(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values * self.bins, 0, self.bins - 1).astype(int)

    def _joint(self, matrix: np.ndarray) -> tuple[np.ndarray, float]:
        to_index = self._ct_to_index @ matrix
        index = self.points @ to_index[:3, :3].T + to_index[:3, 3]
        inside = ((index > -0.5) & (index < np.array(self._ct.shape) - 0.5)).all(1)
        ct = self._binned(ndimage.map_coordinates(self._ct, index[inside].T, order=1, mode="nearest"))
        counts = np.bincount(self._mri[inside] * self.bins + ct, minlength=self.bins**2)
        return counts.reshape(self.bins, self.bins), float(inside.mean())

    def overlap(self, matrix: np.ndarray) -> float:
        return self._joint(matrix)[1]

    def __call__(self, matrix: np.ndarray) -> float:
        counts, overlap = self._joint(matrix)
        if overlap < _MIN_OVERLAP:
            return 0.0
        share = counts / counts.sum()

        def entropy(p: np.ndarray) -> float:
            return float(-(p[p > 0] * np.log(p[p > 0])).sum())

        both = entropy(share.ravel())
        return (entropy(share.sum(0)) + entropy(share.sum(1))) / both - 1 if both > 0 else 0.0


def _pose(parameters: np.ndarray, centre_mm: np.ndarray) -> np.ndarray:
    """Three angles (a rotation vector in degrees) about `centre_mm` and three shifts in mm → matrix."""
    out = np.eye(4)
    out[:3, :3] = Rotation.from_rotvec(np.deg2rad(parameters[:3])).as_matrix()
    out[:3, 3] = centre_mm + parameters[3:] - out[:3, :3] @ centre_mm
    return out


def _search(mri: _Scan, ct: _Scan) -> np.ndarray:
    """The best pose on a coarse grid: 256 spread starts, the best five followed to their maximum."""
    mri_small = _Scan(*block_mean(mri.array, mri.affine, _COARSE_MM), block_mean(mri.head, mri.affine, _COARSE_MM)[0] > 0.5)
    ct_small = _Scan(*block_mean(ct.array, ct.affine, _COARSE_MM), block_mean(ct.head, ct.affine, _COARSE_MM)[0] > 0.5)
    score = _Similarity(mri_small if mri_small.head.any() else mri, ct_small)
    centre = mri.centre_mm
    offset = ct.centre_mm - centre
    crown = np.array([*offset[:2], ct.top_mm - mri.top_mm])  # one of the two may show half a head
    spread = (2 * qmc.Sobol(6, seed=0).random(256) - 1) * [20, 20, 20, 15, 15, 30]
    spread[:, 3:] += np.where(np.arange(256)[:, None] % 2, offset, crown)
    starts = np.vstack([np.zeros(6), [[0, 0, 0, *o] for o in (offset, crown)], spread])
    scores = np.array([score(_pose(s, centre)) for s in starts])
    chosen = [0, *[int(i) for i in np.argsort(-scores) if i != 0][:4]]
    scale = np.array([1, 1, 1, 1.5, 1.5, 1.5])
    found = [
        optimize.minimize(
            lambda p: -score(_pose(p * scale, centre)),
            starts[i] / scale,
            method="Powell",
            options={"maxfev": 400, "xtol": 0.3, "ftol": 1e-3},
        )
        for i in chosen
    ]
    best = min(found, key=lambda r: r.fun)
    return _pose(best.x * scale, centre)


def _refine(mri: _Scan, ct: _Scan, matrix: np.ndarray, kind: str, levels: Sequence[tuple[float, float, int]]) -> np.ndarray:
    """Follow Mattes mutual information from `matrix` to its maximum, level by level."""
    itk = load_itk()
    image = itk.Image[itk.F, 3]
    fixed, moving = to_itk_image(itk, mri.array, mri.affine), to_itk_image(itk, ct.array, ct.affine)
    transform = to_itk_transform(itk, matrix, mri.centre_mm, kind)
    metric = itk.MattesMutualInformationImageToImageMetricv4[image, image].New()
    metric.SetNumberOfHistogramBins(40)
    metric.SetUseMovingImageGradientFilter(False)
    metric.SetUseFixedImageGradientFilter(False)
    optimizer = itk.RegularStepGradientDescentOptimizerv4[itk.D].New()
    optimizer.SetLearningRate(1.0)
    optimizer.SetMinimumStepLength(0.002)
    optimizer.SetRelaxationFactor(0.6)
    optimizer.SetNumberOfIterations(60)
    optimizer.SetGradientMagnitudeTolerance(1e-8)
    scales = itk.RegistrationParameterScalesFromPhysicalShift[type(metric)].New()
    scales.SetMetric(metric)
    optimizer.SetScalesEstimator(scales)
    method = itk.ImageRegistrationMethodv4[image, image].New()
    method.SetFixedImage(fixed)
    method.SetMovingImage(moving)
    method.SetMetric(metric)
    method.SetOptimizer(optimizer)
    method.SetInitialTransform(transform)
    method.SetInPlace(True)
    method.SetNumberOfLevels(len(levels))
    spacing = spacing_mm(mri.affine)
    shares = []
    for level, (voxel_mm, _, samples) in enumerate(levels):
        shrink = [max(1, round(voxel_mm / s)) for s in spacing]
        method.SetShrinkFactorsPerDimension(level, shrink)
        shares.append(min(1.0, samples / (mri.array.size / float(np.prod(shrink)))))
    method.SetSmoothingSigmasPerLevel([sigma for _, sigma, _ in levels])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    method.SetMetricSamplingStrategy(itk.ImageRegistrationMethodv4Enums.MetricSamplingStrategy_REGULAR)
    method.SetMetricSamplingPercentagePerLevel(shares)
    method.MetricSamplingReinitializeSeed(1)
    try:
        method.Update()
    except RuntimeError as e:
        last_line = [line.strip() for line in str(e).splitlines() if line.strip()][-1]
        raise InputError(
            f"registration: expected two volumes of one head, got images that ITK cannot align ({last_line})"
        ) from None
    return from_itk_transform(itk, transform)


def register(
    mri: np.ndarray, mri_affine: np.ndarray, ct: np.ndarray, ct_affine: np.ndarray, *, affine: bool = False
) -> Registration:
    """Find how the CT lies to the MRI.

    Args:
        mri: any contrast, ``[X, Y, Z]``.
        mri_affine: index to RAS millimetres.
        ct: HU, ``[X, Y, Z]``, on any grid.
        ct_affine: index to RAS millimetres.
        affine: allow scaling and shear too, once the rigid pose is found.

    Returns:
        The registration. A pair that lay as well before keeps its pose.

    Raises:
        InputError: when no head is found, ITK is missing or fails, or the pose found is worse than the given one.
    """
    mri_scan, ct_scan = _ready_mri(mri, mri_affine), _ready_ct(ct, ct_affine)
    judge = _Similarity(mri_scan, ct_scan, count=_JUDGE_POINTS, bins=_JUDGE_BINS)
    matrix = _refine(mri_scan, ct_scan, _search(mri_scan, ct_scan), "rigid", _LEVELS)
    if affine:
        matrix = _refine(mri_scan, ct_scan, matrix, "affine", _LEVELS[-1:])
    return _judged(judge, mri_scan, matrix, "affine" if affine else "rigid")


def measure(mri: np.ndarray, mri_affine: np.ndarray, ct: np.ndarray, ct_affine: np.ndarray) -> Registration:
    """The quality of the given pose, as :func:`register` measures it, without moving anything."""
    mri_scan = _ready_mri(mri, mri_affine)
    judge = _Similarity(mri_scan, _ready_ct(ct, ct_affine), count=_JUDGE_POINTS, bins=_JUDGE_BINS)
    return _judged(judge, mri_scan, np.eye(4), "rigid")


def _judged(judge: _Similarity, mri: _Scan, matrix: np.ndarray, kind: str) -> Registration:
    before, after, centre = judge(np.eye(4)), judge(matrix), mri.centre_mm
    corners = np.array([[x, y, z] for x in (-70, 70) for y in (-70, 70) for z in (-60, 60)]) + centre
    moved = float(np.linalg.norm(corners @ matrix[:3, :3].T + matrix[:3, 3] - corners, axis=1).max())
    if after <= before and moved <= _ALIGNED_MM:
        return Registration(np.eye(4), centre, before, before, judge.overlap(np.eye(4)), kind, aligned_before=True)
    if after < before or after <= 0:
        raise InputError(
            f"registration: expected a pose better than the given one, got mutual information {after:.3f} after {before:.3f} "
            f"({moved:.0f} mm away)"
        )
    return Registration(matrix, centre, before, after, judge.overlap(matrix), kind)
