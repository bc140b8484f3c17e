# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The zip that ships: the model zoo's demands, the same bytes twice, and weights that are what they should be."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from conftest import BUNDLE
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.engine.weights import check_weights, sha256_of
from roi_fusion.errors import InputError
from roi_fusion_tools.package import FOLDER_NAME, bundle_files, try_package, write_package


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    for file in bundle_files():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(BUNDLE / file, folder / file)
    return folder


def test_the_same_files_give_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    (bundle / "roi_fusion" / "__pycache__").mkdir()
    (bundle / "roi_fusion" / "__pycache__" / "x.py").write_text("")
    (bundle / "models" / "previous.pt").write_bytes(b"")
    first = write_package(tmp_path / "a", bundle)
    (bundle / "LICENSE").touch()
    second = write_package(tmp_path / "b", bundle)
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".zip.sha256").read_text().split()[0] == sha256_of(first)
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
    assert all(n.startswith(f"{FOLDER_NAME}/") for n in names)
    assert not any(word in n for n in names for word in ("__pycache__", "previous", ".pyc"))
    for expected in ("LICENSE", "configs/metadata.json", "docs/README.md", "docs/data_license.txt", "models/model.pt"):
        assert f"{FOLDER_NAME}/{expected}" in names


def test_what_the_zoo_would_refuse_is_refused(bundle: Path, tmp_path: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    (bundle / "configs" / "metadata.json").write_text(json.dumps({**metadata, "version": "9.9.9"}))
    with pytest.raises(InputError, match=r"expected version 9\.9\.9 on top of the changelog"):
        write_package(tmp_path, bundle)
    (bundle / "docs" / "data_license.txt").unlink()
    with pytest.raises(InputError, match=r"data_license\.txt: expected this file in the package"):
        write_package(tmp_path, bundle)


def test_the_readme_has_the_zoos_headings() -> None:
    text = (BUNDLE / "docs" / "README.md").read_text()
    for heading in ("# Model Overview", "## Data", "## Performance", "## MONAI Bundle Commands", "# References", "# License"):
        assert heading in text, heading


def test_the_shipped_weights_are_a_plain_state_dict_of_the_noted_hash() -> None:
    weights = BUNDLE / "models" / "model.pt"
    assert weights.stat().st_size <= 25 * 2**20
    state = torch.load(weights, weights_only=True)
    assert all(isinstance(v, torch.Tensor) for v in state.values())
    assert {"temperature", "threshold", "volume_quantile"} <= set(state)
    assert check_weights(weights) == (BUNDLE / "models" / "model.pt.sha256").read_text().split()[0]


def test_wrong_weights_are_one_sentence(tmp_path: Path) -> None:
    good, path = BUNDLE / "models" / "model.pt", tmp_path / "model.pt"
    path.write_bytes(good.read_bytes()[:100_000])
    with pytest.raises(InputError, match=r"model\.pt: expected"):
        check_weights(path)
    torch.save(RoiFusionNet(channels=(8, 8, 12, 12), denoiser_channels=(4, 4, 6)).state_dict(), path)
    with pytest.raises(InputError, match="expected weights of this network, got another's"):
        check_weights(path)
    torch.save({"model": Path("x")}, path)
    with pytest.raises(InputError, match=r"model\.pt: expected"):
        check_weights(path)
    shutil.copyfile(good, path)
    path.with_suffix(".pt.sha256").write_text("0" * 64 + "  model.pt\n")
    with pytest.raises(InputError, match="expected the weights of sha256 000000000000"):
        check_weights(path)


@pytest.mark.slow
def test_the_package_trains_and_infers_where_it_is_unpacked(tmp_path: Path) -> None:
    try_package(write_package(tmp_path), tmp_path / "unpacked")
