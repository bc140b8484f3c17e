# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Speed and memory as ratios within one run: inference from files to files and training steps."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.cases import CaseDataset, inference_datalist
from roi_fusion.data.results import versions
from roi_fusion.engine.training import prepare_batch
from roi_fusion.errors import InputError
from roi_fusion.values import write_json

from ..phantoms.render import PhantomConfig
from ..phantoms.write import write_phantoms
from .networks import crop_loader
from .peers import training_parts

__all__ = ["contiguous_copy", "run_speed"]

logger = logging.getLogger(__name__)


#: (steps, draws, guidance, threads, precision) of the runs from files to files; the others are compared with the first.
RUNS = (
    (4, 1, "logits", 2, "fp32"),
    (4, 1, "off", 2, "fp32"),
    (4, 1, "full", 2, "fp32"),
    (1, 1, "off", 2, "fp32"),
    (8, 1, "off", 2, "fp32"),
    (4, 4, "logits", 2, "fp32"),
    (4, 1, "logits", 1, "fp32"),
    (4, 1, "logits", 2, "bf16"),
    (4, 4, "logits", 2, "bf16"),
)


def run_speed(output_dir: str | Path, checkpoint: str | Path, repeats: int = 2) -> dict[str, Any]:
    """Measure everything on one 256×256×26 phantom and write ``speed.json``.

    Args:
        output_dir: folder of the phantom and the result.
        checkpoint: weights.
        repeats: of each measurement; the fastest counts.
    """
    if int(repeats) != repeats or repeats < 1:
        raise InputError(f"repeats: expected a whole number of 1 or more, got {repeats}")
    root = Path(output_dir)
    data = root / "speed_case"
    list(write_phantoms(data, 1, PhantomConfig(contrast="adc"), seed=1))
    case = data / "phantom_0000"
    runs = [_files_to_files(case, checkpoint, *run, repeats) for run in RUNS]
    content = {
        "files_to_files": runs,
        "guidance_cost": {
            "logits": runs[0]["case_s"] / runs[1]["case_s"] - 1,
            "full": runs[2]["case_s"] / runs[1]["case_s"] - 1,
        },
        "training": _training_steps(data, repeats),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "versions": versions(),
    }
    write_json(root / "speed.json", content)
    return content


def _files_to_files(
    case: Path, checkpoint: str | Path, steps: int, draws: int, guidance: str, threads: int, precision: str, repeats: int
) -> dict[str, Any]:
    """One fresh process, as a user starts it."""
    command = [
        sys.executable,
        "-m",
        "roi_fusion_tools.cli",
        "dev",
        "profile",
        "--mri",
        str(case / "mri.nii.gz"),
        "--ct",
        str(case / "ct.nii.gz"),
        "--checkpoint",
        str(checkpoint),
        "--num_inference_steps",
        str(steps),
        "--num_samples",
        str(draws),
        "--guidance",
        guidance,
        "--precision",
        precision,
        "--threads",
        str(threads),
        "--repeats",
        str(repeats),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise InputError(f"dev profile: expected a measurement, got: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    logger.info("%s", found)
    return found


def _fastest(run: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


class _DepthLast(nn.Module):
    """A convolution in the contiguous ``[B, C, X, Y, Z]`` layout; the tensors between stay in it."""

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()

        def turn(v: Any) -> Any:
            return v[1], v[2], v[0]

        self.convolution = nn.Conv3d(
            convolution.in_channels,
            convolution.out_channels,
            turn(convolution.kernel_size),
            turn(convolution.stride),
            turn(convolution.padding),
            bias=convolution.bias is not None,
        )
        with torch.no_grad():
            self.convolution.weight.copy_(convolution.weight.permute(0, 1, 3, 4, 2))
            if convolution.bias is not None and self.convolution.bias is not None:
                self.convolution.bias.copy_(convolution.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x.permute(0, 1, 3, 4, 2).contiguous()).permute(0, 1, 4, 2, 3)


def contiguous_copy(network: RoiFusionNet) -> RoiFusionNet:
    """The same network with every convolution in ``[B, C, X, Y, Z]`` contiguous layout, for comparison."""
    copy = RoiFusionNet()
    copy.load_state_dict(network.state_dict())

    def replace(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.Conv3d):
                setattr(module, name, _DepthLast(child))
            else:
                replace(child)

    replace(copy)
    return copy


def _training_steps(data: Path, repeats: int) -> dict[str, float]:
    """Steps a second of ours with cached cases, and of the same network in the contiguous layout that reads every case anew."""
    common = {"patch_size": [96, 96, 16], "preset": "stroke"}
    parts = training_parts(data, precision="bf16" if torch.backends.mkldnn.is_available() else "fp32", **common)
    listing = inference_datalist(data)
    start = time.perf_counter()
    dataset = CaseDataset(listing * 2, parts.get_parsed_content("preprocessing"), num_workers=1)
    loading = (time.perf_counter() - start) / 2
    loader = crop_loader(parts, dataset)
    augmentation = _fastest(lambda: next(iter(loader)), repeats)
    batch = next(iter(loader))
    image, target, *_ = prepare_batch(batch)
    network, loss = parts.get_parsed_content("network"), parts.get_parsed_content("loss")

    def step(model: nn.Module, half: bool) -> float:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        x_t, t = torch.randn(len(image), 2, *image.shape[2:]), torch.full((len(image),), 999.0)

        def once() -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                out = model.denoise(x_t, image, t)  # type: ignore[operator]
            loss(out, target).backward()
            optimizer.step()

        once()
        return _fastest(once, repeats + 1)

    half, single = step(network, True), step(network, False)
    plain = step(contiguous_copy(RoiFusionNet()), False)
    ours, theirs = half + augmentation, plain + augmentation + 2 * loading
    return {
        "step_bf16_s": half,
        "step_fp32_s": single,
        "step_contiguous_s": plain,
        "augmentation_s": augmentation,
        "loading_s_a_case": loading,
        "steps_a_second": 1 / ours,
        "steps_a_second_contiguous_uncached": 1 / theirs,
        "ratio": theirs / ours,
        "ratio_layout_alone": plain / single,
    }
