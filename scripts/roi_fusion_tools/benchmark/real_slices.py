# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The shipped weights on real 8-bit CT and MR slices, scored by a metric script that is not ours, beside others' figures."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage, stats

from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.data.results import versions
from roi_fusion.errors import InputError
from roi_fusion.values import write_json

from ..slices import best_slices, export_slices, slices_to_cases

__all__ = ["benchmark_slices"]

_METRICS = ("brain_ssim", "bone_ssim", "VIF", "Qabf")
_OURS = "ROI Fusion, guided, window 0-255"
#: What is there to be had, by the weight of bone: as much as brain, and so much that brain falls to 0.90.
_LIMITS = {1.0: "both SSIMs optimised directly, background 0", 4.0: "the same, bone four times as much"}

#: Pasting by the metric's own bone: with the background of the MR, and with a black one, as ours.
_PASTES = {
    "paste": "CT>=200 pasted into MRI, measured here",
    "paste_on_black": "CT>=200 pasted into MRI, background 0 as ours",
}


def benchmark_slices(
    slices_dir: str,
    metrics_script: str,
    peers: str,
    output_dir: str,
    checkpoint: str = str(BUNDLE_ROOT / "models" / "model.pt"),
    precision: str = "auto",
) -> None:
    """Stack the slices, fuse them by inference.json, export them by the window 0,255, score them; write harvard.json.

    Two more rows say what is there to be had: pictures whose SSIMs in the metric's own regions were optimised directly. Two
    paste the CT into the MR by the metric's own bone; the margin to them is given with an interval.

    Args:
        slices_dir: folder with CT/ and MRI/ pictures, as the Harvard Whole Brain Atlas in the fusion literature.
        metrics_script: program that takes --data, --fused, --out and --all and writes <out>/<method>.json, a row per picture;
            its masks(ct) gives bone, brain and head.
        peers: JSON of other methods' figures on the same slices, {"methods": {name: {metric: value}}}.
        output_dir: folder of cases, results, pictures and harvard.json.
        checkpoint: weights.
        precision: auto, bf16 or fp32.
    """
    source, root = Path(slices_dir).resolve(), Path(output_dir).resolve()
    for path in (Path(metrics_script), Path(peers)):
        if not path.is_file():
            raise InputError(f"{path}: expected a file, there is none")
    regions, others = _regions_of(metrics_script), _others(Path(peers))
    for folder in ("fused", "metrics"):  # pictures of an earlier call would be scored too
        shutil.rmtree(root / folder, ignore_errors=True)
    slices_to_cases(source / "CT", source / "MRI", root / "cases", fill_gaps=True)
    command = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--num_samples", "1"]
    where = ["--dataset_dir", str(root / "cases"), "--output_dir", str(root / "results")]
    how = ["--checkpoint", str(Path(checkpoint).resolve()), "--precision", precision]
    _run([*command, *where, *how], BUNDLE_ROOT)
    pictures = export_slices(root / "results", root / "fused" / "ours", (0.0, 255.0))
    _write_rules_and_limits(source, root / "fused", regions)
    score = ["--data", str(source), "--fused", str(root / "fused"), "--out", str(root / "metrics"), "--all"]
    _run([str(Path(metrics_script).resolve()), *score], root)
    labels = {"ours": _OURS, **{_limit_name(weight): label for weight, label in _LIMITS.items()}, **_PASTES}
    scored = {name: json.loads((root / "metrics" / f"{name}.json").read_text()) for name in labels}
    means = {labels[name]: _means(rows.values()) for name, rows in scored.items()}
    patients: dict[str, list[dict[str, float]]] = {}
    for picture, row in scored["ours"].items():
        patients.setdefault(_patient_of(picture), []).append(row)
    by_patient = {patient: {"slices": len(rows), **_means(rows)} for patient, rows in sorted(patients.items())}
    write_json(
        root / "harvard.json",
        {
            "slices": len(pictures),
            "methods": {**means, **others},
            "by_patient": by_patient,
            "margins": [{"over": labels[name], **_margin(scored["ours"], scored[name])} for name in _PASTES],
            "precision": precision,
            "versions": versions(),
        },
    )
    for label, found in means.items():
        print(f"{label}: {found}")
    print(root / "harvard.json")


def _means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    rows = list(rows)
    return {m: round(float(np.mean([r[m] for r in rows if m in r])), 4) for m in _METRICS}


def _patient_of(picture: str) -> str:
    """16003.png: patient 160, slice 3."""
    return Path(picture).stem[:-2]


def _margin(ours: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """By how much the sum of both SSIMs is higher, slice by slice: mean, bootstrap interval over slices, patients so."""

    def total(row: Mapping[str, float]) -> float:
        return row.get("brain_ssim", np.nan) + row.get("bone_ssim", np.nan)

    found = {picture: total(row) - total(other[picture]) for picture, row in ours.items()}
    found = {picture: d for picture, d in found.items() if np.isfinite(d)}
    patients: dict[str, list[float]] = {}
    for picture, difference in found.items():
        patients.setdefault(_patient_of(picture), []).append(difference)
    differences = np.array(list(found.values()))
    interval = stats.bootstrap((differences,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0))
    return {
        "slices": len(found),
        "mean": round(float(differences.mean()), 4),
        "ci95": [round(float(v), 4) for v in interval.confidence_interval],
        "patients": len(patients),
        "patients_better": sum(bool(np.mean(d) > 0) for d in patients.values()),
    }


def _others(peers: Path) -> dict[str, dict[str, float]]:
    try:
        methods = json.loads(peers.read_text())["methods"]
        return {name: {m: found.get(m) for m in _METRICS} for name, found in methods.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f'{peers}: expected JSON {{"methods": {{name: {{metric: value}}}}}}, got something else') from None


def _regions_of(metrics_script: str) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    loader = SourceFileLoader("metrics_script", metrics_script)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))  # type: ignore[arg-type]
    try:
        loader.exec_module(module)
    except Exception as e:
        raise InputError(f"{metrics_script}: expected a Python program, it ended with {type(e).__name__}: {e}") from e
    if not hasattr(module, "masks"):
        raise InputError(f"{metrics_script}: expected a function masks(ct) that gives bone, brain and head, found none")
    return module.masks


def _limit_name(bone_weight: float) -> str:
    return f"limit_{bone_weight:g}"


def _write_rules_and_limits(source: Path, fused: Path, regions: Callable[[np.ndarray], tuple[np.ndarray, ...]]) -> None:
    """Pictures of each limit and of pasting beside ours; limits are free where ours shows the head, black elsewhere."""
    names = sorted(p.name for p in (fused / "ours").glob("*.png"))
    mri, ct, ours = (
        np.stack([np.asarray(Image.open(folder / n).convert("L")) for n in names])
        for folder in (source / "MRI", source / "CT", fused / "ours")
    )
    bone, brain = (np.stack(masks) for masks in list(zip(*map(regions, ct)))[:2])
    head = np.stack([ndimage.binary_fill_holes(picture > 0) for picture in ours])
    paste = np.where(bone, ct, mri)
    pictures = {_limit_name(weight): best_slices(mri, ct, brain, bone, head, weight) for weight in _LIMITS}
    for method, stack in {**pictures, "paste": paste, "paste_on_black": paste * head}.items():
        folder = fused / method
        folder.mkdir(exist_ok=True)
        for name, picture in zip(names, stack):
            Image.fromarray(picture).save(folder / name)


def _run(arguments: list[str], folder: Path) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise InputError(f"{' '.join(arguments[:2])}: expected a clean end, it ended with {last}")
