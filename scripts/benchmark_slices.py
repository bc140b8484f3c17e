#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The shipped weights on real 8-bit CT and MR slices, scored by a metric script that is not ours, beside others' figures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from _cli import main
from roi_fusion.cases import write_json
from roi_fusion.errors import InputError
from roi_fusion.knobs import BUNDLE_ROOT
from roi_fusion.results import versions
from roi_fusion.slices import export_slices, slices_to_cases

_METRICS = ("brain_ssim", "bone_ssim", "VIF", "Qabf")
_OURS = "ROI Fusion, guided, window 0-255"


def benchmark_slices(
    slices_dir: str,
    metrics_script: str,
    peers: str,
    output_dir: str,
    checkpoint: str = str(BUNDLE_ROOT / "models" / "model.pt"),
    precision: str = "auto",
) -> None:
    """Stack the slices, fuse them by inference.json, export them by the window 0,255, score them; write harvard.json.

    Args:
        slices_dir: folder with CT/ and MRI/ pictures, as the Harvard Whole Brain Atlas in the fusion literature.
        metrics_script: program that takes --data, --fused, --out and --all and writes <out>/<method>.json, a row per picture.
        peers: JSON of other methods' figures on the same slices, {"methods": {name: {metric: value}}}.
        output_dir: folder of cases, results, pictures and harvard.json.
        checkpoint: weights.
        precision: auto, bf16 or fp32.
    """
    source, root = Path(slices_dir).resolve(), Path(output_dir).resolve()
    for path in (Path(metrics_script), Path(peers)):
        if not path.is_file():
            raise InputError(f"{path}: wanted a file, there is none")
    slices_to_cases(source / "CT", source / "MRI", root / "cases", fill_gaps=True)
    command = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--num_samples", "1"]
    where = ["--dataset_dir", str(root / "cases"), "--output_dir", str(root / "results")]
    how = ["--checkpoint", str(Path(checkpoint).resolve()), "--precision", precision]
    _run([*command, *where, *how], BUNDLE_ROOT)
    pictures = export_slices(root / "results", root / "fused" / "ours", (0.0, 255.0))
    score = ["--data", str(source), "--fused", str(root / "fused"), "--out", str(root / "metrics"), "--all"]
    _run([str(Path(metrics_script).resolve()), *score], root)
    rows = json.loads((root / "metrics" / "ours.json").read_text()).values()
    ours = {m: round(float(np.mean([r[m] for r in rows if m in r])), 4) for m in _METRICS}
    others = {
        name: {m: found.get(m) for m in _METRICS} for name, found in json.loads(Path(peers).read_text())["methods"].items()
    }
    write_json(root / "harvard.json", {"slices": len(pictures), "methods": {_OURS: ours, **others}, "versions": versions()})
    print(ours)
    print(root / "harvard.json")


def _run(arguments: list[str], folder: Path) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise InputError(f"{' '.join(arguments[:2])}: wanted a clean end, it ended with {last}")


if __name__ == "__main__":
    main(benchmark_slices)
