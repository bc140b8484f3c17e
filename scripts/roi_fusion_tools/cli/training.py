# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Commands around a training: train, evaluate, calibrate, doctor, check, export, federated."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any, cast

from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.errors import InputError

from .arguments import expect_there, knobs_elsewhere, with_knobs

__all__ = ["calibrate", "check", "doctor", "evaluate", "export", "federated", "train"]


def _find_shipped_weights(knobs: dict[str, Any]) -> None:
    """Put the file in the place of the word: where a wheel keeps the weights is nothing to look for."""
    if knobs.get("initial_weights") == "shipped":
        knobs["initial_weights"] = str(BUNDLE_ROOT / "models" / "model.pt")


@with_knobs("train", "synthesis", "tracking")
def train(
    *, output: str, dataset_dir: str | None = None, synthesis: bool = False, tracking: bool = False, **knobs: Any
) -> None:
    """Train on a folder of cases, or on heads painted from label maps.

    It starts from nothing, or from the weights that come with ROI Fusion: --initial_weights shipped. Under
    torchrun it trains on several GPUs: torchrun --nproc_per_node=2 -m roi_fusion_tools.cli train and the same options.

    Args:
        output: folder of the training: model.pt (best weights), last.pt (to resume from), history.jsonl, report.html and more.
        dataset_dir: folder <case>/{mri,ct[,lesion_mask,brain_mask,bone_mask]}.nii.gz. With --synthesis it is made.
        synthesis: paint MRI and CT anew at every step instead of reading cases.
        tracking: log to MLflow too (needs roi-fusion[tracking]).

    Example:
        roi-fusion train --dataset_dir cases --output run --max_epochs 100
        roi-fusion train --dataset_dir cases --output run --initial_weights shipped
        roi-fusion train --synthesis --label_maps heads.npz --lesions lesions.npz --output run
    """
    if dataset_dir is None and not synthesis:
        raise InputError("train: expected --dataset_dir, or --synthesis to paint heads, got neither")
    knobs_elsewhere(knobs, synthesis=synthesis, tracking=tracking)
    _find_shipped_weights(knobs)
    expect_there(dataset_dir=None if synthesis else dataset_dir)
    expect_there(**{n: knobs.get(n) for n in ("resume", "initial_weights", "label_maps", "lesions")})
    configs = ["train", *(["synthesis"] if synthesis else []), *(["multi_gpu_train"] if "LOCAL_RANK" in os.environ else [])]
    data = {} if dataset_dir is None else {"dataset_dir": dataset_dir}
    from roi_fusion.values import is_first_rank

    from .bundle import run_bundle

    run_bundle(configs, {"output_dir": output, **data, **knobs}, tracking=tracking)
    if dataset_dir is not None and is_first_rank():
        print(f"next: {shlex.join(['roi-fusion', 'evaluate', '--dataset_dir', dataset_dir, '--run_dir', output])}", flush=True)


@with_knobs("train", "evaluate", without=("evaluation_dir", "resume", "initial_weights", "publish_dir", "max_epochs"))
def evaluate(*, dataset_dir: str, run_dir: str, output: str | None = None, **knobs: Any) -> None:
    """Measure the weights of a training on the test split of its data set.

    The network alone is judged: it samples without guidance.

    Args:
        dataset_dir: folder of cases with known lesions.
        run_dir: folder of the training, whose model.pt is measured.
        output: folder to write to; <run_dir>/evaluation by default.

    Example:
        roi-fusion evaluate --dataset_dir cases --run_dir run
    """
    expect_there(dataset_dir=dataset_dir, run_dir=run_dir, checkpoint=knobs.get("checkpoint"))
    folders = {"dataset_dir": dataset_dir, "output_dir": run_dir, "evaluation_dir": output or str(Path(run_dir, "evaluation"))}
    from .bundle import run_bundle

    run_bundle(["train", "evaluate"], {**folders, **knobs})


def calibrate(
    *,
    checkpoint: str,
    dataset_dir: str,
    output: str,
    split: str | None = "val",
    num_inference_steps: int = 4,
    num_samples: int = 4,
    guidance: str = "logits",
    precision: str = "auto",
    modes: tuple[str, ...] = ("pair", "mri", "ct"),
    training_dir: str | None = None,
) -> None:
    """Fit temperature, mask threshold and volume interval on cases with known lesions.

    Args:
        checkpoint: trained weights.
        dataset_dir: folder of cases whose lesions are known.
        output: weights to write; a .json lies beside them.
        split: of the data set; None for all cases.
        num_inference_steps: sampling steps that the fit shall hold for.
        num_samples: draws that the fit shall hold for.
        guidance: off, logits or full.
        precision: auto, bf16 or fp32, of the network's passes.
        modes: pair, and where the weights shall serve for them mri and ct: the same cases with one image alone.
        training_dir: folder of 20 or more cases like those of the training; later cases are compared with them, and those
            that differ are marked as outside of the training.

    Example:
        roi-fusion calibrate --checkpoint run/model.pt --dataset_dir cases --output calibrated.pt
    """
    expect_there(checkpoint=checkpoint, dataset_dir=dataset_dir, training_dir=training_dir)
    from roi_fusion.engine.calibration import calibrate_checkpoint

    facts = calibrate_checkpoint(
        checkpoint,
        dataset_dir,
        split,
        output,
        modes,
        training_dir,
        num_inference_steps=num_inference_steps,
        num_samples=num_samples,
        guidance=guidance,
        precision=precision,
    )
    for name in ("temperature", "threshold", "volume_quantile"):
        print(f"{name}: {facts[name]:.3f}")
    print(f"{output}: from {facts['cases']} cases")


def doctor(run_dir: str) -> None:
    """Say what is wrong with a finished or running training, why, and what to do.

    Exits with 1 when there is a critical finding.

    Args:
        run_dir: folder of the training, with history.jsonl.

    Example:
        roi-fusion doctor run
    """
    expect_there(run_dir=run_dir)
    from roi_fusion.engine.doctor import prescription
    from roi_fusion.engine.doctor_chart import read_chart
    from roi_fusion.engine.doctor_rules import diagnose

    chart = read_chart(run_dir)
    print(prescription(chart))
    if any(f.severity == "critical" for f in diagnose(chart)):
        sys.exit(1)


def check(*config_files: str) -> None:
    """Check configs without running them, and name what is broken.

    Exits with 1 when something is.

    Args:
        config_files: JSON files, merged in order as --config_file of monai.bundle merges them.

    Example:
        roi-fusion check train.json evaluate.json
    """
    if not config_files:
        raise InputError("check: expected one or more config files, got none")
    from roi_fusion.config.faults import find_fault

    fault = find_fault(config_files)
    if fault is not None:
        sys.exit(str(fault))
    print(f"no fault in {', '.join(config_files)}")


def export(format: str, output: str | None = None, checkpoint: str | None = None) -> None:
    """Write the network as TorchScript or ONNX, and check the file against the network.

    TorchScript runs in plain torch, ONNX in onnxruntime. Takes half a minute for ONNX.

    Args:
        format: torchscript or onnx.
        output: file to write; model.ts or model.onnx beside the weights by default.
        checkpoint: weights; the shipped ones by default.

    Example:
        roi-fusion export torchscript --output model.ts
    """
    expect_there(checkpoint=checkpoint)
    if output is not None and Path(output).is_dir():
        raise InputError(f"output: expected a file to write, got the folder {output}")
    from roi_fusion.core.network import RoiFusionNet
    from roi_fusion.engine.prediction import Predictor
    from roi_fusion_tools.export import FORMATS, export_model

    network = cast(RoiFusionNet, Predictor(checkpoint, device="cpu").network)
    path = output or Path(checkpoint or BUNDLE_ROOT / "models" / "model.pt").with_name(f"model{FORMATS.get(format, '')}")
    difference = export_model(network, path, format)
    print(f"{path}: equal to the network to {difference:.1g}")


@with_knobs(
    "train", "tracking", without=("dataset_dir", "resume", "resume_changed", "publish_dir", "max_epochs", "run_name", "verbose")
)
def federated(
    *,
    dataset_dirs: tuple[str, ...],
    output: str,
    rounds: int = 5,
    local_epochs: int = 1,
    tracking: bool = False,
    **knobs: Any,
) -> None:
    """Train one model at several sites that do not share their cases, in NVIDIA FLARE's simulator.

    Needs roi-fusion[federated]. Each site trains on its own folder in a process of its own; the server averages
    what they learned.

    Args:
        dataset_dirs: two or more folders of cases with commas between, one for each site.
        output: folder to write to: model.pt (the final global weights), rounds.jsonl (what they reach at each site after each
            round), flare.log, and site-1, site-2 and so on, which belong to the sites.
        rounds: how often the sites' weights are averaged.
        local_epochs: epochs between two averages.
        tracking: each site logs to its own MLflow, site-1/train/mlruns.db (needs roi-fusion[tracking]).

    Example:
        roi-fusion federated --dataset_dirs hospital_a,hospital_b --output F --rounds 10 --tracking
    """
    knobs_elsewhere(knobs, tracking=tracking)
    _find_shipped_weights(knobs)
    initial_weights = knobs.pop("initial_weights", None)
    for dataset_dir in dataset_dirs:
        expect_there(dataset_dirs=dataset_dir)
    expect_there(initial_weights=initial_weights)
    from roi_fusion_tools.federated.job import run_federation

    run_federation(
        dataset_dirs,
        output,
        rounds=rounds,
        local_epochs=local_epochs,
        initial_weights=initial_weights,
        tracking=tracking,
        knobs=knobs,
    )
    print(f"global weights: {Path(output, 'model.pt')}")
