#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Build the zip that ships and try it: unpacked elsewhere, it trains one epoch and runs inference on phantoms."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from _cli import main
from roi_fusion.errors import InputError
from roi_fusion_tools.package import FOLDER_NAME, write_package
from roi_fusion_tools.phantoms.render import PhantomConfig
from roi_fusion_tools.phantoms.write import write_phantoms


def make_package(output_dir: str = "dist", trial: bool = True) -> None:
    """Write <output_dir>/roi_fusion_bundle_v<version>.zip and its sha256.

    Args:
        output_dir: folder of the zip.
        trial: unpack it elsewhere and run training and inference from there.
    """
    package = write_package(output_dir)
    if trial:
        with tempfile.TemporaryDirectory() as folder:
            _try(package, Path(folder))
    print(f"{package} ({package.stat().st_size / 2**20:.1f} MB)")
    print(package.with_suffix(".zip.sha256").read_text().strip())


def _try(package: Path, folder: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    data, root = folder / "data", folder / FOLDER_NAME
    list(write_phantoms(data, 4, PhantomConfig(shape=(48, 48, 8), spacing_mm=(4.8, 4.8, 18.0), lesion_free_share=0.0)))
    common = ["--dataset_dir", str(data)]
    _run(
        root,
        "training",
        "--config_file",
        "configs/train.json",
        *common,
        "--output_dir",
        str(folder / "run"),
        "--max_epochs",
        "1",
        "--val_interval",
        "1",
        "--patch_size",
        "[32,32,4]",
        "--initial_weights",
        str(root / "models" / "model.pt"),
    )
    _run(root, "--config_file", "configs/inference.json", *common, "--output_dir", str(folder / "results"))
    if not (folder / "results" / "report.html").is_file():
        raise InputError(f"{package}: expected a report from the unpacked package, found none")


def _run(root: Path, *arguments: str) -> None:
    # Without the checkout on the path: the package must bring its own code.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-m", "monai.bundle", "run", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{root}: expected the package to run, got: {(done.stdout + done.stderr).strip().splitlines()[-1]}")


if __name__ == "__main__":
    main(make_package)
