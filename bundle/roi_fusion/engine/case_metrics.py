# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The metrics of an evaluation as handlers of their own: each is a line of ``additional_metrics`` and a column of the table.

:class:`~roi_fusion.engine.evaluator.CaseMetrics` measures every case with them; attached to the evaluator, each publishes the
mean of its column in ``engine.state.metrics``. What several of them need of a case is computed once, in the comparisons that
they are called with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ignite.engine import Events

from ..core.choices import HU_POINTS, SCALED_POINTS
from ..errors import InputError
from ..metrics.fusion import FusionComparison
from ..metrics.lesion import LesionComparison
from ..metrics.table import mean_of

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = [
    "CaseMetric",
    "EdgeTransfer",
    "FusionMetric",
    "GlobalSSIM",
    "HyperdenseDice",
    "HyperdenseShown",
    "LesionBrier",
    "LesionDice",
    "LesionECE",
    "LesionF1",
    "LesionHausdorff",
    "LesionMetric",
    "LesionNSD",
    "LesionVolumeDifference",
    "RegionalPSNR",
    "RegionalSSIM",
    "SeamRatio",
    "VisualFidelity",
    "benchmark_metrics",
    "checked_metrics",
    "default_metrics",
]


class CaseMetric:
    """A number per case, and its mean over the cases where it exists.

    Attributes:
        column: its name in ``metrics.csv``, with region, tolerance or percentile, so that a name never hides a setting.
    """

    column: str

    def attach(self, engine: Engine, name: str) -> None:
        """Publish the mean as ``engine.state.metrics[name]``, behind the key metric that measures the cases."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._publish, name)

    def _publish(self, engine: Engine, name: str) -> None:
        state: Any = engine.state
        if not hasattr(state, "case_rows"):
            raise InputError(f"{name}: expected CaseMetrics as key metric, which measures the cases, got another")
        values = [r[name] for r in state.case_rows if r["method"] == "roi_fusion" and name in r]
        if values:
            engine.state.metrics[name] = mean_of(values)


class FusionMetric(CaseMetric):
    """A metric of a fused volume, the network's or a baseline's."""

    def __call__(self, case: FusionComparison) -> float:
        raise NotImplementedError


class LesionMetric(CaseMetric):
    """A metric of the lesion head; cases whose lesion is unknown have none."""

    def __call__(self, case: LesionComparison) -> float:
        raise NotImplementedError


class RegionalSSIM(FusionMetric):
    """SSIM of a region with in-plane Gaussian windows, see :func:`~roi_fusion.metrics.fusion.regional_ssim`.

    Args:
        region: ``"brain"``, against the MRI, or ``"bone"``, against the CT.
        context: False: windows see the region only, so that a copy inside scores exactly 1; True: ordinary windows, which
            punish a cut along the border.
        window_size, sigma: of the window, in voxels.
    """

    def __init__(self, region: str, context: bool = False, window_size: int = 11, sigma: float = 1.5) -> None:
        self.region, self.context, self.window_size, self.sigma = region, bool(context), int(window_size), float(sigma)
        self.column = f"{region}_ssim_context" if context else f"{region}_ssim"

    def __call__(self, case: FusionComparison) -> float:
        return case.ssim(self.region, context=self.context, window_size=self.window_size, sigma=self.sigma)


class RegionalPSNR(FusionMetric):
    """PSNR of a region in dB, data range 1, see :func:`~roi_fusion.metrics.fusion.regional_psnr`.

    Args:
        region: ``"brain"``, against the MRI, or ``"bone"``, against the CT.
    """

    def __init__(self, region: str) -> None:
        self.region, self.column = region, f"{region}_psnr"

    def __call__(self, case: FusionComparison) -> float:
        return case.psnr(self.region)


class GlobalSSIM(FusionMetric):
    """Mean of the SSIMs with MRI and CT over the whole head."""

    column = "global_ssim"

    def __call__(self, case: FusionComparison) -> float:
        return case.global_ssim()


class SeamRatio(FusionMetric):
    """How much steeper the fused volume is along bone than its sources, see :func:`~roi_fusion.metrics.fusion.seam_ratio`."""

    column = "seam_ratio"

    def __call__(self, case: FusionComparison) -> float:
        return case.seam_ratio()


class HyperdenseShown(FusionMetric):
    """Share of blood and calcium that is shown, see :func:`~roi_fusion.metrics.fusion.hyperdense_shown`."""

    column = "hyperdense_shown"

    def __call__(self, case: FusionComparison) -> float:
        return case.hyperdense_shown()


class HyperdenseDice(FusionMetric):
    """Blood and calcium of the fused volume against a reference that no method sees, see :mod:`~roi_fusion.metrics.hyperdense`.

    Args:
        hu_points, scaled_points: the curve that the CT was companded with.
    """

    column = "hyperdense_dice"

    def __init__(self, hu_points: Sequence[float] = HU_POINTS, scaled_points: Sequence[float] = SCALED_POINTS) -> None:
        self.curve = tuple(hu_points), tuple(scaled_points)

    def __call__(self, case: FusionComparison) -> float:
        return case.hyperdense_dice(self.curve)


class VisualFidelity(FusionMetric):
    """VIF of MRI and CT in the fused slices, summed, see :mod:`~roi_fusion.metrics.transfer`."""

    column = "vif"

    def __call__(self, case: FusionComparison) -> float:
        return case.transfer()["vif"]


class EdgeTransfer(FusionMetric):
    """Qabf of the fused slices, see :mod:`~roi_fusion.metrics.transfer`."""

    column = "qabf"

    def __call__(self, case: FusionComparison) -> float:
        return case.transfer()["qabf"]


class LesionDice(LesionMetric):
    """Dice coefficient of the lesion mask."""

    column = "lesion_dice"

    def __call__(self, case: LesionComparison) -> float:
        return case.dice()


class LesionNSD(LesionMetric):
    """Normalised surface Dice of the lesion mask, from surface voxels in mm.

    Args:
        tolerance_mm: surface distance in mm that still counts as agreement.
    """

    def __init__(self, tolerance_mm: float = 2.0) -> None:
        self.tolerance_mm = float(tolerance_mm)
        self.column = f"lesion_nsd_{self.tolerance_mm:g}mm"

    def __call__(self, case: LesionComparison) -> float:
        return case.nsd(self.tolerance_mm)


class LesionHausdorff(LesionMetric):
    """Hausdorff distance of the lesion mask in mm, from surface voxels.

    Args:
        percentile: of the surface distances; 95 gives HD95, 100 the maximum.
    """

    def __init__(self, percentile: float = 95) -> None:
        self.percentile = float(percentile)
        self.column = f"lesion_hd{self.percentile:g}_mm"

    def __call__(self, case: LesionComparison) -> float:
        return case.hausdorff_mm(self.percentile)


class LesionF1(LesionMetric):
    """F1 over single lesions, each found when one of its voxels is hit."""

    column = "lesion_f1"

    def __call__(self, case: LesionComparison) -> float:
        return case.lesion_f1()


class LesionVolumeDifference(LesionMetric):
    """Predicted minus reference volume, in mL."""

    column = "lesion_volume_difference_ml"

    def __call__(self, case: LesionComparison) -> float:
        return case.volume_difference_ml()


class LesionECE(LesionMetric):
    """Expected calibration error of the lesion probability in the brain, one region for every method.

    Most of a brain is no lesion, so the numbers are small; they compare methods on the same case and no more.
    """

    column = "lesion_ece"

    def __call__(self, case: LesionComparison) -> float:
        return case.calibration_error()


class LesionBrier(LesionMetric):
    """Brier score of the lesion probability in the brain, one region for every method."""

    column = "lesion_brier"

    def __call__(self, case: LesionComparison) -> float:
        return case.brier()


def default_metrics() -> dict[str, CaseMetric]:
    """The metrics that ``train.json`` and ``inference.json`` list, for what measures cases outside of a config."""
    metrics: list[CaseMetric] = [
        RegionalSSIM("brain"),
        RegionalSSIM("bone"),
        RegionalSSIM("brain", context=True),
        RegionalSSIM("bone", context=True),
        RegionalPSNR("brain"),
        RegionalPSNR("bone"),
        GlobalSSIM(),
        SeamRatio(),
        HyperdenseShown(),
        LesionDice(),
        LesionNSD(tolerance_mm=2.0),
        LesionHausdorff(percentile=95),
        LesionF1(),
        LesionVolumeDifference(),
        LesionECE(),
        LesionBrier(),
    ]
    return {m.column: m for m in metrics}


def benchmark_metrics() -> dict[str, CaseMetric]:
    """The default metrics and those that take longer or ask for a reference that inference does not have: blood and calcium
    against a region that no method sees, VIF and Qabf. For benchmarks and studies."""
    more: list[CaseMetric] = [HyperdenseDice(), VisualFidelity(), EdgeTransfer()]
    return {**default_metrics(), **{m.column: m for m in more}}


def checked_metrics(metrics: Mapping[str, CaseMetric] | None) -> dict[str, CaseMetric]:
    """`metrics`, or the default ones for None, when each has the name of its column.

    Raises:
        InputError: for another name: a table that says ``lesion_nsd_2mm`` must not hold a tolerance of 5 mm.
    """
    if metrics is None:
        return default_metrics()
    for name, metric in metrics.items():
        if name != metric.column:
            raise InputError(
                f"additional_metrics: expected the name {metric.column} for {type(metric).__name__} with these settings, "
                f"got {name}"
            )
    return dict(metrics)
