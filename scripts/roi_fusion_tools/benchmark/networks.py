# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the benchmark of quality trains: networks and ablations on the same crops for the same minutes of processor time."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose

from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.cases import CaseDataset, collate_cases, load_datalist
from roi_fusion.engine.weights import load_weights
from roi_fusion.errors import InputError
from roi_fusion.values import write_json

from .peers import PATCH_SIZE, SEGMENTERS, DiffusionPeer, MriLesionNet, UngatedNet, make_segmenter, train_peer, training_parts

__all__ = [
    "ABLATIONS",
    "DIFFUSION",
    "NETWORKS",
    "OURS",
    "Ablation",
    "crop_loader",
    "label_of",
    "train_networks",
    "trained_network",
]

logger = logging.getLogger(__name__)


#: The compared training of ours, and the plain diffusion.
OURS, DIFFUSION = "ours", "diffusion"


@dataclass(frozen=True)
class Ablation:
    """A shorter training of ours with something changed.

    Attributes:
        label: in tables.
        knobs: entries of ``train.json`` that differ.
        network: class of the network.
        registered: on the phantoms whose CT lies exactly on the MRI, as good registration leaves it.
    """

    label: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    network: type[RoiFusionNet] = RoiFusionNet
    registered: bool = False


_NO_JITTER = {"jitter_mm": 0.0, "jitter_degrees": 0.0}


_NO_GATE = {
    "network_def::_target_": "roi_fusion_tools.benchmark.peers.UngatedNet",
    "loss::_target_": "roi_fusion_tools.benchmark.peers.UngatedLoss",
}


ABLATIONS: dict[str, Ablation] = {
    "short": Ablation("ours, short"),
    "no_regional_losses": Ablation("short, no regional losses", {"alpha": 0.0, "beta": 0.0}),
    "no_gate": Ablation("short, no gate", _NO_GATE, UngatedNet),
    "mri_lesion_head": Ablation(
        "short, lesion head on the MRI alone",
        {"network_def::_target_": "roi_fusion_tools.benchmark.peers.MriLesionNet"},
        MriLesionNet,
    ),
    # Jitter can only be judged where the pairs have none of their own.
    "registered": Ablation("short, on registered pairs", registered=True),
    "registered_no_jitter": Ablation("short, on registered pairs, no jitter", _NO_JITTER, registered=True),
}


#: Everything that is trained.
NETWORKS = (*SEGMENTERS, OURS, *ABLATIONS, DIFFUSION)


def label_of(name: str) -> str:
    """What a training is called in tables."""
    return ABLATIONS[name].label if name in ABLATIONS else name


def trained_network(folder: Path, name: str) -> Any:
    """A network of :data:`NETWORKS` with the weights that :func:`train_networks` left in `folder`, for inference."""
    if name in SEGMENTERS:
        network: Any = make_segmenter(name)
    elif name == DIFFUSION:
        network = DiffusionPeer()
    else:
        network = ABLATIONS[name].network() if name in ABLATIONS else RoiFusionNet()
    return load_weights(network, folder / f"{name}.pt").eval()


def train_networks(
    names: Sequence[str],
    folder: Path,
    data: Callable[[bool], Path],
    *,
    cases: int,
    minutes: float,
    search_minutes: float,
    ablation_minutes: float,
    learning_rates: Sequence[float],
) -> None:
    """The trainings that `folder` has not: three short ones choose a learning rate, a long one is kept.

    Args:
        names: some of :data:`NETWORKS`.
        folder: gets ``<name>.pt`` and ``<name>.json``.
        data: gives the folder of phantoms, misregistered (False) or registered (True), when it is expected.
        cases: the first ones of a folder.
        minutes, search_minutes: of processor time, of the segmenters and of ours.
        ablation_minutes: of what takes the learning rate that ours chose.
        learning_rates: to choose from.
    """
    expected = [name for name in names if not (folder / f"{name}.pt").is_file()]
    if not expected:
        return
    folder.mkdir(exist_ok=True)
    loaded: tuple[Path, CaseDataset] | None = None
    for name in expected:
        ablation = ABLATIONS.get(name, Ablation(name))
        dataset_dir = data(ablation.registered)
        parts = training_parts(dataset_dir, patch_size=list(PATCH_SIZE), preset="stroke", precision="bf16", **ablation.knobs)
        if loaded is None or loaded[0] != dataset_dir:  # one set in memory at a time
            loaded = None
            preprocessing = parts.get_parsed_content("preprocessing", instantiate=True)
            loaded = dataset_dir, CaseDataset(load_datalist(dataset_dir)[:cases], preprocessing, num_workers=2)
        loader = crop_loader(parts, loaded[1])
        kind = name if name in (*SEGMENTERS, DIFFUSION) else "roi_fusion"
        if name in (*SEGMENTERS, OURS):
            search = [train_peer(kind, parts, loader, search_minutes, rate).facts() for rate in learning_rates]
            rate = min(search, key=lambda f: f["loss"] if math.isfinite(f["loss"]) else math.inf)["learning_rate"]
            budget = minutes
        else:
            search, rate, budget = [], _rate_of_ours(folder), ablation_minutes
        trained = train_peer(kind, parts, loader, budget, rate)
        logger.info("%s at %g: %d steps in %.1f minutes, loss %.4f", name, rate, trained.steps, trained.minutes, trained.loss)
        torch.save(trained.network.state_dict(), folder / f"{name}.pt")
        write_json(folder / f"{name}.json", {**trained.facts(), "search": search})


def _rate_of_ours(folder: Path) -> float:
    facts = folder / f"{OURS}.json"
    if not facts.is_file():
        raise InputError(
            f"{facts}: expected the training of ours, whose learning rate the ablations take; train {OURS!r} first"
        )
    return float(json.loads(facts.read_text())["learning_rate"])


def crop_loader(parts: Any, dataset: CaseDataset) -> Any:
    """A loader of training crops: the cached cases through this configuration's own augmentation."""
    augment = Compose([*parts.get_parsed_content("augmentation"), *parts.get_parsed_content("concatenation")])
    return DataLoader(
        Dataset(_Cached(dataset), augment), batch_size=2, shuffle=True, drop_last=True, collate_fn=collate_cases, num_workers=0
    )


class _Cached(Sequence):
    """Cases of a cached data set without transforms of their own."""

    def __init__(self, dataset: CaseDataset) -> None:
        self.items = [dataset[i] for i in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: Any) -> Any:
        return dict(self.items[i])
