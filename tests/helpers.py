# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What more than one test file needs: small inputs with known answers."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from PIL import Image

from conftest import BUNDLE
from roi_fusion.core.intensity import brighten_bone
from roi_fusion.core.losses import COMPONENTS
from roi_fusion.core.schedule import Level
from roi_fusion.core.target import ct_weight, fusion_target
from roi_fusion.engine.evaluator import volume_class
from roi_fusion.values import PREDICTION_CHANNELS

#: Options of a run with a network that costs nothing, such as that of the fixture ``small_weights``.
SMALL = {"network_def#channels": [8, 8, 12, 12], "network_def#denoiser_channels": [4, 4, 6]}
FAST = {**SMALL, "num_inference_steps": 1, "num_samples": 1, "guidance": "off", "plausibility": "warn"}


def loss_target(batch: int = 2) -> dict[str, torch.Tensor]:
    """What the loss compares with: random volumes with a brain, a bone, blood and a lesion of known place."""
    torch.manual_seed(0)
    image = torch.randn(batch, 2, 32, 32, 4)
    image[:, :, :4] = 0
    masks = {k: torch.zeros(batch, 1, 32, 32, 4) for k in ("brain", "bone", "dense", "label")}
    masks["brain"][:, :, 10:26, 8:24] = masks["bone"][:, :, 6:9] = masks["dense"][:, :, 12:14, 12:14] = 1
    masks["label"][:, :, 18:23, 14:20, 1:3] = 1
    constants = {
        k: torch.full((batch,), v) for k, v in {"mri_mean": 0.5, "mri_std": 0.2, "ct_mean": 0.45, "ct_std": 0.2}.items()
    }
    return {"image": image, **masks, "label_known": torch.ones(batch), **constants}


def perfect_prediction(target: dict[str, torch.Tensor]) -> torch.Tensor:
    """The five channels that the loss should not punish: the fusion target, sure masks, the target's gate."""
    weight = ct_weight(torch.maximum(target["bone"], target["dense"]), target["brain"])
    logits = [20.0 * (2 * m - 1) for m in (target["label"], target["brain"] * (1 - target["bone"]), target["bone"])]
    return torch.cat([fusion_target(target["image"], weight), *logits, 1 - weight], dim=1)


def textured_head(depth: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A pair of textured volumes, a brain and a bone beside it."""
    torch.manual_seed(1)
    image = torch.nn.functional.avg_pool3d(torch.randn(1, 2, 48, 40, depth), (3, 3, 1), 1, (1, 1, 0)) * 2
    image[:, :, :4] = 0
    brain, bone = torch.zeros(1, 1, 48, 40, depth), torch.zeros(1, 1, 48, 40, depth)
    brain[:, :, 8:28], bone[:, :, 28:36] = 1, 1
    return image, brain, bone


def flat_logits(brain: torch.Tensor, bone: torch.Tensor, gate: float = 0.0) -> torch.Tensor:
    """Sure masks of brain and bone, no lesion, and one gate value everywhere."""
    flat = torch.full_like(brain, gate)
    return torch.cat([torch.full_like(brain, -4.0), 8 * brain - 4, 8 * bone - 4, flat, torch.zeros_like(brain)], dim=1)


#: A late step of the sampler: little noise is left.
LATE = Level(100.0, 0.9, 0.4)


#: Scale of a CT whose texture stays below 60 HU.
NO_BLOOD = (0.3, 0.02)


#: The constants that preprocessing records of a case.
INTENSITY = {
    "mri_low": 0.0,
    "mri_high": 950.0,
    "mri_mean": 0.5,
    "mri_std": 0.2,
    "ct_mean": 0.45,
    "ct_std": 0.2,
    "lower": 0.05,
    "upper": 1.0,
}


def predicted_case() -> dict:
    """A case of 8x8x3 voxels with a prediction whose values are known, air in the first two rows."""
    torch.manual_seed(0)
    image = torch.randn(2, 8, 8, 3) * 0.3
    image[:, :2] = 0
    image[1, 5] = image[1, 5].clamp(max=0.1)  # so that the next line stays in the linear part
    image[0, 5] = brighten_bone(image[1, 5])  # the sources agree here
    channels = {
        "fused": image[0] + 0.1,
        "lesion_prob": torch.rand(8, 8, 3),
        "uncertainty": torch.rand(8, 8, 3),
        "provenance": torch.rand(8, 8, 3),
        "residual": torch.full((8, 8, 3), 0.1),
        "lesion_std": torch.zeros(8, 8, 3),
    }
    pred = torch.stack([channels[n] for n in PREDICTION_CHANNELS])
    brain, bone = (torch.zeros(1, 8, 8, 3, dtype=torch.uint8) for _ in range(2))
    brain[:, 4:], bone[:, 2:4] = 1, 1
    return {"image": MetaTensor(image), "pred": MetaTensor(pred), "intensity": INTENSITY, "brain": brain, "bone": bone}


def meta(array: np.ndarray, affine: np.ndarray | None = None, **info: object) -> MetaTensor:
    """A channel-first MetaTensor of an array."""
    volume = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(array))[None].float(), affine=np.eye(4) if affine is None else affine
    )
    volume.meta.update(info)
    return volume


def head_ct(shape: tuple[int, int, int] = (24, 24, 5)) -> np.ndarray:
    """A CT in HU: air, a skull of 900 HU and a noisy brain of 35 HU."""
    ct = np.full(shape, -1000.0)
    ct[4:20, 4:20] = 900
    ct[6:18, 6:18] = np.random.default_rng(0).normal(35, 3, (12, 12, shape[2]))
    return ct


def engine_of(step=lambda engine, batch: None) -> Engine:
    """A quiet ignite engine with MONAI's iteration events."""
    engine = Engine(step)
    engine.register_events(*IterationEvents)
    engine.logger.disabled = True
    return engine


def case_item(name: str = "a", known: float = 1.0, spacing: tuple[float, float, float] = (1.0, 1.0, 5.0)) -> dict:
    """A preprocessed case of 24x24x4 voxels with masks of known place; `known` is 0 where nobody drew the lesion."""
    torch.manual_seed(len(name))
    image = torch.randn(2, 24, 24, 4)
    image[:, :3] = 0
    masks = {k: torch.zeros(1, 24, 24, 4, dtype=torch.uint8) for k in ("bone", "brain", "dense", "label")}
    masks["bone"][:, 4:6] = 1
    masks["brain"][:, 8:20, 4:20] = 1
    masks["label"][:, 10:14, 8:13, 1:3] = 1
    affine = np.diag([*spacing, 1.0])
    return {"case": name, "image": MetaTensor(image, affine=affine), **masks, "label_known": known, "intensity": INTENSITY}


def case_prediction(case: dict, fused: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """A prediction of a case: fused volume and lesion probability given, the other channels 0."""
    channels = {n: torch.zeros(1, 24, 24, 4) for n in PREDICTION_CHANNELS}
    channels["fused"], channels["lesion_prob"] = fused, probability
    return torch.cat([channels[n] for n in PREDICTION_CHANNELS])


def table_rows() -> list[dict]:
    """The rows of 30 cases and two methods, one lesion score missing, infinite PSNRs."""
    rng = np.random.default_rng(0)
    out = []
    for n in range(30):
        volume = float(rng.uniform(0, 40))
        dice = math.nan if n == 0 else float(rng.uniform(0.4, 0.9))
        base = {"case": f"c{n}", "lesion_ml": volume, "volume_class": volume_class(volume)}
        out.append(
            {
                **base,
                "method": "roi_fusion",
                "brain_ssim": float(rng.uniform(0.9, 1)),
                "lesion_dice": dice,
                "n_empty_pred": float(n == 0),
                "n_empty_ref": float(n == 0),
                "fused_at_bounds": 0.0,
            }
        )
        out.append({**base, "method": "paste", "brain_ssim": 1.0, "bone_psnr": math.inf})
    return out


#: A training's run.json, as the doctor reads it.
RUN = {
    "loss_weights": dict.fromkeys(COMPONENTS, 1.0),
    "learning_rate_plan": {"peak": 1e-4, "final": 5e-5, "warmup_steps": 200, "total_steps": 8000},
}


def healthy(epochs: int = 200, seed: int = 0) -> list[dict]:
    """A history as a good training writes it: noise, plateaus, a late jump, validation every fifth epoch."""
    rng = np.random.default_rng(seed)
    rows = []
    for e in range(1, epochs + 1):
        stage = 1 - math.exp(-e / 12) if e < 60 or e > 120 else 1 - math.exp(-60 / 12)  # a plateau of 60 epochs
        wobble = 1 + 0.04 * rng.standard_normal()
        losses = {"diffusion": 0.5, "brain": 0.15, "bone": 0.6, "lesion": 1.5, "masks": 3.0}
        row = {"epoch": e, "iteration": 40 * e}
        row.update({f"loss_{k}": v * (1.02 - stage) * wobble for k, v in losses.items()})
        row["loss_total"] = sum(row[f"loss_{k}"] for k in losses)
        shares = rng.dirichlet([4, 2, 8, 20, 30]) if e < 150 else np.array([0.04, 0.004, 0.2, 0.3, 0.456])  # brain has arrived
        row.update({f"gradient_share_{k}": float(s) for k, s in zip(losses, shares)})
        row["learning_rate"] = 1e-4 if 40 * e > 200 else 2e-5
        row.update(
            fused_min=-2.5 - 0.1 * rng.random(), fused_max=7 + rng.random(), fused_at_bounds=0.0, mri_std=1.0, ct_std=0.86
        )
        if e % 5 == 0:
            # The lesion head finds nothing at first, as real ones do.
            row["validation"] = {
                "brain_ssim": 0.99 * stage,
                "bone_ssim": 0.95 * stage,
                "bone_psnr": 28 * stage,
                "lesion_dice": 0.7 * stage if e > 10 else 0.0,
                "brain_ssim_context": 0.92 * stage,
                "bone_ssim_context": 0.8 * stage,
                "n_empty_pred": 20.0 if e <= 10 else 2.0,
                "n_empty_ref": 2.0,
                "n_cases": 20.0,
                "fused_at_bounds": 0.0,
            }
            row["baselines"] = {
                "paste": {"brain_ssim_context": 0.94, "bone_ssim_context": 0.5},
                "maximum": {"brain_ssim_context": 0.89, "bone_ssim_context": 0.8},
            }
        rows.append(row)
    return rows


def changed(rows: list[dict], since: int = 1, validation: dict | None = None, **values: float) -> list[dict]:
    """A history whose epochs from `since` on have other values."""
    for row in rows:
        if row["epoch"] >= since:
            row.update(values)
            if validation and "validation" in row:
                row["validation"].update(validation)
    return rows


def pair_of(dataset: Path, case: str = "phantom_0000") -> tuple[Path, Path]:
    """The MRI and the CT file of a case."""
    return dataset / case / "mri.nii.gz", dataset / case / "ct.nii.gz"


def documented_examples(tag: str = "") -> str:
    """The Python blocks of docs/python.md, those with `tag` behind the language."""
    text = (BUNDLE / "docs" / "python.md").read_text()
    return "\n".join(re.findall(rf"^```python{tag and ' ' + tag}\n(.*?)^```", text, flags=re.M | re.S))


def run_documented(folder: Path, dataset: Path, weights: Path, code: str) -> None:
    """Run code in a folder with the bundle, its weights and a pair, as the document says."""
    shutil.copytree(BUNDLE / "roi_fusion", folder / "bundle" / "roi_fusion", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(BUNDLE / "configs", folder / "bundle" / "configs")
    (folder / "bundle" / "models").mkdir(exist_ok=True)
    shutil.copy(weights, folder / "bundle" / "models" / "model.pt")
    for path in pair_of(dataset):
        shutil.copy(path, folder)
    environment = {**os.environ, "PYTHONPATH": str(folder / "bundle")}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def result_folder(root: Path, data: Path, name: str, facts: dict | None = None) -> Path:
    """A result folder of a phantom: the MRI itself as fused volume."""
    folder = root / name
    folder.mkdir(parents=True)
    mri = nib.load(data / name / "mri.nii.gz")
    array = np.asarray(mri.dataobj, np.float32)
    head = array > np.percentile(array, 60)
    volumes = {
        "fused": np.where(head, array, 0),
        "lesion": (array > np.percentile(array, 99)).astype(np.uint8),
        "provenance": np.where(head, 0.7, np.nan).astype(np.float32),
        "uncertainty": np.where(head, 0.1, 0).astype(np.float32),
    }
    for stem, volume in volumes.items():
        nib.save(nib.Nifti1Image(volume, mri.affine), folder / f"{stem}.nii.gz")
    content = {
        "mri": str(data / name / "mri.nii.gz"),
        "ct": str(data / name / "ct.nii.gz"),
        "lesion_ml": 1.5,
        "lesion_ml_interval": [1.0, 2.0],
        "largest_residual": 12.5,
        "num_inference_steps": 4,
        "num_samples": 2,
        "seed": 0,
        "guidance": {"mode": "off"},
        **(facts or {}),
    }
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def slice_pictures(root: Path, patients: dict[str, range], size: int = 64) -> tuple[Path, Path]:
    """PNG slices of CT and MRI of made-up patients, with marks that show how they are oriented."""
    ct_dir, mri_dir = root / "CT", root / "MRI"
    for folder in (ct_dir, mri_dir):
        folder.mkdir(parents=True)
    y, x = np.mgrid[:size, :size] - size / 2
    radius = np.hypot(x, y)
    for patient, numbers in patients.items():
        for n in numbers:
            ct, mri = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
            mri[radius < 26] = 60  # scalp, dark on CT
            ct[radius < 22] = 255
            ct[radius < 19] = 120
            mri[radius < 22] = 5
            mri[radius < 19] = 150
            mri[10:14, size // 2 - 2 : size // 2 + 2] = 250  # a mark in front
            ct[size // 2, size // 2 + 8] = 200 + n  # to the patient's left
            Image.fromarray(ct).save(ct_dir / f"{patient}{n:02d}.png")
            Image.fromarray(mri).save(mri_dir / f"{patient}{n:02d}.png")
    return ct_dir, mri_dir


SMALL_PHANTOM = {"shape": (80, 80, 14), "spacing_mm": (2.9, 2.9, 11.0)}


def byte_cases(folder: Path) -> list[dict]:
    """Two cases whose files hold fixed bytes, no volumes: for what looks at files and not into them."""
    out = []
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for stem in ("mri", "ct"):
            path = folder / name / f"{stem}.nii.gz"
            if not path.exists():
                path.write_bytes(f"{name}{stem}".encode() * 40000)
        out.append({"case": name, "image": str(folder / name / "mri.nii.gz"), "ct": str(folder / name / "ct.nii.gz")})
    return out
