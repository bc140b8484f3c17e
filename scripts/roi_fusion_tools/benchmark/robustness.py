# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Robustness to scanner noise and misregistration: every condition on the same phantoms, scored against the images as given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from roi_fusion.config.check import inference_parser
from roi_fusion.core.guidance import RoiGuidance
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.schedule import make_scheduler
from roi_fusion.data.cases import each_item, link_file
from roi_fusion.data.lesions import PackedLesions
from roi_fusion.data.results import versions
from roi_fusion.engine.case_metrics import benchmark_metrics
from roi_fusion.engine.evaluator import CaseMetrics
from roi_fusion.engine.inferer import SamplingInferer, sample_case
from roi_fusion.engine.weights import load_weights
from roi_fusion.errors import InputError
from roi_fusion.values import write_json

from ..phantoms.render import PhantomConfig
from ..phantoms.write import make_phantoms
from ..studies import POSES, mean_of, move_ct
from .comparison import FUSION, LESION

__all__ = ["CONDITIONS", "run_robustness"]

logger = logging.getLogger(__name__)


Volumes = dict[str, np.ndarray]


_Change = Callable[[Volumes, np.random.Generator], Volumes]


def _noise(share: float) -> _Change:
    """Gaussian noise on the MRI, as a share of its 99th percentile."""

    def change(v: Volumes, rng: np.random.Generator) -> Volumes:
        scale = share * float(np.percentile(v["mri"], 99))
        return {**v, "mri": np.abs(v["mri"] + rng.normal(0, scale, v["mri"].shape)).astype(np.float32)}

    return change


def _ct_noise(hu: float) -> _Change:
    def change(v: Volumes, rng: np.random.Generator) -> Volumes:
        return {**v, "ct": np.clip(v["ct"] + rng.normal(0, hu, v["ct"].shape), -1024, 3071).astype(np.int16)}

    return change


def _bias(v: Volumes, rng: np.random.Generator) -> Volumes:
    """A smooth gain of the MRI from about 0.7 to 1.4."""
    field = ndimage.zoom(rng.standard_normal((4, 4, 3)), np.divide(v["mri"].shape, (4, 4, 3)), order=3)
    return {**v, "mri": (v["mri"] * np.exp(0.3 * np.tanh(field))).astype(np.float32)}


def _blur(v: Volumes, rng: np.random.Generator) -> Volumes:
    return {**v, "mri": ndimage.gaussian_filter(v["mri"].astype(np.float32), (1, 1, 0))}


def _without(name: str) -> _Change:
    return lambda v, rng: {k: a for k, a in v.items() if k != name}


CONDITIONS: dict[str, _Change] = {
    "as drawn": lambda v, rng: v,
    "MRI noise 5 %": _noise(0.05),
    "MRI noise 10 %": _noise(0.10),
    "MRI bias field ±30 %": _bias,
    "MRI blurred by one voxel": _blur,
    "CT noise 10 HU": _ct_noise(10.0),
    "without the MRI": _without("mri"),
    "without the CT": _without("ct"),
}


def run_robustness(
    output_dir: str | Path, lesions: str, checkpoint: str | Path, cases: int = 6, precision: str = "auto"
) -> dict[str, Any]:
    """Every condition on `cases` unseen phantoms of 256×256×26 voxels, 4 guided steps; writes ``robustness.json``.

    Args:
        output_dir: folder of data and result.
        lesions: packed real lesion masks; ids 800:900 are drawn.
        checkpoint: weights.
        cases: phantoms.
        precision: of the network's passes.
    """
    if int(cases) != cases or cases < 1:
        raise InputError(f"cases: expected a whole number of 1 or more, got {cases}")
    root = Path(output_dir)
    source = root / "robustness_cases"
    make_phantoms(source, cases, PhantomConfig(lesion_free_share=0.0), lesions=PackedLesions(lesions, "800:900"), seed=77)
    network: Any = load_weights(RoiFusionNet(), checkpoint).eval()
    rows = []
    for name, change in CONDITIONS.items():
        folder = _changed(source, root / "changed" / name.replace(" ", "_").replace("%", "percent"), change)
        rows.append({"condition": name, **_scores(network, folder, cases, precision)})
        logger.info("%s", rows[-1])
    for shift, angle in POSES:
        folder = move_ct(source, root / "changed" / f"moved_{shift:g}mm_{angle:g}deg", shift, angle)
        rows.append(
            {
                "condition": f"CT moved by {shift:g} mm" if shift else f"CT turned by {angle:g}°",
                **_scores(network, folder, cases, precision),
            }
        )
        logger.info("%s", rows[-1])
    content = {"cases": cases, "precision": precision, "rows": rows, "versions": versions()}
    write_json(root / "robustness.json", content)
    return content


def _changed(source: Path, target: Path, change: _Change) -> Path:
    """A copy of a data set whose images went through `change`; masks are linked."""
    rng = np.random.default_rng(0)
    for folder in sorted(p for p in source.iterdir() if p.is_dir()):
        out = target / folder.name
        out.mkdir(parents=True, exist_ok=True)
        images: dict[str, Any] = {n: nib.load(folder / f"{n}.nii.gz") for n in ("mri", "ct")}  # type: ignore[misc]
        for name, array in change({n: np.asarray(i.dataobj) for n, i in images.items()}, rng).items():
            nib.save(nib.Nifti1Image(array, images[name].affine), out / f"{name}.nii.gz")
        for mask in folder.glob("*_mask.nii.gz"):
            link_file(out / mask.name, mask)
    return target


def _scores(network: RoiFusionNet, folder: Path, cases: int, precision: str) -> dict[str, Any]:
    """Means over the first cases; a metric that no case has (the bone without a CT) is NaN."""
    dataset = inference_parser({"dataset_dir": str(folder)}).get_parsed_content("dataset")
    inferer = SamplingInferer(make_scheduler(), 4, 1, guidance=RoiGuidance(), precision=precision)
    metrics = CaseMetrics(threshold=network.threshold, with_baselines=False, metrics=benchmark_metrics())
    rows: list[Mapping[str, Any]] = []
    for item in each_item(dataset, cases):
        rows += metrics.measure(item, sample_case(inferer, network, item))
    return {name: mean_of(rows, name) for name in (*FUSION, *LESION)}
