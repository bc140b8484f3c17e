# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The shipped weights on real CT and MR slices, by the commands a user types; skips where the slices are absent."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion

from conftest import shared
from in_process import run_bundle, run_cli
from roi_fusion.core.masks import largest_component

PATIENT = "21"


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every other slice of one patient, through stack_slices, inference.json and export_slices."""
    source, root = shared("data/harvard_ct_mri"), tmp_path_factory.mktemp("real")
    for kind in ("CT", "MRI"):
        (root / kind).mkdir()
        chosen = sorted((source / kind).glob(f"{PATIENT}*.png"))[::2][:8]
        for k, picture in enumerate(chosen):
            shutil.copy(picture, root / kind / f"{PATIENT}{k:03d}.png")
    folders = ["--ct_dir", str(root / "CT"), "--mri_dir", str(root / "MRI"), "--output", str(root / "cases")]
    run_cli("stack_slices", *folders, "--spacing_mm", "1,1,10")
    data = ["--dataset_dir", str(root / "cases"), "--output_dir", str(root / "results"), "--num_samples", "1"]
    run_bundle("--config_file", "configs/inference.json", *data)
    out = ["--results_dir", str(root / "results"), "--output", str(root / "fused" / "ours"), "--window_mri", "0,255"]
    run_cli("export_slices", *out)
    return root


def test_mri_shows_in_the_brain_and_ct_in_the_skull_on_an_exactly_flat_background(fused: Path) -> None:
    case = next((fused / "cases").iterdir())
    result = fused / "results" / case.name
    volume, mri, ct = (
        np.asarray(nib.load(p).dataobj) for p in (result / "fused.nii.gz", case / "mri.nii.gz", case / "ct.nii.gz")
    )
    provenance = np.asarray(nib.load(result / "provenance.nii.gz").dataobj)
    outside = (ct < -900) & (mri == 0)
    assert outside.mean() > 0.2
    assert (volume[outside] == 0).all()
    bone = ct >= 1000
    brain = (provenance > 0.9) & (ct > 0) & (ct < 80) & (mri > 30)
    assert brain.sum() > 0.1 * brain.size
    assert np.corrcoef(volume[brain], mri[brain])[0, 1] > 0.98
    assert np.nanmean(provenance[bone]) < 0.2
    assert np.median(volume[bone]) > 1.3 * np.median(volume[brain])
    facts = json.loads((result / "result.json").read_text())
    assert facts["fused_at_bounds"] == 0
    assert all(after <= before for before, after in facts["guidance_energy"])


def test_the_literatures_metrics_on_the_exported_slices_are_above_pasting_average_and_maximum(fused: Path) -> None:
    """The rules see the same slices; pasting knows the metric's own bone."""
    spec = importlib.util.spec_from_file_location("fusion_metrics", shared("fusion_metrics.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scores: dict[str, list[dict[str, float]]] = {}
    for picture in sorted((fused / "fused" / "ours").glob("*.png")):
        read = [np.asarray(Image.open(fused / k / picture.name).convert("L")) for k in ("MRI", "CT")]
        exported = np.asarray(Image.open(picture))
        background = binary_erosion(largest_component((read[0] == 0) & (read[1] == 0)), iterations=8)  # clear of black skin
        assert background.mean() > 0.15
        assert not exported[background].any()
        mri, ct = read
        average = ((mri.astype(int) + ct) // 2).astype(np.uint8)
        paste = np.where((ct >= 200) & (exported > 0), ct, mri)  # on our background: the head holder is not pasted
        for name, picture in (("ours", exported), ("paste", paste), ("maximum", np.maximum(mri, ct)), ("average", average)):
            scores.setdefault(name, []).append(module.evaluate(mri, ct, picture))
    both = {n: sum(np.mean([r[k] for r in rows if k in r]) for k in ("brain_ssim", "bone_ssim")) for n, rows in scores.items()}
    assert both["ours"] > max(v for n, v in both.items() if n != "ours") + 0.02, both
