# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The knobs of the configs: one table that documents them and that checks what a user passes.

MONAI passes an unknown key silently (``--stepz 9``) and turns ``--name false`` into the truthy text ``'false'``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..core.choices import (
    GUIDANCE_MODES,
    GUIDANCE_SCHEDULES,
    HU_POINTS,
    MASK_NAMES,
    PLAUSIBILITY_MODES,
    PRECISIONS,
    PRESETS,
    SCALED_POINTS,
)

__all__ = ["KNOBS", "Knob", "expected", "knob_table"]


@dataclass(frozen=True)
class Knob:
    """One top-level key that a user turns.

    Attributes:
        kind: ``int``, ``float``, ``bool``, ``str``, ``words``, ``path``, ``ints``, ``points``, ``shard`` or ``expression``.
        default: as the configs write it.
        effect: what it does, with its unit.
        low, high: inclusive range of a number.
        choices: allowed words.
        optional: may be null.
        where: configs that have it.
    """

    kind: str
    default: Any
    effect: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    optional: bool = False
    where: str = "train"


_BOTH = "train, inference"


KNOBS: dict[str, Knob] = {
    "bundle_root": Knob("expression", "the bundle's folder", "folder that holds configs/ and models/", where=_BOTH),
    "dataset_dir": Knob("path", "<bundle_root>/data", "folder of cases", where=_BOTH),
    "output_dir": Knob(
        "path",
        "<bundle_root>/runs/latest",
        "folder for everything that is written; inference: <bundle_root>/results",
        where=_BOTH,
    ),
    "device": Knob("device", "cuda if there is one, else cpu", "torch device", where=_BOTH),
    "verbose": Knob(
        "bool", False, "true shows all options, and everything that MONAI, ignite and MLflow log, with its time", where=_BOTH
    ),
    "overwrite": Knob(
        "bool",
        False,
        "true computes all cases anew; otherwise those with a matching result are skipped",
        where="evaluate, inference",
    ),
    "shard": Knob(
        "shard",
        None,
        "K/N: only the Kth of N shares of the cases, for N processes that write to one folder; the command report then puts "
        "their tables together",
        optional=True,
        where="evaluate, inference",
    ),
    "cluster": Knob(
        "str",
        None,
        "local, slurm, or the address of a Dask scheduler: compute the cases on its workers; needs roi-fusion[cluster]",
        optional=True,
        where="evaluate, inference",
    ),
    "cluster_workers": Knob(
        "int",
        None,
        "worker processes of a local cluster (none: one for two processor cores, or for each GPU), or jobs of Slurm (none: 4)",
        low=1,
        optional=True,
        where="evaluate, inference",
    ),
    "cluster_memory": Knob(
        "str",
        None,
        "memory limit of each worker of a local cluster or Slurm, such as 4GiB; none: an equal share of the machine's, 4GiB",
        optional=True,
        where="evaluate, inference",
    ),
    "resume": Knob("path", None, "last.pt of a training to continue", optional=True),
    "resume_changed": Knob("bool", False, "true resumes although cases were added, removed or changed since"),
    "initial_weights": Knob(
        "path", None, "model.pt to start a new training from, such as the shipped one on your own pairs", optional=True
    ),
    "publish_dir": Knob(
        "path",
        "none; models/ where MONAI Label trains",
        "folder that receives the best weights of a training as model.pt; the previous ones are kept as previous.pt",
        optional=True,
    ),
    "checkpoint": Knob(
        "path", "models/model.pt", "weights to evaluate or run; evaluation: <output_dir>/model.pt", where="evaluate, inference"
    ),
    "split": Knob(
        "str",
        None,
        "train, val or test: run on one split; evaluation: test",
        choices=("train", "val", "test"),
        optional=True,
        where="evaluate, inference",
    ),
    "mri": Knob(
        "path",
        None,
        "MRI of a single pair, instead of dataset_dir: a file, a DICOM folder or DICOM files with commas between",
        optional=True,
        where="inference",
    ),
    "ct": Knob("path", None, "CT of a single pair, in the same forms", optional=True, where="inference"),
    "dicom": Knob(
        "bool",
        False,
        "true also writes the results of --mri as DICOM, where it is a DICOM folder; needs highdicom",
        where="inference",
    ),
    "bids": Knob(
        "bool",
        False,
        "true also writes the results as BIDS derivatives to <output_dir>/derivatives/roi_fusion",
        where="inference",
    ),
    "names": Knob(
        "str",
        "hash",
        "name of a case whose images are DICOM: hash, a keyed hash of its PatientID and series; keep, the name of its folder",
        choices=("hash", "keep"),
        where="inference",
    ),
    "name_key": Knob(
        "path",
        None,
        "file with the key of the hash, beside which names.csv maps names back; none: roi_fusion/name_key in ~/.config",
        optional=True,
        where="inference",
    ),
    "register": Knob(
        "bool",
        False,
        "true first registers each CT to its MRI by mutual information; needs itk and about 10 s per case",
        where=_BOTH,
    ),
    "allow_missing": Knob(
        "bool", False, "true also trains on cases without their MRI or their CT; inference always takes them", where="train"
    ),
    "plausibility": Knob(
        "str",
        "refuse",
        "refuse or warn of a pair that cannot be a head with its CT in HU, or whose images lie apart; off skips the check",
        choices=PLAUSIBILITY_MODES,
        where=_BOTH,
    ),
    "evaluation_dir": Knob("path", "<output_dir>/evaluation", "folder for the results of an evaluation", where="evaluate"),
    "preset": Knob(
        "str",
        "default",
        "weights (α, β, γ) of brain, bone and lesion terms: " + "; ".join(f"{k} {v}" for k, v in PRESETS.items()),
        choices=tuple(PRESETS),
    ),
    "alpha": Knob("float", None, "weight of the brain term, replaces the preset's", low=0, optional=True),
    "beta": Knob("float", None, "weight of the bone term, replaces the preset's", low=0, optional=True),
    "gamma": Knob("float", None, "weight of the lesion term, replaces the preset's", low=0, optional=True),
    "roi_weight": Knob("float", 1.0, "λ, weight of all regional terms against diffusion", low=0),
    "max_epochs": Knob("int", 200, "epochs", low=1),
    "batch_size": Knob("int", 2, "cases per batch", low=1),
    "samples_per_case": Knob("int", 1, "crops per case; each counts towards the batch", low=1),
    "patch_size": Knob("ints", [96, 96, 16], "crop size in voxels, slice axis last", low=1),
    "learning_rate": Knob("float", 1e-4, "learning rate of AdamW after the warm-up; 5e-4 to 1e-3 suits short runs", low=0),
    "final_learning_rate": Knob("float", 5e-5, "learning rate at the end of the cosine decay", low=0),
    "warmup_steps": Knob("int", 200, "iterations of linear warm-up", low=0),
    "weight_decay": Knob("float", 0.01, "weight decay of AdamW", low=0),
    "gradient_clip": Knob("float", 1.0, "largest gradient norm", low=1e-9),
    "ema_decay": Knob("float", 0.999, "decay of the averaged weights, which are validated and saved", low=0, high=0.999999),
    "precision": Knob(
        "str",
        "auto",
        "auto: bfloat16 on CUDA and on a CPU with avx512_bf16 or amx_bf16, float32 elsewhere; bf16 and fp32 force one",
        choices=PRECISIONS,
        where=_BOTH,
    ),
    "jitter_mm": Knob("float", 2.0, "largest shift of the CT in training, mm along each axis", low=0),
    "jitter_degrees": Knob("float", 2.0, "largest rotation of the CT in training, degrees about each axis", low=0),
    "missing_modality": Knob(
        "float", 0.0, "share of samples whose MRI or CT is hidden, so that the weights serve for one image alone", low=0, high=1
    ),
    "stop_on": Knob(
        "str",
        "never",
        "critical: the doctor ends the training at a critical finding; never: it only reports it",
        choices=("never", "critical"),
    ),
    "val_interval": Knob("int", 5, "epochs between validations", low=1),
    "cache_rate": Knob("float", 1.0, "share of the cases that is kept in memory after loading", low=0, high=1),
    "num_workers": Knob("int", 0, "processes that load batches", low=0, where=_BOTH),
    "seed": Knob("int", 0, "seed of splits, crops, noise and initial weights", low=0, where=_BOTH),
    "scheduler": Knob(
        "str", "ddim", "noise schedule: ddim, or rflow for rectified flow", choices=("ddim", "rflow"), where=_BOTH
    ),
    "num_inference_steps": Knob("int", 4, "sampling steps", low=1, high=1000, where=_BOTH),
    "num_samples": Knob(
        "int", 4, "draws per case for probability and uncertainty; 1 in the validation of a training", low=1, where=_BOTH
    ),
    "guidance": Knob(
        "str",
        "logits",
        "ROI guidance of the sampler: off, on the logits, or full (through the network)",
        choices=GUIDANCE_MODES,
        where="inference",
    ),
    "guidance_alpha": Knob("float", 2.0, "weight of the brain term in the guidance", low=0, where="inference"),
    "guidance_beta": Knob("float", 0.5, "weight of the bone term in the guidance", low=0, where="inference"),
    "guidance_gamma": Knob("float", 0.06, "largest step of the lesion logit, as a share of η", low=0, where="inference"),
    "guidance_strength": Knob(
        "float",
        1.0,
        "η; with guidance on the logits, each update moves a voxel by the share η·σ(κ·u) of the way to the optimum of its "
        "windows, by 4/n of that with n > 4 sampling steps",
        low=0,
        where="inference",
    ),
    "guidance_schedule": Knob(
        "str", "constant", "course of η over the steps: constant or rising", choices=GUIDANCE_SCHEDULES, where="inference"
    ),
    "guidance_kappa": Knob(
        "float", 2.0, "κ of σ(κ·u): the larger the entropy u of the gate, the longer the step", low=0, where="inference"
    ),
    "guidance_updates": Knob("int", 2, "gradient updates in each sampling step", low=1, where="inference"),
    "guidance_masks": Knob(
        "words",
        [],
        "masks of the case folder that guide instead of the network's own: brain_mask, bone_mask, lesion_mask",
        choices=MASK_NAMES,
        where="inference",
    ),
    "roi_size": Knob(
        "ints",
        [320, 320, 40],
        "largest volume in voxels that is denoised in one piece; larger ones are denoised tile by tile",
        low=16,
        where=_BOTH,
    ),
    "hu_points": Knob(
        "points",
        list(HU_POINTS),
        "nodes in HU of the CT's piecewise linear contrast curve; must be those that the weights were trained with",
        where=_BOTH,
    ),
    "scaled_points": Knob("points", list(SCALED_POINTS), "values of the contrast curve at hu_points, 0 to 1", where=_BOTH),
    "label_maps": Knob(
        "path",
        None,
        "packed file or folder of NIfTI label maps to paint heads from; none: the MNI atlas",
        optional=True,
        where="synthesis",
    ),
    "lesions": Knob("path", None, "packed lesion masks (.npz); none: procedural ones", optional=True, where="synthesis"),
    "heads": Knob("ids", None, "ids of the heads that train; none: the first 70 %", optional=True, where="synthesis"),
    "val_heads": Knob("ids", None, "ids of the heads that validate; none: the next 15 %", optional=True, where="synthesis"),
    "lesion_ids": Knob(
        "str", None, "FIRST:LAST of the lesions that train; none: seven ninths", optional=True, where="synthesis"
    ),
    "val_lesion_ids": Knob(
        "str", None, "FIRST:LAST of the lesions that validate; none: the next ninth", optional=True, where="synthesis"
    ),
    "cases_per_epoch": Knob("int", 100, "heads painted an epoch", low=1, where="synthesis"),
    "val_cases": Knob("int", 8, "painted heads that validate, written to dataset_dir", low=1, where="synthesis"),
    "lesion_free_share": Knob("float", 0.15, "share of painted heads without a lesion", low=0, high=1, where="synthesis"),
    "stripped_share": Knob("float", 0.4, "share of painted MRIs that show the brain alone", low=0, high=1, where="synthesis"),
    "no_ct_share": Knob("float", 0.3, "share of painted heads without a CT", low=0, high=1, where="synthesis"),
    "no_mri_share": Knob("float", 0.05, "share of painted heads without an MRI", low=0, high=1, where="synthesis"),
    "free_contrast_share": Knob(
        "float", 0.15, "share of painted MRIs whose tissues are as bright as chance has it", low=0, high=1, where="synthesis"
    ),
    "painting_uses": Knob("int", 2, "how often crops are cut from each painted head", low=1, where="synthesis"),
    "tracking_uri": Knob(
        "str",
        "sqlite:///<output_dir>/mlruns.db",
        "address that MLflow logs to; the environment variable MLFLOW_TRACKING_URI takes precedence",
        where="tracking",
    ),
    "experiment_name": Knob("str", "roi_fusion", "name of the MLflow experiment", where="tracking"),
    "run_name": Knob("str", None, "name of the MLflow run; a new unique one by default", optional=True, where="tracking"),
    "register_model": Knob(
        "str", None, "name under which the best weights go into MLflow's model registry", optional=True, where="tracking"
    ),
    "system_metrics": Knob(
        "bool",
        False,
        "true also logs processor, memory, disk, network and GPU every 10 s to MLflow; needs psutil, for the GPU nvidia-ml-py",
        where="tracking",
    ),
}


def expected(knob: Knob) -> str:
    """The values that a knob takes, in words, such as "a whole number of 1 or more"."""
    if knob.kind == "words":
        return "a list of " + ", ".join(knob.choices)
    if knob.choices:
        return "one of " + ", ".join(knob.choices)
    noun = {
        "int": "a whole number",
        "float": "a number",
        "ints": "three whole numbers",
        "path": "a path",
        "points": "two or more rising numbers",
        "device": "cpu, cuda or cuda:N",
        "bool": "true or false",
        "ids": "ids with commas",
        "shard": "K/N with K from 1 to N",
    }
    text = noun.get(knob.kind, "a value")
    if knob.low > -math.inf and knob.high < math.inf:
        return f"{text} from {knob.low:g} to {knob.high:g}"
    return f"{text} of {knob.low:g} or more" if knob.low > -math.inf else text


def knob_table() -> str:
    """The table of knobs in Markdown, for ``docs/README.md``."""
    lines = ["| knob | default | range | effect | in |", "|---|---|---|---|---|"]
    for name, knob in KNOBS.items():
        default = "none" if knob.default is None else str(knob.default)
        lines.append(f"| `{name}` | {default} | {expected(knob)} | {knob.effect} | {knob.where} |")
    return "\n".join(lines)
