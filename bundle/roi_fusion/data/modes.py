# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The same cases with both images, with the MRI alone and with the CT alone."""

from __future__ import annotations

from pathlib import Path

from .cases import CASE_FILES, link_file

__all__ = ["MODES", "link_mode", "mode_of"]

#: Mode → images that are seen.
MODES: dict[str, tuple[str, ...]] = {"pair": ("mri", "ct"), "mri": ("mri",), "ct": ("ct",)}
_MASKS = tuple(stem for stem in CASE_FILES.values() if stem not in MODES["pair"])


def mode_of(missing: str | None) -> str:
    """The mode of a preprocessed case by its ``missing`` entry.

    Example:
        >>> mode_of("ct"), mode_of("")
        ('mri', 'pair')
    """
    return {"ct": "mri", "mri": "ct"}.get(missing or "", "pair")


def link_mode(dataset_dir: str | Path, mode: str, target: str | Path) -> Path:
    """A folder of cases that links to the images of one mode and to all masks.

    Args:
        dataset_dir: folder of cases.
        mode: key of :data:`MODES`.
        target: folder to make the links in.

    Returns:
        `target`.
    """
    source, target = Path(dataset_dir), Path(target)
    for folder in sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = [
            f for stem in (*MODES[mode], *_MASKS) for f in (folder / f"{stem}.nii.gz", folder / f"{stem}.nii") if f.is_file()
        ]
        if not any(f.name.split(".")[0] in MODES[mode] for f in files):
            continue
        (target / folder.name).mkdir(parents=True, exist_ok=True)
        for file in files:
            link_file(target / folder.name / file.name, file)
    if (source / "splits.json").is_file():
        link_file(target / "splits.json", source / "splits.json")
    return target
