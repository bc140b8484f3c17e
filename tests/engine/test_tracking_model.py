# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The model of MLflow's registry, in process; `test_tracking.py` loads it from a server."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from conftest import BUNDLE
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.results import RESULT_FILES
from roi_fusion.engine.tracking_model import FusionModel, bundle_copy
from roi_fusion.errors import InputError

NETWORK = {
    "_target_": "roi_fusion.core.network.RoiFusionNet",
    "channels": [8, 8, 12, 12],
    "denoiser_channels": [4, 4, 6],
    "residual_bound": 0.25,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[FusionModel, SimpleNamespace]:
    folder = tmp_path_factory.mktemp("registered")
    (folder / "run.json").write_text(json.dumps({"network_def": NETWORK, "knobs": {"scheduler": "rflow"}}))
    torch.manual_seed(0)
    network = RoiFusionNet(channels=[8, 8, 12, 12], denoiser_channels=[4, 4, 6])
    torch.save(network.state_dict(), folder / "model.pt")
    bundle = bundle_copy(BUNDLE, folder, folder)
    assert json.loads((bundle / "configs" / "inference.json").read_text())["scheduler"] == "rflow"
    context = SimpleNamespace(artifacts={"bundle": str(bundle)})
    found = FusionModel()
    found.load_context(context)
    return found, context


def test_two_file_paths_become_result_files(model: tuple, tiny_dataset: Path, tmp_path: Path) -> None:
    case = tiny_dataset / "phantom_0001"
    pairs = pd.DataFrame([{"mri": str(case / "mri.nii.gz"), "ct": str(case / "ct.nii.gz"), "output_dir": str(tmp_path)}])
    rows = model[0].predict(model[1], pairs)
    assert rows["folder"].tolist() == [str(tmp_path / "phantom_0001")]
    written = {p.name for p in (tmp_path / "phantom_0001").iterdir()}
    assert written == {f"{stem}.nii.gz" for stem, _ in RESULT_FILES.values()} | {"result.json"}
    lesion = nib.load(tmp_path / "phantom_0001" / "lesion.nii.gz")
    volume = np.asarray(lesion.dataobj).sum() * np.prod(lesion.header.get_zooms()) / 1000
    assert rows["lesion_ml"].tolist() == [pytest.approx(volume, rel=1e-5)]


def test_bad_pairs_are_one_sentence(model: tuple, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model_input: expected the columns mri and ct, got image"):
        model[0].predict(model[1], pd.DataFrame([{"image": "x"}]))
    with pytest.raises(InputError, match=r"no\.nii\.gz: expected a volume, found no such file"):
        model[0].predict(model[1], pd.DataFrame([{"mri": str(tmp_path / "no.nii.gz"), "ct": "x"}]))


def test_a_training_without_weights_is_not_registered(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"register_model: expected best weights at .*, found none \(was there a validation\?\)"
    ):
        bundle_copy(BUNDLE, tmp_path, tmp_path / "copy")
