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
    output: str,
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
) -> None:
    """Train on painted heads, calibrate, and write <output>/model.pt; an interrupted call goes on where it was.

    Heads and lesions are split by their order in the files: the first 70 % of the heads and seven ninths of the lesions train,
    the next validate and calibrate, the last are kept for tests.

    Args:
        output: folder of cases, training and weights.
        label_maps: packed file or folder of label maps; the MNI atlas when None.
        lesions: packed .npz file of real lesion masks; procedural ones when None.
        epochs: of the training.
        cases_per_epoch: steps an epoch.
        learning_rate: highest rate.
        gamma: weight of the lesion in the loss.
        initial_weights: weights to start from; those of the bundle when None.
        calibration_cases: painted validation heads for temperature, threshold and volume intervals.
        known_cases: painted training heads that later cases are compared with.
        seed: of everything drawn.
        publish: copy the weights to bundle/models/model.pt.

    Example:
        roi-fusion dev weights --output build/weights --label_maps heads.npz --lesions lesions.npz
    """
    how = {k: v for k, v in locals().items() if k != "output"}
    expect_there(label_maps=label_maps, lesions=lesions, initial_weights=initial_weights)
    from roi_fusion_tools.weights_recipe import make_weights

    make_weights(output, **how)


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
