# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""How bundle/models/model.pt is made: training on painted heads, calibration, and what the weights know."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.data.synthesis.heads import HeadMaps, choose_ids
from roi_fusion.data.synthesis.unseen import write_cases
from roi_fusion.engine.calibration import calibrate_checkpoint
from roi_fusion.engine.checkpoint import publish_weights
from roi_fusion.engine.weights import sha256_of
from roi_fusion.errors import InputError

__all__ = ["make_weights"]

_CONFIGS = "['configs/train.json','configs/synthesis.json']"
_TRAINING = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", _CONFIGS]


def make_weights(
    output_dir: str,
    label_maps: str | None = None,
    lesions: str | None = None,
    epochs: int = 46,
    cases_per_epoch: int = 100,
    learning_rate: float = 5e-4,
    gamma: float = 18.0,
    initial_weights: str | None = None,
    calibration_cases: int = 36,
    known_cases: int = 42,
    seed: int = 11,
    publish: bool = False,
) -> dict[str, Any]:
    """Train on painted heads, calibrate, and write <output_dir>/model.pt; an interrupted call goes on where it was.

    Heads and lesions are split by their order in the files: the first 70 % of the heads and seven ninths of the lesions train,
    the next validate and calibrate, the last are kept for tests.

    Args:
        output_dir: folder of cases, training and weights.
        label_maps: packed file or folder of label maps; the MNI atlas when None.
        lesions: packed lesion masks; procedural ones when None.
        epochs: of the training.
        cases_per_epoch: steps an epoch, eight crops each.
        learning_rate: highest rate.
        gamma: weight of the lesion in the loss.
        initial_weights: weights to start from; those of the bundle when None.
        calibration_cases: painted validation heads for temperature, threshold and volume intervals.
        known_cases: painted training heads that later cases are compared with.
        seed: of everything drawn.
        publish: also copy the weights to bundle/models/model.pt.

    Returns:
        What was fitted, see :func:`~roi_fusion.engine.calibration.calibrate_checkpoint`.

    Raises:
        InputError: for unusable files, or when the training fails.
    """
    root = Path(output_dir).resolve()
    root.mkdir(parents=True, exist_ok=True)
    maps = HeadMaps(label_maps)
    files: dict[str, str | None] = {"label_maps": label_maps, "lesions": lesions}
    knobs: dict[str, Any] = {
        "max_epochs": epochs,
        "cases_per_epoch": cases_per_epoch,
        "learning_rate": learning_rate,
        "gamma": gamma,
        "warmup_steps": 100,
        "val_interval": max(1, epochs),
        "seed": seed,
        **{k: Path(v).resolve() for k, v in {**files, "initial_weights": initial_weights}.items() if v is not None},
    }
    _train(root / "run", epochs, [text for name, value in knobs.items() for text in (f"--{name}", str(value))])
    how: dict[str, Any] = {**files, "seed": seed}
    list(write_cases(root / "calibration", calibration_cases, **how))
    known: dict[str, Any] = {"heads": choose_ids(maps, None, "train"), "lesion_ids": "0:700" if lesions else None}
    list(write_cases(root / "known", known_cases, **how, **known))
    weights = root / "model.pt"
    found = calibrate_checkpoint(root / "run" / "model.pt", root / "calibration", None, weights, training_dir=root / "known")
    print(f"{weights}: sha256 {sha256_of(weights)}")
    if publish:
        publish_weights(root, BUNDLE_ROOT / "models")
    return found


def _train(run: Path, epochs: int, knobs: list[str]) -> None:
    """One training by the bundle's own command, with its output in ``<run>.log`` and a bar of its epochs."""
    history = run / "history.jsonl"

    def done() -> int:
        return sum(1 for _ in history.open()) if history.is_file() else 0

    if done() >= epochs:
        return
    command = [*_TRAINING, "--output_dir", str(run), *knobs]
    if (run / "last.pt").is_file():
        command += ["--resume", str(run / "last.pt")]
    with run.with_suffix(".log").open("a") as log, tqdm(total=epochs, initial=done(), desc=run.name, unit="epoch") as bar:
        process = subprocess.Popen(command, cwd=BUNDLE_ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(2)
                bar.update(done() - bar.n)
        finally:
            process.terminate()
    if process.returncode:
        raise InputError(f"{run.with_suffix('.log')}: expected a finished training, it ended with code {process.returncode}")
