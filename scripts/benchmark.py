#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The benchmark: quality, speed and robustness, as JSON and as docs/benchmarks.md."""

from _cli import main
from roi_fusion.config.knobs import BUNDLE_ROOT
from roi_fusion.errors import InputError
from roi_fusion_tools.benchmark.networks import NETWORKS
from roi_fusion_tools.benchmark.quality import STAGES, QualityOptions, run_quality
from roi_fusion_tools.benchmark.robustness import run_robustness
from roi_fusion_tools.benchmark.speed import run_speed


def benchmark(
    name: str,
    output_dir: str,
    lesions: str | None = None,
    checkpoint: str = str(BUNDLE_ROOT / "models" / "model.pt"),
    stages: tuple[str, ...] = STAGES,
    cases: int = 60,
    train_cases: int = 64,
    minutes: float = 10.0,
    search_minutes: float = 1.5,
    ablation_minutes: float = 6.0,
    networks: tuple[str, ...] = NETWORKS,
    peer_cases: int = 24,
    diffusion_cases: int = 3,
    robustness_cases: int = 6,
    repeats: int = 2,
    num_workers: int = 2,
    precision: str = "auto",
    earlier: str = "",
) -> None:
    """Run one part of the benchmark; an interrupted one goes on where it stopped.

    Args:
        name: quality, speed or robustness.
        output_dir: folder of the data, the trainings and the results.
        lesions: packed .npz file of real lesion masks; quality and robustness need it.
        checkpoint: weights to measure.
        stages: parts of quality: train,shipped,peers,diffusion.
        cases: unseen phantoms of quality.
        train_cases: phantoms that the compared trainings see.
        minutes: of each compared training.
        search_minutes: of each of the three trainings that choose a learning rate.
        ablation_minutes: of each ablation of ours and of the plain diffusion.
        networks: trainings to do, so that several processes can share them.
        peer_cases: unseen phantoms for the trained networks.
        diffusion_cases: crops for the plain diffusion baseline.
        robustness_cases: unseen phantoms, each in every condition.
        repeats: of each measurement of speed; the fastest counts.
        num_workers: processes that draw phantoms.
        precision: auto, bf16 or fp32, of the network's passes in quality and robustness.
        earlier: quality.json of a run with the same options and other shipped weights; with --stages shipped its trained
            networks are not trained again.
    """
    if name not in ("quality", "speed", "robustness"):
        raise InputError(f"name: expected quality, speed or robustness, got {name!r}")
    if name == "speed":
        run_speed(output_dir, checkpoint, repeats)
    elif lesions is None:
        raise InputError("lesions: expected a packed .npz file of real lesion masks, got none")
    elif name == "robustness":
        run_robustness(output_dir, lesions, checkpoint, robustness_cases, precision)
    else:
        options = QualityOptions(
            output_dir,
            lesions,
            checkpoint,
            cases,
            train_cases,
            minutes,
            search_minutes,
            ablation_minutes,
            networks,
            peer_cases,
            diffusion_cases,
            num_workers=num_workers,
            precision=precision,
            earlier=earlier,
        )
        run_quality(options, stages)
    print(f"{output_dir}/{name}.json")


if __name__ == "__main__":
    main(benchmark)
