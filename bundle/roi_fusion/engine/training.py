# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the trainer needs: batches, the noising inferer, the module that DDP wraps, EMA weights and the learning-rate plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from monai.inferers import Inferer
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..core.network import RoiFusionNet
from ..core.precision import autocast_for
from ..core.schedule import Scheduler
from ..core.target import ct_weight, fusion_target, lesion_state
from ..errors import InputError

__all__ = ["DenoisingModel", "TrainingInferer", "make_ema", "plan_learning_rate", "prepare_batch", "start_process_group"]

_VOLUMES = ("image", "brain", "bone", "dense", "label")


_CONSTANTS = ("mri_mean", "mri_std", "ct_mean", "ct_std")


def prepare_batch(
    batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **_: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple, dict]:
    """A collated batch → (image ``[B, 2, X, Y, Z]``, target, no arguments, the target again for the inferer).

    The target holds the volumes ``image, brain, bone, dense, label`` and per case ``label_known``, ``contrast_facts`` and the
    constants of the normalisation, as plain tensors on `device`.
    """

    def plain(x: torch.Tensor) -> torch.Tensor:
        x = x.as_tensor() if hasattr(x, "as_tensor") else torch.as_tensor(x)
        return x.to(device, non_blocking=non_blocking)

    target = {k: plain(batch[k]) for k in _VOLUMES}
    target.update({k: plain(batch[k]).float() for k in ("label_known", "contrast_facts")})
    target.update({k: plain(batch["intensity"][k]).float() for k in _CONSTANTS})
    return target["image"].float(), target, (), {"target": target}


def _rename(state: dict[str, Any], old: str, new: str) -> None:
    """Begin the keys of a state_dict with `new` where they begin with `old`, in place."""
    for key in [k for k in state if k.startswith(old)]:
        state[new + key.removeprefix(old)] = state.pop(key)


def _without_wrapper(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    _rename(state, f"{prefix}network.", prefix)


def _with_wrapper(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    _rename(state, prefix, f"{prefix}network.")


class DenoisingModel(nn.Module):
    """The module that the trainer and DDP run: ``denoise`` of the network under autocast where it pays.

    Its state_dict has the network's own keys, so that weights go from a trainer to an evaluator and back as they are: MONAI's
    federated client ``MonaiAlgo`` hands them on by name.

    Args:
        network: the network; its parameters are the only ones.
        precision: see :func:`~roi_fusion.core.precision.autocast_for`.

    Example:
        >>> network = RoiFusionNet()
        >>> list(DenoisingModel(network).state_dict()) == list(network.state_dict())
        True
    """

    def __init__(self, network: RoiFusionNet, precision: str = "auto") -> None:
        super().__init__()
        autocast_for(precision, torch.device("cpu"))
        self.network, self.precision = network, precision
        self.register_state_dict_post_hook(_without_wrapper)
        self.register_load_state_dict_pre_hook(_with_wrapper)

    def forward(
        self, x_t: torch.Tensor, image: torch.Tensor, t: torch.Tensor, facts: torch.Tensor | None = None
    ) -> torch.Tensor:
        with autocast_for(self.precision, image.device):
            return self.network.denoise(x_t, image, t, facts)


class TrainingInferer(Inferer):
    """Noise the target state to a random level and let the network estimate it.

    Three quarters of the samples sit at the last timestep, where nothing of the answer is left in x_t and lesions must be found
    in the images; of these some start from x_T = 0, which is what ``forward`` denoises.

    Args:
        scheduler: from :func:`~roi_fusion.core.schedule.make_scheduler`.
        full_noise_share: share of samples at the last timestep.
        zero_share: share of those with x_T = 0.
    """

    def __init__(self, scheduler: Scheduler, full_noise_share: float = 0.75, zero_share: float = 0.4) -> None:
        for name, share in (("full_noise_share", full_noise_share), ("zero_share", zero_share)):
            if not 0 <= share <= 1:
                raise InputError(f"{name}: expected a share from 0 to 1, got {share}")
        self.scheduler, self.full_noise_share, self.zero_share = scheduler, full_noise_share, zero_share

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: nn.Module, *, target: Mapping[str, torch.Tensor], **_: Any
    ) -> torch.Tensor:
        weight = ct_weight(torch.maximum(target["bone"], target["dense"]), target["brain"])
        clean = torch.cat([fusion_target(inputs, weight), lesion_state(target["label"])], dim=1)
        count, last = len(inputs), self.scheduler.num_train_timesteps - 1
        # Drawn on the CPU, so that a seed means the same on every device.
        t = torch.randint(0, last + 1, (count,))
        t[torch.rand(count) < self.full_noise_share] = last
        zero = (t == last) & (torch.rand(count) < self.zero_share)
        noise = torch.randn(clean.shape).to(clean)
        t, zero = t.to(clean.device), zero.to(clean.device)
        x_t = self.scheduler.add_noise(clean, noise, t)
        x_t = torch.where(zero.view(-1, 1, 1, 1, 1), torch.zeros_like(x_t), x_t)
        return network(x_t, inputs, t.float(), target["contrast_facts"])


def make_ema(network: nn.Module, decay: float = 0.999) -> AveragedModel:
    """Exponential moving average of the weights with a warm-up: after n updates the decay is min(`decay`, (1+n)/(10+n)).

    The first update copies the network, so weights loaded after this call are not lost. Save ``.module``.

    Raises:
        InputError: when the decay is not within 0…1.
    """
    if not 0 <= decay < 1:
        raise InputError(f"ema_decay: expected a number from 0 to below 1, got {decay}")

    def average(averaged: torch.Tensor, current: torch.Tensor, updates: torch.Tensor | int) -> torch.Tensor:
        keep = min(decay, (1 + int(updates)) / (10 + int(updates)))
        return averaged + (1 - keep) * (current - averaged)

    return AveragedModel(network, avg_fn=average, use_buffers=True)


def plan_learning_rate(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int, final_learning_rate: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up to the optimizer's rate, then a cosine down to `final_learning_rate` at `total_steps`.

    Raises:
        InputError: when a number is negative or the final rate lies above the optimizer's.
    """
    peak = float(optimizer.param_groups[0]["lr"])
    if warmup_steps < 0 or not 0 <= final_learning_rate <= peak:
        raise InputError(
            f"learning rate: expected warmup_steps of 0 or more and a final rate from 0 to {peak:g}, "
            f"got {warmup_steps} and {final_learning_rate:g}"
        )
    warmup = min(int(warmup_steps), max(total_steps // 2, 1))  # a short run still reaches its peak
    floor = final_learning_rate / peak

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    plan = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    # For run.json, which the doctor compares the logged rates with.
    plan.roi_fusion_plan = {  # type: ignore[attr-defined]
        "peak": peak,
        "final": float(final_learning_rate),
        "warmup_steps": warmup,
        "total_steps": int(total_steps),
    }
    return plan


def start_process_group(device: torch.device) -> None:
    """Join the other processes that ``torchrun`` started: NCCL on CUDA, gloo elsewhere."""
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
