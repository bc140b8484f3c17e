# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Writes phantoms as case folders, in parallel, with splits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import torch

from roi_fusion.console import progress_bar
from roi_fusion.data.lesions import PackedLesions
from roi_fusion.errors import InputError

from .render import PhantomConfig, draw_phantom

__all__ = ["make_phantoms", "write_phantoms"]


def write_phantoms(
    output_dir: str | Path,
    num_cases: int,
    config: PhantomConfig,
    *,
    lesions: PackedLesions | None = None,
    seed: int = 0,
    num_workers: int = 0,
) -> Iterator[str]:
    """Write cases as ``<output_dir>/<case>/<volume>.nii.gz`` and ``dataset.json``.

    The volumes are mri, ct, lesion_mask, brain_mask, bone_mask and hyperdense_mask.

    A folder that an interrupted call left is completed: cases of the same seed and configuration are kept.

    Args:
        output_dir: folder to write to.
        num_cases: number of cases.
        config: grid and contrast.
        lesions: real masks to draw from; procedural shapes when ``None``.
        seed: of the data set.
        num_workers: processes that draw beside this one's; 0 draws here.

    Yields:
        The name of each case once its files are written.
    """
    if int(num_cases) != num_cases or num_cases < 1:
        raise InputError(f"num_cases: expected a whole number of 1 or more, got {num_cases}")
    if seed < 0:
        raise InputError(f"seed: expected a whole number of 0 or more, got {seed}")
    if int(num_workers) != num_workers or num_workers < 0:
        raise InputError(f"num_workers: expected 0 or more, got {num_workers}")
    root = Path(output_dir)
    root.mkdir(parents=True, exist_ok=True)
    shapes = "procedural" if lesions is None else f"packed {lesions.positions[0]}:{lesions.positions[-1] + 1}"
    record: dict = {
        "generator": "roi_fusion_tools.phantoms.render",
        "seed": seed,
        "config": asdict(config),
        "lesions": shapes,
        "cases": {},
    }
    record = json.loads(json.dumps(record))  # as it will be read back
    listing = root / "dataset.json"
    if listing.is_file():
        found = json.loads(listing.read_text())
        if {k: v for k, v in found.items() if k != "cases"} == {k: v for k, v in record.items() if k != "cases"}:
            record["cases"] = {k: v for k, v in found["cases"].items() if (root / k / "bone_mask.nii.gz").is_file()}
    names = [f"phantom_{n:04d}" for n in range(num_cases)]
    missing = {name: (seed, n) for n, name in enumerate(names) if name not in record["cases"]}
    write = partial(_write_case, root, config, lesions)
    pool = None
    if num_workers and missing:
        pool = ProcessPoolExecutor(num_workers, get_context("spawn"), torch.set_num_threads, (1,))
    try:
        results = (pool.map if pool else map)(write, missing.keys(), missing.values())
        for name in names:
            if name in missing:
                record["cases"][name] = next(results)
                listing.write_text(json.dumps(record, indent=2))
            yield name
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def make_phantoms(output_dir: str | Path, num_cases: int, config: PhantomConfig, **how: Any) -> None:
    """:func:`write_phantoms` to its end, with a progress bar."""
    with progress_bar(num_cases, "phantoms", "case") as bar:
        for _ in write_phantoms(output_dir, num_cases, config, **how):
            bar.update()


def _write_case(
    root: Path, config: PhantomConfig, lesions: PackedLesions | None, name: str, seed: Sequence[int]
) -> dict[str, Any]:
    """Draw one case and write its volumes; returns its parameters."""
    phantom = draw_phantom(config, seed, lesions)
    folder = root / name
    folder.mkdir(exist_ok=True)
    volumes = {
        "mri": phantom.mri,
        "ct": phantom.ct,
        "lesion_mask": phantom.lesion,
        "brain_mask": phantom.brain,
        "bone_mask": phantom.bone,
        "hyperdense_mask": phantom.hyperdense,
    }
    for stem, volume in volumes.items():
        image = nib.Nifti1Image(volume, phantom.affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / f"{stem}.nii.gz")
    return phantom.parameters
