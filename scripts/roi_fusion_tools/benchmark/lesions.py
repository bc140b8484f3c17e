# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""How well lesions are found on other data than the training's: unseen heads, other generators, other grids, real scans."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roi_fusion.data.cases import link_file
from roi_fusion.data.lesions import PackedLesions
from roi_fusion.data.modes import MODES
from roi_fusion.data.results import versions
from roi_fusion.data.synthesis.unseen import write_cases
from roi_fusion.engine.weights import sha256_of
from roi_fusion.errors import InputError
from roi_fusion.values import read_json, write_json

from ..phantoms.render import PhantomConfig
from ..phantoms.write import make_phantoms
from ..slices import slices_to_cases
from ..unseen_heads import evaluate_folder

__all__ = ["SECTIONS", "LesionOptions", "run_lesions"]

logger = logging.getLogger(__name__)

#: Heads and lesions that no training and no choice may see.
TEST_HEADS, TEST_LESIONS = "17,18,19", "800:900"
_T2 = {"shape": (110, 124, 25), "spacing_mm": (1.8, 1.8, 6.0), "contrast": "t2"}


@dataclass(frozen=True)
class LesionOptions:
    """What a run measures.

    Attributes:
        output_dir: folder of data and results.
        checkpoint: weights.
        label_maps, lesions: packed files; unseen heads are heads 17, 18, 19 of the first with lesions 800 to 899 of the second.
        real_dir: folder with ``real/`` and ``harvard_ct_mri/``; None leaves the real scans out.
        cases: unseen heads; phantoms in proportion.
        precision: of the network's passes.
    """

    output_dir: str
    checkpoint: str
    label_maps: str | None = None
    lesions: str | None = None
    real_dir: str | None = None
    cases: int = 60
    precision: str = "auto"

    def test_lesions(self) -> PackedLesions | None:
        """Lesions that no training saw; None without packed lesions."""
        return PackedLesions(self.lesions, TEST_LESIONS) if self.lesions else None


def _evaluated(options: LesionOptions, folder: Path, modes: Sequence[str] = ("pair",), **knobs: Any) -> dict[str, Any]:
    return evaluate_folder(folder, options.checkpoint, modes=modes, precision=options.precision, **knobs)["modes"]


def _unseen(options: LesionOptions, root: Path) -> dict[str, Any]:
    """Painted heads that no training saw: both images, and each alone."""
    if options.label_maps is None:
        raise InputError("label_maps: expected a packed file with heads 17, 18 and 19, got none")
    how: dict[str, Any] = {
        "label_maps": options.label_maps,
        "lesions": options.lesions,
        "heads": TEST_HEADS,
        "lesion_ids": TEST_LESIONS,
    }
    list(write_cases(root / "unseen", options.cases, seed=900, **how))
    return {"unseen heads": _evaluated(options, root / "unseen", tuple(MODES))}


def _phantoms(options: LesionOptions, root: Path, name: str, count: int, seed: int, **config: Any) -> dict[str, Any]:
    folder = root / name.replace(" ", "_")
    make_phantoms(folder, count, PhantomConfig(**config), lesions=options.test_lesions(), seed=seed)
    return {name: _evaluated(options, folder)}


def _old(options: LesionOptions, root: Path) -> dict[str, Any]:
    """Phantoms of the generator that the first weights were trained on."""
    return _phantoms(options, root, "old phantoms", max(6, options.cases // 4), 901, misregistration_mm=2.0)


def _changed(options: LesionOptions, root: Path) -> dict[str, Any]:
    """The old generator with one number changed, five phantoms each."""
    bright = _phantoms(options, root, "lesion as bright as CSF", 5, 902, **_T2, lesion_signal=(1.9, 2.4), lesion_free_share=0.0)
    return {**bright, **_phantoms(options, root, "CSF at 1.4 x grey", 5, 903, **_T2, csf_signal=1.4, lesion_free_share=1.0)}


def _grids(options: LesionOptions, root: Path) -> dict[str, Any]:
    """The demo's coarse grid, and one beyond all that training draws."""
    coarse = {"shape": (96, 96, 16), "spacing_mm": (2.4, 2.4, 9.0)}
    beyond = {"shape": (78, 80, 12), "spacing_mm": (2.9, 2.9, 12.0)}
    return {
        **_phantoms(options, root, "demo grid", 18, 904, **coarse),
        **_phantoms(options, root, "grid beyond training", 12, 905, **beyond),
    }


def _real(options: LesionOptions, root: Path) -> dict[str, Any]:
    """Real scans, for nothing but this, each with a picture. The CT is of another person and registered to each MRI."""
    if options.real_dir is None:
        return {}
    real, slices = Path(options.real_dir) / "real", Path(options.real_dir) / "harvard_ct_mri"
    scans: dict[str, dict[str, Path]] = {
        f"stroke_{n}": {"mri": real / "stroke_case" / f"{n}.nii.gz", "lesion_mask": real / "stroke_case" / "lesion_mask.nii.gz"}
        for n in ("dwi", "adc", "flair")
    }
    scans["t1_without_stroke"] = {"mri": real / "t1_with_skull.nii.gz"}
    for name, files in scans.items():
        (root / "real" / name).mkdir(parents=True, exist_ok=True)
        for stem, file in {**files, "ct": real / "head_ct.nii.gz"}.items():
            link_file(root / "real" / name / f"{stem}.nii.gz", file)
    pictures = root / "pictures"
    out = {"real scans": _evaluated(options, root / "real", ("pair", "mri"), register=True, pictures_dir=pictures)}
    if slices.is_dir():
        slices_to_cases(slices / "CT", slices / "MRI", root / "slices", fill_gaps=True)
        out["real slices"] = _evaluated(options, root / "slices", plausibility="warn", pictures_dir=pictures)
    return out


SECTIONS: dict[str, Callable[[LesionOptions, Path], dict[str, Any]]] = {
    "unseen": _unseen,
    "old": _old,
    "changed": _changed,
    "grids": _grids,
    "real": _real,
}


def run_lesions(options: LesionOptions, sections: Sequence[str] = tuple(SECTIONS)) -> dict[str, Any]:
    """Measure the sections and write ``lesions.json``; sections measured earlier with the same weights are kept.

    Args:
        options: what to measure.
        sections: some of :data:`SECTIONS`.

    Raises:
        InputError: for an unknown section.
    """
    unknown = [s for s in sections if s not in SECTIONS]
    if unknown:
        raise InputError(f"sections: expected some of {', '.join(SECTIONS)}, got {unknown[0]}")
    root = Path(options.output_dir)
    file = root / "lesions.json"
    content: dict[str, Any] = {"checkpoint_sha256": sha256_of(options.checkpoint), "cases": options.cases, "parts": {}}
    for section in sections:
        found = SECTIONS[section](options, root / "lesion_cases")
        earlier = read_json(file) if file.is_file() else {}
        same = earlier.get("checkpoint_sha256") == content["checkpoint_sha256"]
        content["parts"] = {**(earlier["parts"] if same else {}), **content["parts"], **found}
        for name, modes in found.items():
            for mode, result in modes.items():
                logger.info("%s, %s: %s", name, mode, result["summary"])
        content["versions"] = versions()
        write_json(file, content)
    return content


def worst_factor(rows: Sequence[Mapping[str, Any]]) -> float:
    """By how many times its own volume the worst lesion is off; NaN without lesions."""
    pairs = [(r["lesion_pred_ml"], r["lesion_ml"]) for r in rows if r["lesion_pred_ml"] is not None]  # JSON knows no NaN
    off = [abs(found - true) / true for found, true in pairs if true and true > 0 and math.isfinite(found)]
    return max(off, default=math.nan)
