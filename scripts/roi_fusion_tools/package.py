# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The zip that ships: the bundle in the model zoo's layout, the same bytes from the same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from roi_fusion.config.root import BUNDLE_ROOT
from roi_fusion.engine.weights import check_weights, sha256_of
from roi_fusion.errors import InputError

from .phantoms.render import PhantomConfig
from .phantoms.write import write_phantoms

__all__ = ["FOLDER_NAME", "bundle_files", "try_package", "write_package"]

FOLDER_NAME = "roi_fusion_bundle"


#: The model zoo takes no larger file.
LARGEST_FILE_MB = 25


_FOLDERS = ("configs", "docs", "models", "roi_fusion")


_ENDINGS = (".json", ".jsonl", ".conf", ".md", ".txt", ".png", ".jpg", ".pt", ".py", ".sha256", ".j2", ".css", ".js", ".typed")


_WANTED = (
    "LICENSE",
    "configs/metadata.json",
    "configs/train.json",
    "configs/inference.json",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
)


#: What every entry of the zip is dated, so that the same files give the same bytes.
_DATE = (2026, 1, 1, 0, 0, 0)


def bundle_files(bundle_root: str | Path = BUNDLE_ROOT) -> list[Path]:
    """What ships, relative and sorted: no caches, runs, data or hidden files."""
    root = Path(bundle_root)
    found = [root / "LICENSE"]
    for folder in _FOLDERS:
        found += [p for p in (root / folder).rglob("*") if p.is_file() and p.suffix in _ENDINGS]
    relative = sorted(p.relative_to(root) for p in found if p.is_file())
    return [
        p
        for p in relative
        if not any(part.startswith((".", "__")) and part != "__init__.py" for part in p.parts) and p.name != "previous.pt"
    ]


def write_package(output_dir: str | Path, bundle_root: str | Path = BUNDLE_ROOT) -> Path:
    """Check the bundle and write ``<output_dir>/roi_fusion_bundle_v<version>.zip`` and its ``.sha256``.

    Raises:
        InputError: when a file is missing or too large, the changelog does not know the version, or the weights do not fit.
    """
    root = Path(bundle_root)
    files = bundle_files(root)
    for name in _WANTED:
        if Path(name) not in files:
            raise InputError(f"{root / name}: expected this file in the package, found none")
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    version = str(metadata["version"])
    if next(iter(metadata["changelog"])) != version:
        raise InputError(f"{root}/configs/metadata.json: expected version {version} on top of the changelog, got another")
    for file in files:
        size = (root / file).stat().st_size / 2**20
        if size > LARGEST_FILE_MB:
            raise InputError(f"{root / file}: expected at most {LARGEST_FILE_MB} MB, got {size:.1f}")
    check_weights(root / "models" / "model.pt")
    target = Path(output_dir) / f"{FOLDER_NAME}_v{version}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for file in files:
            entry = zipfile.ZipInfo(f"{FOLDER_NAME}/{file.as_posix()}", _DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, (root / file).read_bytes())
    target.with_suffix(".zip.sha256").write_text(f"{sha256_of(target)}  {target.name}\n")
    return target


def try_package(package: str | Path, folder: str | Path) -> None:
    """Unpack the zip in an empty folder, and train one epoch and run inference there on phantoms.

    Raises:
        InputError: when the unpacked bundle does not run.
    """
    folder = Path(folder)
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    data, root = folder / "data", folder / FOLDER_NAME
    list(write_phantoms(data, 4, PhantomConfig(shape=(48, 48, 8), spacing_mm=(4.8, 4.8, 18.0), lesion_free_share=0.0)))
    common = ["--dataset_dir", str(data)]
    train = ["training", "--config_file", "configs/train.json", *common, "--output_dir", str(folder / "run")]
    short = ["--max_epochs", "1", "--val_interval", "1", "--patch_size", "[32,32,4]"]
    _run(root, *train, *short, "--initial_weights", str(root / "models" / "model.pt"))
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
