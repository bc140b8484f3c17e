# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The zip that ships: the bundle in the model zoo's layout, the same bytes from the same files."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

from .errors import InputError
from .knobs import BUNDLE_ROOT
from .network import RoiFusionNet
from .resume import load_weights

__all__ = ["FOLDER_NAME", "bundle_files", "check_weights", "sha256_of", "write_package"]

FOLDER_NAME = "roi_fusion_bundle"
#: The model zoo takes no larger file.
LARGEST_FILE_MB = 25
_FOLDERS = ("configs", "docs", "models", "roi_fusion")
_ENDINGS = (".json", ".jsonl", ".conf", ".md", ".txt", ".png", ".pt", ".py", ".sha256")
_WANTED = ("LICENSE", "configs/metadata.json", "configs/train.json", "configs/inference.json", "docs/README.md",
           "docs/data_license.txt", "models/model.pt")  # fmt: skip
#: What every entry of the zip is dated, so that the same files give the same bytes.
_DATE = (2026, 1, 1, 0, 0, 0)


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def check_weights(path: str | Path) -> str:
    """Load weights as the bundle does and compare them with ``<path>.sha256`` where there is one; returns the digest.

    Raises:
        InputError: for another network, a truncated file, pickled objects, or another hash.
    """
    path = Path(path)
    load_weights(RoiFusionNet(), path)
    digest, noted = sha256_of(path), path.with_suffix(path.suffix + ".sha256")
    if noted.is_file():
        wanted = noted.read_text().split()[0] if noted.read_text().split() else ""
        if wanted != digest:
            raise InputError(f"{path}: wanted the weights of sha256 {wanted[:12]}…, came {digest[:12]}…")
    return digest


def bundle_files(bundle_root: str | Path = BUNDLE_ROOT) -> list[Path]:
    """What ships, relative and sorted: no caches, runs, data or hidden files."""
    root = Path(bundle_root)
    found = [root / "LICENSE"]
    for folder in _FOLDERS:
        found += [p for p in (root / folder).rglob("*") if p.is_file() and p.suffix in _ENDINGS]
    relative = sorted(p.relative_to(root) for p in found if p.is_file())
    return [p for p in relative if not any(part.startswith((".", "__")) and part != "__init__.py" for part in p.parts)
            and p.name != "previous.pt"]  # fmt: skip


def write_package(output_dir: str | Path, bundle_root: str | Path = BUNDLE_ROOT) -> Path:
    """Check the bundle and write ``<output_dir>/roi_fusion_bundle_v<version>.zip`` and its ``.sha256``.

    Raises:
        InputError: when a file is missing or too large, the changelog does not know the version, or the weights do not fit.
    """
    root = Path(bundle_root)
    files = bundle_files(root)
    for name in _WANTED:
        if Path(name) not in files:
            raise InputError(f"{root / name}: wanted this file in the package, found none")
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    version = str(metadata["version"])
    if next(iter(metadata["changelog"])) != version:
        raise InputError(f"{root}/configs/metadata.json: wanted version {version} on top of the changelog, came another")
    for file in files:
        size = (root / file).stat().st_size / 2**20
        if size > LARGEST_FILE_MB:
            raise InputError(f"{root / file}: wanted at most {LARGEST_FILE_MB} MB, came {size:.1f}")
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
