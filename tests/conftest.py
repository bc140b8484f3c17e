# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from roi_fusion.core.network import RoiFusionNet
from roi_fusion_tools.phantoms.render import PhantomConfig
from roi_fusion_tools.phantoms.write import write_phantoms

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT / "scripts"))

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(scope="session", autouse=True)
def name_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key of case names: no test makes one in the home of whoever runs it."""
    key = tmp_path_factory.mktemp("settings") / "name_key"
    os.environ["ROI_FUSION_NAME_KEY"] = str(key)
    return key


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight phantoms of 48x48x8 voxels; treat as read-only, copy before changing."""
    folder = tmp_path_factory.mktemp("tiny")
    list(
        write_phantoms(folder, 8, PhantomConfig(shape=(48, 48, 8), spacing_mm=(4.8, 4.8, 18.0), lesion_free_share=0.0), seed=3)
    )
    return folder


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantoms of 96x96x16 voxels; read-only."""
    folder = tmp_path_factory.mktemp("small")
    list(
        write_phantoms(folder, 3, PhantomConfig(shape=(96, 96, 16), spacing_mm=(2.4, 2.4, 9.0), lesion_free_share=0.0), seed=4)
    )
    return folder


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the small network that ``helpers.SMALL`` names."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(RoiFusionNet(channels=(8, 8, 12, 12), denoiser_channels=(4, 4, 6)).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def net() -> RoiFusionNet:
    """A small network with random weights: zero-initialised layers would hide faults."""
    torch.manual_seed(0)
    net = RoiFusionNet(channels=(8, 8, 12, 12), denoiser_channels=(4, 4, 6), detail_channels=4).eval()
    for parameter in net.parameters():
        parameter.data += 0.06 * torch.randn_like(parameter)
    return net


def shared(name: str) -> Path:
    """A file beside the checkout; the test skips where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(scope="session")
def shared_preprocessing():
    """The preprocessing of train.json behind loading, as a Compose."""
    from monai.bundle import ConfigParser
    from monai.transforms import Compose

    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "train.json"))
    parser["plausibility"] = "off"  # the volumes of these tests are no heads of a plausible size
    steps = [parser.get_parsed_content(f"preprocessing#{i}") for i in range(len(parser["preprocessing"]))]
    loading = ("CompleteCased", "LoadVolumesd")
    return Compose([s for s in steps if type(s).__name__ not in loading])
