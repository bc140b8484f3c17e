# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import base64
import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from helpers import result_folder
from roi_fusion.report import viewer
from roi_fusion.report.volumes import load_volumes


def volume_of(entry: dict[str, Any]) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(entry["data"])))


@pytest.mark.parametrize("most", [1_500_000, 2000])
def test_volumes_lie_where_the_case_does(
    most: int, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "_MOST_VOXELS", most)
    volumes = load_volumes(result_folder(tmp_path, tiny_dataset, "phantom_0000"))
    found = {v["name"]: v for v in viewer.viewer_volumes(volumes)}
    assert list(found) == ["MRI", "CT", "Fused", "Uncertainty", "Provenance", "Lesion"]
    assert [n for n, v in found.items() if v["overlay"]] == ["Uncertainty", "Provenance", "Lesion"]
    whole = {"CT": (volumes.ct, 0.51), "MRI": (volumes.mri, (found["MRI"]["high"] - found["MRI"]["low"]) / 400)}
    for name, (original, tolerance) in whole.items():
        image = volume_of(found[name])
        assert np.prod(image.shape) <= most
        assert original is not None
        index = np.array([1, 2, 1])
        place = np.linalg.inv(volumes.affine) @ image.affine @ [*index, 1]
        expected = np.clip(original[tuple(np.round(place[:3]).astype(int))], found[name]["low"], found[name]["high"])
        value = image.get_fdata()[tuple(index)]
        if name == "CT":
            expected = original[tuple(np.round(place[:3]).astype(int))]
        assert value == pytest.approx(expected, abs=tolerance)


def test_the_script_is_that_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    ipyniivue = pytest.importorskip("ipyniivue")
    packed = viewer.niivue_script()
    assert packed is not None
    script = Path(ipyniivue.__file__).parent / "static" / "widget.js"
    assert gzip.decompress(base64.b64decode(packed)) == script.read_bytes()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    viewer.niivue_script.cache_clear()
    assert viewer.niivue_script() is None
    viewer.niivue_script.cache_clear()
