# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Commands for developers of the repository: ``roi-fusion dev NAME``."""

from __future__ import annotations

import sys
import tempfile

from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.errors import InputError

from .arguments import expect_there

__all__ = ["configs", "documents", "failures", "label_walk", "lesion_metrics", "package", "profile", "weights"]

SHIPPED = str(BUNDLE_ROOT / "models" / "model.pt")


def weights(
    *,
    output: str,
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
    """Repeat the training of the shipped weights: phantoms, five trainings, calibration; writes <output>/model.pt.

    An interrupted call goes on where it was.

    Args:
        output: folder of data, trainings and the weights.
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

    Example:
        roi-fusion dev weights --output build/weights --lesions lesions.npz
    """
    how = {k: v for k, v in locals().items() if k not in ("output", "lesions")}
    expect_there(lesions=lesions)
    from roi_fusion_tools.shipped_weights import train_weights

    train_weights(output, lesions, **how)


def documents(check: bool = False) -> None:
    """Write the generated parts of the documents again: the table of knobs and every measured number.

    Args:
        check: change nothing; exit with 1 when a document is not up to date.

    Example:
        roi-fusion dev documents
    """
    from roi_fusion_tools.documents import update_docs

    update_docs(check)


def configs(check: bool = False) -> None:
    """Lay out the bundle's configs: vectors and transforms on one line each, 4 spaces of indent.

    Args:
        check: change nothing; exit with 1 when a config is laid out otherwise.

    Example:
        roi-fusion dev configs
    """
    from roi_fusion_tools.config_format import config_files, format_file

    changed = [path.name for path in config_files() if not format_file(path, check)]
    if check and changed:
        sys.exit(f"error: expected the layout of roi-fusion dev configs, got another in {', '.join(changed)}")
    print(f"laid out: {', '.join(changed) or 'nothing to change'}")


def package(output: str = "dist", trial: bool = True) -> None:
    """Build the bundle's zip in the model zoo's layout and try it: unpacked elsewhere, it trains and runs inference.

    Args:
        output: folder of roi_fusion_bundle_v<version>.zip and its sha256.
        trial: unpack it elsewhere and run training and inference from there.

    Example:
        roi-fusion dev package --output dist
    """
    from roi_fusion_tools.package import try_package, write_package

    path = write_package(output)
    if trial:
        with tempfile.TemporaryDirectory() as folder:
            try_package(path, folder)
    print(f"{path} ({path.stat().st_size / 2**20:.1f} MB)")
    print(path.with_suffix(".zip.sha256").read_text().strip())


def failures(
    benchmark_dir: str,
    output: str = str(BUNDLE_ROOT / "docs" / "failures.png"),
    checkpoint: str = SHIPPED,
    precision: str = "auto",
) -> None:
    """Picture the worst cases of a benchmark: MRI, CT, fused volume, true (green) and found lesion (red).

    Args:
        benchmark_dir: --output of `roi-fusion benchmark quality`.
        output: picture to write.
        checkpoint: weights; the shipped ones by default.
        precision: auto, bf16 or fp32, of the network's passes.

    Example:
        roi-fusion dev failures bench --output failures.png
    """
    expect_there(benchmark_dir=benchmark_dir, checkpoint=checkpoint)
    from roi_fusion_tools.benchmark.failures import picture_failures

    picture_failures(benchmark_dir, output, checkpoint, precision)


def profile(
    *,
    mri: str,
    ct: str,
    checkpoint: str = SHIPPED,
    num_inference_steps: int = 4,
    num_samples: int = 1,
    guidance: str = "logits",
    precision: str = "auto",
    threads: int = 2,
    repeats: int = 2,
    table: bool = False,
) -> None:
    """Time one pair from files to files: imports, weights and the case in s, peak memory in GB, as one line of JSON.

    Args:
        mri: file of the MRI.
        ct: file of the CT.
        checkpoint: weights; the shipped ones by default.
        num_inference_steps: sampling steps.
        num_samples: draws.
        guidance: off, logits or full.
        precision: auto, bf16 or fp32.
        threads: processor threads.
        repeats: runs; the fastest counts.
        table: print PyTorch's table of operators too.

    Example:
        roi-fusion dev profile --mri mri.nii.gz --ct ct.nii.gz
    """
    expect_there(mri=mri, ct=ct, checkpoint=checkpoint)
    from roi_fusion_tools.benchmark.inference_time import profile_inference

    profile_inference(
        mri,
        ct,
        checkpoint,
        num_inference_steps,
        num_samples,
        guidance,
        precision,
        threads=threads,
        repeats=repeats,
        table=table,
    )


def lesion_metrics(volumes_ml: tuple[float, ...] = (2.0, 20.0, 120.0), repeats: int = 5) -> None:
    """Time our Dice, surface Dice and HD95 against MONAI's on the same masks, one line of JSON a lesion volume.

    Args:
        volumes_ml: lesion volumes in mL, as 2,20,120.
        repeats: calls of which the fastest counts.

    Example:
        roi-fusion dev lesion_metrics --volumes_ml 2,20
    """
    if repeats < 1:
        raise InputError(f"repeats: expected a whole number of 1 or more, got {repeats}")
    from roi_fusion_tools.benchmark.lesion_metrics import print_benchmark

    print_benchmark(volumes_ml, repeats)


def label_walk(
    studies: str = "label_work/phantoms",
    address: str = "http://127.0.0.1:8000",
    output: str = "label_work/walk.png",
    labels: int = 2,
    max_epochs: int = 40,
    learning_rate: float = 1e-3,
) -> None:
    """Do over REST what an annotator does with a running label server, and picture a study before and after.

    Args:
        studies: the folder that the server was started with, of <case>/{mri,ct,lesion_mask}.nii.gz; the true masks play
            the annotator.
        address: of the server.
        output: picture to write.
        labels: studies to submit.
        max_epochs: epochs to train; with so few studies an epoch is one step.
        learning_rate: of the training.

    Example:
        roi-fusion dev label_walk
    """
    from roi_fusion_tools.label_walk import walk

    walk(studies, address, output, labels, max_epochs, learning_rate)
