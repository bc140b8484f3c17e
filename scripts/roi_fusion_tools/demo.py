# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The demonstration: the shipped weights on painted cases that look like a clinic's, and a training of a minute.

The cases are painted from the MNI atlas, so nothing of a patient is in them, and their lesions are known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roi_fusion.data.synthesis.anatomy import draw_anatomy
from roi_fusion.data.synthesis.geometry import Grid
from roi_fusion.data.synthesis.heads import HeadMaps, choose_ids
from roi_fusion.data.synthesis.unseen import paint_case, save_volumes
from roi_fusion.errors import InputError
from roi_fusion.values import read_json, write_json

from .phantoms.render import PhantomConfig
from .phantoms.write import write_phantoms

__all__ = ["PLAN", "TRAINING_KNOBS", "Planned", "case_table", "write_demo_cases", "write_training_cases"]


@dataclass(frozen=True)
class Planned:
    """A case of the demonstration.

    Attributes:
        name: of its folder.
        contrast: of the MRI.
        shape, spacing_mm: of its grid, slices last.
        lesion: whether it has one.
        cut: share of the CT's slices, from the top, that there are not.
    """

    name: str
    contrast: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    lesion: bool = True
    cut: float = 0.0


#: Grids are those that the sequences usually come on.
PLAN = (
    Planned("dwi", "dwi", (128, 128, 26), (1.7, 1.7, 6.0)),
    Planned("adc", "adc", (128, 128, 26), (1.7, 1.7, 6.0)),
    Planned("flair", "flair", (180, 216, 26), (1.0, 1.0, 6.0)),
    Planned("t2", "t2", (180, 216, 30), (1.0, 1.0, 5.0)),
    Planned("t1_without_lesion", "t1", (180, 216, 30), (1.0, 1.0, 5.0), lesion=False),
    Planned("half_a_ct", "dwi", (128, 128, 26), (1.7, 1.7, 6.0), cut=0.5),
)

#: Of a training that shows the tools and makes no usable network.
TRAINING_KNOBS: Mapping[str, Any] = {
    "learning_rate": 1e-3,
    "warmup_steps": 10,
    "patch_size": [80, 80, 12],
    "samples_per_case": 2,
}
#: Of a lesion worth showing, in mL: small ones are missed by people too, larger ones leave no brain to compare with.
_SHOWN_ML = (4.0, 80.0)


def write_demo_cases(folder: str | Path, num_cases: int = len(PLAN), seed: int = 0) -> Iterator[str]:
    """Paint cases as ``<folder>/<case>/{mri,ct,lesion_mask,brain_mask,bone_mask}.nii.gz``, with ``demo.json`` of true volumes.

    Args:
        folder: to write to.
        num_cases: how many; beyond the plan it is gone through again with other heads.
        seed: of the set.

    Yields:
        The name of each case once it is written.

    Raises:
        InputError: for fewer than one case.
    """
    if num_cases < 1:
        raise InputError(f"cases: expected a whole number of 1 or more, got {num_cases}")
    maps = HeadMaps(None)
    ids = choose_ids(maps, None, "val")
    true_ml: dict[str, float] = {}
    for number in range(num_cases):
        planned = PLAN[number % len(PLAN)]
        rng = np.random.default_rng([seed, number])
        anatomy = draw_anatomy(rng, maps[ids[number % len(ids)]], None, 0.0 if planned.lesion else 1.0)
        while planned.lesion and not _SHOWN_ML[0] <= anatomy.lesion_ml <= _SHOWN_ML[1]:
            anatomy = draw_anatomy(rng, anatomy.head, None, 0.0)
        volumes, affine, notes = paint_case(rng, anatomy, Grid(planned.shape, planned.spacing_mm), planned.contrast, 1.0, False)
        if planned.cut:
            volumes["ct"] = volumes["ct"][..., : round(planned.shape[2] * (1 - planned.cut))]
        name = f"{number + 1:02d}_{planned.name}"
        save_volumes(Path(folder) / name, volumes, affine)
        true_ml[name] = notes["lesion_ml"]
        write_json(Path(folder) / "demo.json", true_ml)
        yield name


def write_training_cases(folder: str | Path, num_cases: int = 6) -> None:
    """Small phantoms for the short training: one validates, one tests."""
    config = PhantomConfig(shape=(96, 96, 16), spacing_mm=(2.4, 2.4, 9.0), lesion_free_share=0.0)
    list(write_phantoms(folder, num_cases, config))


def case_table(cases_dir: str | Path, results_dir: str | Path) -> str:
    """True and found volume of each case with its interval, and below it what was said of the case.

    Args:
        cases_dir: of :func:`write_demo_cases`.
        results_dir: what inference wrote.
    """
    refused = read_json(Path(results_dir) / "errors.json") if (Path(results_dir) / "errors.json").is_file() else {}
    lines = [f"{'case':<24}{'true mL':>9}{'found mL':>10}   90 % interval"]
    for name, true_ml in read_json(Path(cases_dir) / "demo.json").items():
        result = Path(results_dir) / name / "result.json"
        if not result.is_file():
            lines += [f"{name:<24}{true_ml:9.1f}{'–':>10}   refused", *_remarks([str(refused.get(name, "no result"))])]
            continue
        facts = json.loads(result.read_text())
        found, interval = facts["lesion_ml"], facts["lesion_ml_interval"]
        told = f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else f"none: {facts['lesion_ml_interval_note']}"
        mark = "≥ " if facts["lesion_ml_is_lower_bound"] and found else ""
        lines.append(f"{name:<24}{true_ml:9.1f}{'–' if found is None else f'{mark}{found:.1f}':>10}   {told}")
        lines += _remarks([*facts["warnings"], *(f"outside of the training: {u}" for u in facts.get("outside_training") or [])])
    return "\n".join(lines)


def _remarks(sentences: Sequence[str]) -> list[str]:
    return [f"    {sentence.rsplit('.nii.gz: ', 1)[-1]}" for sentence in sentences]
