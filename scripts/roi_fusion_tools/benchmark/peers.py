# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What the network is measured against: rules of fusion, and networks trained on the same crops for the same minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer, sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import DiffusionModelUNet, DynUNet, SegResNet
from monai.networks.schedulers import DDIMScheduler
from monai.utils import OptionalImportError
from torch import nn

from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.core.blocks import Pyramid, unfold_plane
from roi_fusion.core.channels import split_raw
from roi_fusion.core.intensity import fusion_sources
from roi_fusion.core.losses import RoiFusionLoss
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.core.target import ct_weight, fusion_target
from roi_fusion.engine.training import prepare_batch
from roi_fusion.errors import InputError

__all__ = [
    "PATCH_SIZE",
    "SEGMENTERS",
    "DiffusionPeer",
    "MriLesionNet",
    "TrainedPeer",
    "UngatedLoss",
    "UngatedNet",
    "laplacian_pyramid_fusion",
    "make_segmenter",
    "segment",
    "train_peer",
    "training_parts",
]

SEGMENTERS = ("segresnet", "dynunet")


#: Crop of all trainings here, in voxels; SegResNet halves every axis three times.
PATCH_SIZE = (128, 128, 8)


def laplacian_pyramid_fusion(image: torch.Tensor, levels: int = 4) -> torch.Tensor:
    """Laplacian pyramid fusion (Burt & Adelson 1983) of M and C': the stronger detail at each level, the mean at the base.

    Args:
        image: normalised MRI and CT, ``[1, 2, X, Y, Z]``.
        levels: of detail, in plane.

    Returns:
        ``[1, 1, X, Y, Z]``, 0 outside the head.
    """
    head = (image != 0).any(dim=1, keepdim=True)
    mri, ct = fusion_sources(image)
    planes = torch.cat([mri, ct])[:, 0].movedim(-1, 1)  # [2, Z, X, Y]
    details: list[torch.Tensor] = []
    for _ in range(levels):
        if min(planes.shape[-2:]) < 4:
            break
        small = F.avg_pool2d(F.pad(planes, (0, planes.shape[-1] % 2, 0, planes.shape[-2] % 2), mode="replicate"), 2)
        large = F.interpolate(small, size=planes.shape[-2:], mode="bilinear", align_corners=False)
        detail = planes - large
        details.append(torch.where(detail[:1].abs() >= detail[1:].abs(), detail[:1], detail[1:]))
        planes = small
    fused = planes.mean(0, keepdim=True)
    for detail in reversed(details):
        fused = F.interpolate(fused, size=detail.shape[-2:], mode="bilinear", align_corners=False) + detail
    return fused.movedim(1, -1)[None] * head


def make_segmenter(name: str) -> nn.Module:
    """SegResNet as MONAI's BraTS bundle sets it up, or DynUNet by nnU-Net's rules for slices some six voxels thick.

    nnU-Net (Isensee et al. 2021) pools an axis while its spacing is the finest, kernels are flat until all are alike, and
    features double from 32 to 320.
    """
    if name == "segresnet":
        return SegResNet(3, init_filters=16, in_channels=2, out_channels=1, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))
    if name == "dynunet":
        strides = [(1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 1), (2, 2, 1)]
        kernels = [(3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)]
        return DynUNet(3, 2, 1, kernels, strides, strides[1:], filters=(32, 64, 128, 256, 320, 320))
    raise InputError(f"peer: expected one of {', '.join(SEGMENTERS)}, got {name!r}")


class _HalfPrecision(nn.Module):
    """A network under autocast to bfloat16, in the memory layout that is fastest for it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16):
            return self.network(*inputs).float()


class DiffusionPeer(nn.Module):
    """The plain way: MONAI's 3-D DiffusionModelUNet predicts the noise of F*, with the images concatenated (Ho et al. 2020).

    Args:
        channels: widths; the default has about as many parameters as ours.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 80)) -> None:
        super().__init__()
        try:
            self.unet = DiffusionModelUNet(
                3, 3, 1, num_res_blocks=2, channels=list(channels), attention_levels=[False] * len(channels), norm_num_groups=16
            )
        except OptionalImportError as e:
            raise InputError('plain diffusion: expected einops, it is missing; pip install "roi-fusion[benchmark]"') from e
        self.divisor = 2 ** (len(channels) - 1)
        self.scheduler = DDIMScheduler(1000, schedule="linear_beta", clip_sample=False)

    def forward(self, image: torch.Tensor, state: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Noise in `state` ``[B, 1, X, Y, Z]`` at the timesteps `t`; sizes are padded to what three levels halve."""
        both = torch.cat([image, state], dim=1)
        size = both.shape[2:]
        padding = [p for n in reversed(size) for p in (0, -n % self.divisor)]
        out = self.unet(F.pad(both, padding, mode="replicate"), t)
        return out[:, :, : size[0], : size[1], : size[2]]

    def loss(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Mean square error of the predicted noise for a batch of :func:`~roi_fusion.engine.training.prepare_batch`."""
        image = batch["image"].float()
        weight = ct_weight(torch.maximum(batch["bone"], batch["dense"]), batch["brain"])
        clean, t = fusion_target(image, weight), torch.randint(0, 1000, (len(image),))
        noise = torch.randn_like(clean)
        with torch.autocast(image.device.type, dtype=torch.bfloat16):
            predicted = self(image, self.scheduler.add_noise(clean, noise, t), t)
        return F.mse_loss(predicted.float(), noise)

    @torch.inference_mode()
    def fuse(self, image: torch.Tensor, num_inference_steps: int = 50, seed: int = 0) -> torch.Tensor:
        """F by DDIM, ``[1, 1, X, Y, Z]``."""
        generator = torch.Generator().manual_seed(seed)
        state = torch.randn(1, 1, *image.shape[2:], generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            with torch.autocast(image.device.type, dtype=torch.bfloat16):
                noise = self(image, state, t[None]).float()
            state, _ = self.scheduler.step(noise, int(t), state)
        return state * (image != 0).any(dim=1, keepdim=True)


class UngatedNet(RoiFusionNet):
    """Ablation: F is what the last layer says, without gate and bound; the gate stays at ½. Trained by :class:`UngatedLoss`."""

    def compose(self, image: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        """Raw output ``[B, 5, X, Y, Z]`` → prediction, with channel 4 as the fused image itself and a gate of 0.5."""
        logits = split_raw(raw.float())
        head = (image != 0).any(dim=1, keepdim=True).to(logits.residual.dtype)
        half = torch.full_like(logits.gate, 0.5)
        return torch.cat([logits.residual * head, logits.lesion, logits.brain, logits.bone, half], dim=1)


class UngatedLoss(RoiFusionLoss):
    """The loss without its terms on gate and residual."""

    @staticmethod
    def _provenance(fused: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return fused.new_zeros(())


class MriLesionNet(RoiFusionNet):
    """Ablation: the lesion comes from a U-Net of its own that reads the MRI alone, not from the features that fuse."""

    def __init__(self, channels: Sequence[int] = (32, 64, 96, 160), *, embedding_channels: int = 128, **settings: Any) -> None:
        super().__init__(channels, embedding_channels=embedding_channels, **settings)
        self.lesion_pyramid = Pyramid(1, [int(c) for c in channels], embedding_channels)
        self.lesion_out = nn.Conv3d(int(channels[0]), 4, 1)
        nn.init.zeros_(self.lesion_out.weight)
        nn.init.constant_(self.lesion_out.bias, -3.0)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def encode(self, image: torch.Tensor, description: torch.Tensor) -> list[torch.Tensor]:
        """Features of the image pair, with those of the lesion pyramid, which sees the MRI alone, as the last."""
        features = super().encode(image, description)
        return [*features, self.lesion_pyramid(features[0][:, :1], description)[0]]

    def decode(self, features: list[torch.Tensor], x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Raw output ``[B, 5, X, Y, Z]`` whose lesion logit comes from the lesion pyramid."""
        raw = split_raw(super().decode(features[:-1], x_t, t))
        lesion = unfold_plane(self.lesion_out(F.silu(features[-1]))).permute(0, 1, 3, 4, 2)  # [B, 1, X, Y, Z]
        return torch.cat(raw._replace(lesion=lesion[:, :, : x_t.shape[2], : x_t.shape[3]]), dim=1)


@dataclass
class TrainedPeer:
    """A network after its minutes.

    Attributes:
        network: in evaluation mode.
        learning_rate: at the start; a cosine takes it to 0 over the minutes.
        steps: iterations done.
        minutes: of processor time in training, without loading.
        loss: mean of the last quarter.
    """

    network: nn.Module
    learning_rate: float
    steps: int
    minutes: float
    loss: float

    def facts(self) -> dict[str, Any]:
        """What the benchmark's JSON states about the training: learning rate, steps, minutes, loss and parameters."""
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "minutes": round(self.minutes, 2),
            "loss": round(self.loss, 5),
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }


def training_parts(dataset_dir: str | Path, **knobs: Any) -> ConfigParser:
    """``train.json`` with knobs, for its data, network and loss; the data set is loaded once and kept."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE_ROOT / "configs" / "train.json"))
    parser.update({"bundle_root": str(BUNDLE_ROOT), "dataset_dir": str(dataset_dir), **knobs})
    return parser


class _Clock:
    """Ends a training after some minutes and takes the learning rate down a cosine by the clock.

    It counts processor time, so that what else runs on the machine does not take from one training and not from another.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, minutes: float) -> None:
        self.optimizer, self.seconds, self.peak = optimizer, 60 * minutes, float(optimizer.param_groups[0]["lr"])
        self.losses: list[float] = []
        self.start = self.elapsed = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _begin(self, engine: Engine) -> None:
        self.start = time.process_time()

    def __call__(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self.losses.append(float(output[0]["loss"] if isinstance(output, list) else output["loss"]))
        self.elapsed = time.process_time() - self.start
        share = min(self.elapsed / self.seconds, 1.0)
        warm = min(1.0, len(self.losses) / 20)
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * warm * 0.5 * (1 + math.cos(math.pi * share))
        if share >= 1:
            engine.terminate()


def train_peer(name: str, parser: ConfigParser, dataloader: Any, minutes: float, learning_rate: float) -> TrainedPeer:
    """Train one network for some minutes on crops of the bundle's own training pipeline.

    Args:
        name: ``roi_fusion``, ``diffusion`` or one of :data:`SEGMENTERS`.
        parser: from :func:`training_parts`; gives network, loss and inferer of ours.
        dataloader: of training crops, the same for all.
        minutes: of processor time, after which the learning rate is 0.
        learning_rate: AdamW.
    """
    torch.manual_seed(0)
    loss: Any = DiceCELoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    inferer: Any = SimpleInferer()
    prepare: Any = _image_and_label
    if name == "roi_fusion":
        parser.parse(reset=True)
        model, loss, inferer = (parser.get_parsed_content(k) for k in ("denoiser", "loss", "train#inferer"))
        network, prepare = parser.get_parsed_content("network"), prepare_batch
    elif name == "diffusion":
        network = DiffusionPeer()
        model, prepare, loss = _LossOf(network), _image_and_batch, lambda pred, _: pred.mean()
    else:
        network = make_segmenter(name)
        model = _HalfPrecision(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01)
    optimizer.register_step_pre_hook(_skip_overflow)
    clock = _Clock(optimizer, minutes)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=100_000,
        train_data_loader=dataloader,
        network=model,
        optimizer=optimizer,
        loss_function=loss,
        inferer=inferer,
        prepare_batch=prepare,
        decollate=False,
        train_handlers=[clock],
    )
    trainer.run()
    last = clock.losses[-max(1, len(clock.losses) // 4) :]
    return TrainedPeer(network.eval(), learning_rate, len(clock.losses), clock.elapsed / 60, sum(last) / len(last))


def _skip_overflow(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Leave out a step whose gradient is not finite, as nnU-Net's gradient scaler does: one of them ends a training."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not all(bool(torch.isfinite(g).all()) for g in grads):
        optimizer.zero_grad(set_to_none=True)


class _LossOf(nn.Module):
    """Calls :meth:`DiffusionPeer.loss`, for a trainer that knows networks and losses only."""

    def __init__(self, peer: DiffusionPeer) -> None:
        super().__init__()
        self.peer = peer

    def forward(self, image: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.peer.loss(batch)


def _image_and_label(batch: Any, device: Any = None, non_blocking: bool = False, **_: Any) -> tuple:
    image, target, *_rest = prepare_batch(batch, device)
    return image, target["label"].float()


def _image_and_batch(batch: Any, device: Any = None, non_blocking: bool = False, **_: Any) -> tuple:
    image, target, *_rest = prepare_batch(batch, device)
    return image, target["label"], (target,), {}


@torch.inference_mode()
def segment(network: nn.Module, image: torch.Tensor, patch_size: Sequence[int] = PATCH_SIZE) -> torch.Tensor:
    """Lesion probability ``[1, 1, X, Y, Z]`` by patches of the training's size, with Gaussian blending, as nnU-Net infers."""
    half = _HalfPrecision(network)
    logits = sliding_window_inference(image, patch_size, 1, half, overlap=0.5, mode="gaussian")
    return torch.sigmoid(logits)  # type: ignore[arg-type]
