# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The training behind bundle/models/model.pt: data, five trainings, calibration; an interrupted call goes on where it was."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.data.cases import link_file
from roi_fusion.data.lesions import PackedLesions, parse_range
from roi_fusion.engine.calibration import calibrate_checkpoint
from roi_fusion.engine.checkpoint import publish_weights
from roi_fusion.engine.weights import sha256_of
from roi_fusion.errors import InputError
from roi_fusion.values import write_json

from .phantoms.render import PhantomConfig
from .phantoms.write import make_phantoms

__all__ = ["train_weights"]

#: Lesion masks from here on are for tests only.
FIRST_TEST_LESION = 800
COARSE = PhantomConfig(shape=(128, 128, 24), spacing_mm=(1.8, 1.8, 6.0), contrast="adc,dwi,t2,flair")
VARIED = PhantomConfig(varied_grid=True)
#: Most of these show what is learnt last: lesions in T1, then T2 and ADC.
HARD = PhantomConfig(varied_grid=True, contrast="t1,t1,t1,t2,adc")
#: New heads and lesions for the last training, more of them in the contrast that lesions are found worst in.
FRESH = PhantomConfig(varied_grid=True, contrast="adc,adc,t2,t1,dwi,flair")
_TRAINING = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "configs/train.json"]


def train_weights(
    output_dir: str,
    lesions: str,
    lesion_ids: str = "0:800",
    coarse_cases: int = 160,
    varied_cases: int = 136,
    hard_cases: int = 120,
    fresh_cases: int = 160,
    calibration_cases: int = 48,
    coarse_epochs: int = 37,
    varied_epochs: int = 39,
    hard_epochs: int = 21,
    long_epochs: int = 18,
    fresh_epochs: int = 60,
    publish: bool = False,
    num_workers: int = 2,
) -> None:
    """Make phantoms; train on coarse ones, grids of all kinds, the hard contrasts; calibrate; write <output_dir>/model.pt.

    Args:
        output_dir: folder of data, trainings and the weights.
        lesions: packed .npz file of real lesion masks.
        lesion_ids: FIRST:LAST; the last eighth validates and calibrates. Masks from 800 on are refused: they test.
        coarse_cases: phantoms of 128x128x24 voxels, on which lesions are learnt fast.
        varied_cases: phantoms of 0.4-1.2 mm in plane, 3-7 mm slices or 1 mm isotropic.
        hard_cases: further phantoms of varied grids, mostly of the contrasts that lesions are hard to see in.
        fresh_cases: phantoms of varied grids that no training before has seen.
        calibration_cases: phantoms of 256x256x26 voxels for temperature, threshold and volume interval.
        coarse_epochs: of the first training, 80 steps each.
        varied_epochs: of the second, 68 steps each.
        hard_epochs: of the third, on the varied and the hard phantoms, 128 steps each.
        long_epochs: of the fourth, on the same again from a rate of 4e-4.
        fresh_epochs: of the fifth, on the fresh phantoms, 80 steps each, with a CT up to 3 mm and 3° beside its place.
        publish: copy the weights to bundle/models/model.pt.
        num_workers: processes that draw phantoms.
    """
    first, last = parse_range(lesion_ids, FIRST_TEST_LESION + 100)
    if last > FIRST_TEST_LESION:
        raise InputError(f"lesion_ids: expected masks below {FIRST_TEST_LESION}, which are for training, got {lesion_ids}")
    root = Path(output_dir).resolve()
    held_out = last - max(1, (last - first) // 8)
    train_masks, held_masks = (PackedLesions(lesions, f"{a}:{b}") for a, b in ((first, held_out), (held_out, last)))

    def phantoms(name: str, config: PhantomConfig, count: int, seed: int, masks: PackedLesions = train_masks) -> Path:
        make_phantoms(root / name, count, config, lesions=masks, seed=seed, num_workers=num_workers)
        return root / name

    coarse_train = phantoms("coarse_train", COARSE, coarse_cases, 0)
    coarse_val = phantoms("coarse_val", COARSE, 12, 1, held_masks)
    varied_train = phantoms("varied_train", VARIED, varied_cases, 70)
    varied_val = phantoms("varied_val", VARIED, 6, 71, held_masks)
    hard_train = phantoms("hard_train", HARD, hard_cases, 72)
    fresh_train = phantoms("fresh_train", FRESH, fresh_cases, 74)
    coarse = _data_set(root / "coarse", [coarse_train], coarse_val)
    varied = _data_set(root / "varied", [varied_train], varied_val)
    hard = _data_set(root / "hard", [varied_train, hard_train], varied_val)
    fresh = _data_set(root / "fresh", [fresh_train], varied_val)
    calibration = phantoms("calibration", PhantomConfig(misregistration_mm=2.0), calibration_cases, 700, held_masks)

    shared = ["--batch_size", "2", "--preset", "stroke", "--precision", "bf16"]
    _train(
        root / "coarse_run",
        coarse,
        coarse_epochs,
        [*shared, "--learning_rate", "1e-3", "--warmup_steps", "100", "--val_interval", "6"],
    )
    fine = [
        *shared,
        "--patch_size",
        "[128,128,10]",
        "--alpha",
        "4",
        "--beta",
        "3",
        "--missing_modality",
        "0.1",
        "--final_learning_rate",
        "1e-5",
        "--warmup_steps",
        "50",
    ]
    for name, data, epochs, before, more in (
        ("varied_run", varied, varied_epochs, "coarse_run", ["--learning_rate", "6e-4"]),
        ("hard_run", hard, hard_epochs, "varied_run", ["--learning_rate", "6e-4", "--gamma", "6"]),
        ("long_run", hard, long_epochs, "hard_run", ["--learning_rate", "4e-4", "--gamma", "6"]),
        (
            "fresh_run",
            fresh,
            fresh_epochs,
            "long_run",
            ["--learning_rate", "5e-4", "--gamma", "6", "--jitter_mm", "3", "--jitter_degrees", "3"],
        ),
    ):
        start = ["--initial_weights", str(root / before / "model.pt"), "--val_interval", str(max(1, epochs // 2))]
        _train(root / name, data, epochs, [*fine, *start, *more])
    found = calibrate_checkpoint(root / "fresh_run" / "model.pt", calibration, None, root / "model.pt", precision="bf16")
    print(json.dumps(found, indent=2))
    print(f"{root / 'model.pt'} sha256 {sha256_of(root / 'model.pt')}")
    if publish:
        publish_weights(root, BUNDLE_ROOT / "models")


def _data_set(folder: Path, train: list[Path], val: Path) -> Path:
    """One data set of phantoms that lie in several folders: links to them, and the split."""
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, list[str]] = {"train": [], "val": []}
    for split, sources in (("train", train), ("val", [val])):
        for source in sources:
            for case in sorted(p for p in source.iterdir() if p.is_dir()):
                names[split].append(f"{source.name}_{case.name}")
                link_file(folder / names[split][-1], case)
    write_json(folder / "splits.json", names)
    return folder


def _train(run: Path, data: Path, epochs: int, knobs: list[str]) -> None:
    """One training by the bundle's own command, with its output in ``<run>.log`` and a bar of its epochs."""
    history = run / "history.jsonl"

    def done() -> int:
        return sum(1 for _ in history.open()) if history.is_file() else 0

    if done() >= epochs:
        return
    command = [*_TRAINING, "--dataset_dir", str(data), "--output_dir", str(run), "--max_epochs", str(epochs), *knobs]
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
