# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Metrics of the lesion: overlap, surface distances in mm, detection, volume and calibration. Unmeasurable values are NaN.

Surfaces are compared voxel by voxel, as ``monai.metrics`` does when it is given the spacing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import Cumulative
from scipy import ndimage

from .calibration import Array, brier_score, expected_calibration_error
from .surface import MaskComparison, as_pair, bounding_box
from .table import mean_by_name

__all__ = ["LesionComparison", "LesionMetrics", "lesion_region"]


def lesion_region(pred: Array, reference: Array, *, spacing_mm: Sequence[float], margin_mm: float = 10.0) -> np.ndarray:
    """Both lesions with a margin, in which constants are fitted and errors told apart. It depends on the prediction, so it
    is no region to compare methods in.

    Args:
        pred, reference: 0/1 masks ``[X, Y, Z]``.
        spacing_mm: voxel size along the array axes, in mm.
        margin_mm: width of the margin, in mm.

    Returns:
        Boolean mask of the same shape; empty where both lesions are.

    Raises:
        InputError: as :func:`lesion_metrics`.

    Example:
        >>> lesion = np.zeros((9, 9, 3), bool)
        >>> lesion[4, 4, 1] = True
        >>> int(lesion_region(lesion, lesion, spacing_mm=(1.0, 1.0, 5.0), margin_mm=2.0).sum())
        13
    """
    p, r, spacing = as_pair("lesion_region", pred, reference, spacing_mm)
    both = p | r
    if not both.any():
        return both
    box = bounding_box(both, int(np.ceil(margin_mm / spacing.min())))
    out = np.zeros_like(both)
    out[box] = ndimage.distance_transform_edt(~both[box], sampling=spacing) <= margin_mm
    return out


class LesionComparison:
    """The lesion head's probability of one case beside its reference; what several metrics need is computed once.

    Args:
        probability: of the lesion head, ``[1, X, Y, Z]``, 0…1.
        label: 0/1, same shape.
        spacing_mm: voxel size along the array axes, in mm.
        threshold: probability above which a voxel is lesion.
        outside_voxels: of the lesion that lie beyond these arrays, where nothing was predicted. They are missed: Dice and the
            volume count them, and distances, whose other end is not here, are NaN.
        brain: 0/1, same shape. With the reference lesion it is the region that calibration is measured in, the same for every
            method: around a method's own mask, doubt just below the threshold would lie outside and cost nothing.

    Raises:
        InputError: see :class:`MaskComparison`.
    """

    def __init__(
        self,
        probability: torch.Tensor,
        label: torch.Tensor,
        *,
        spacing_mm: Sequence[float],
        threshold: float = 0.5,
        outside_voxels: int = 0,
        brain: torch.Tensor | None = None,
    ) -> None:
        p, r = (np.asarray(torch.as_tensor(t).detach().cpu())[0] for t in (probability, label))
        self._probability, self._mask, self._truth = p, p > threshold, r > 0
        self._spacing_mm, self._outside = spacing_mm, outside_voxels
        self._masks = MaskComparison(self._mask, self._truth, spacing_mm=spacing_mm)
        self._brain = None if brain is None else np.asarray(torch.as_tensor(brain).detach().cpu())[0] > 0

    @property
    def empty_pred(self) -> bool:
        """Whether no voxel was predicted."""
        return not self._masks.n_pred

    @property
    def empty_reference(self) -> bool:
        """Whether the reference holds no lesion, here or beyond these arrays."""
        return not self._masks.n_reference and not self._outside

    def dice(self) -> float:
        """Dice coefficient, 0…1."""
        if not self._outside:
            return self._masks.dice()
        voxels = self._masks.n_pred + self._masks.n_reference + self._outside
        return 2.0 * int((self._mask & self._truth).sum()) / voxels

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface Dice at `tolerance_mm`, 0…1."""
        return math.nan if self._outside else self._masks.nsd(tolerance_mm)

    def hausdorff_mm(self, percentile: float) -> float:
        """Hausdorff distance at `percentile`, in mm."""
        return math.nan if self._outside else self._masks.hausdorff_mm(percentile)

    def lesion_f1(self) -> float:
        """F1 over lesions, 0…1."""
        return math.nan if self._outside else self._masks.lesion_f1()

    def volume_difference_ml(self) -> float:
        """Predicted minus reference volume, in mL."""
        return self._masks.volume_difference_ml() - self._outside * float(np.prod(self._spacing_mm)) / 1000

    def calibration_error(self) -> float:
        """Expected calibration error in the brain; NaN where no brain was given."""
        return math.nan if self._brain is None else expected_calibration_error(*self._in_brain(self._brain))

    def brier(self) -> float:
        """Brier score in the brain; NaN where no brain was given."""
        return math.nan if self._brain is None else brier_score(*self._in_brain(self._brain))

    def _in_brain(self, brain: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._probability, self._truth, brain | self._truth


class LesionMetrics(Cumulative):
    """Segmentation and calibration of the lesion head per case, cumulated; cases whose lesion is unknown give no row.

    Args:
        tolerance_mm: of the normalised surface Dice.
    """

    names = (
        "lesion_dice",
        "lesion_nsd_2mm",
        "lesion_hd95_mm",
        "lesion_f1",
        "lesion_volume_difference_ml",
        "lesion_ece",
        "lesion_brier",
        "n_empty_pred",
        "n_empty_ref",
    )

    def __init__(self, tolerance_mm: float = 2.0) -> None:
        super().__init__()
        self.tolerance_mm = tolerance_mm

    def __call__(
        self,
        probability: torch.Tensor,
        label: torch.Tensor,
        *,
        spacing_mm: Sequence[float],
        threshold: float = 0.5,
        outside_voxels: int = 0,
        brain: torch.Tensor | None = None,
    ) -> dict[str, float]:
        """Measure one case and keep it.

        Args:
            probability: of the lesion head, ``[1, X, Y, Z]``.
            label: 0/1, same shape.
            spacing_mm: voxel size along the array axes.
            threshold: above which a voxel is lesion.
            outside_voxels: of the lesion that lie beyond these arrays, where nothing was predicted. They are missed: Dice and
                the volume count them, and distances, whose other end is not here, are NaN.
            brain: 0/1, same shape, where calibration is judged; without it there is no calibration.
        """
        found = LesionComparison(
            probability, label, spacing_mm=spacing_mm, threshold=threshold, outside_voxels=outside_voxels, brain=brain
        )
        row = {
            "lesion_dice": found.dice(),
            "lesion_nsd_2mm": found.nsd(self.tolerance_mm),
            "lesion_hd95_mm": found.hausdorff_mm(95),
            "lesion_f1": found.lesion_f1(),
            "lesion_volume_difference_ml": found.volume_difference_ml(),
            "lesion_ece": found.calibration_error(),
            "lesion_brier": found.brier(),
            "n_empty_pred": float(found.empty_pred),
            "n_empty_ref": float(found.empty_reference),
        }
        self.append(torch.tensor([row[n] for n in self.names], dtype=torch.float64))
        return row

    def aggregate(self) -> dict[str, float]:  # type: ignore[override]
        """Means; the two counts of empty masks are sums."""
        buffer = self.get_buffer()
        out = mean_by_name(self.names, buffer)
        for name in ("n_empty_pred", "n_empty_ref"):
            out[name] = float(buffer[:, self.names.index(name)].sum()) if isinstance(buffer, torch.Tensor) else 0.0
        return out
