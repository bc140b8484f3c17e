# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""A whole data set: find the pairs, prepare what is not finished, and keep a record of all."""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from roi_fusion.data.cases import find_cases
from roi_fusion.data.naming import Naming
from roi_fusion.data.splits import make_splits, read_splits
from roi_fusion.errors import InputError
from roi_fusion.values import whole_file, write_json

from ..layouts import Found, find_pairs
from ..prepare_page import write_prepare_page
from .options import PrepareOptions
from .record import Record
from .storage import locked
from .workers import attempts

__all__ = ["prepare_dataset"]

logger = logging.getLogger(__name__)


def prepare_dataset(
    input_dir: str | Path,
    output_dir: str | Path,
    *,
    layout: str = "auto",
    contrast: str = "auto",
    masks_dir: str | Path | None = None,
    images: str | None = None,
    names: str = "hash",
    name_key: str | Path | None = None,
    num_workers: int = 2,
    options: PrepareOptions | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Find the pairs of a folder and write them as cases; those finished before are kept while their inputs stay the same.

    What a user made or changed in the output folder is never touched, and a finished case is never removed: where its raw files
    are gone, cannot be used any more or have changed under a mask drawn by hand, it stays and is listed as stale.

    Args:
        input_dir: where the data lies; never written to.
        output_dir: folder of cases; ``prepare.json``, ``prepare.html`` and ``errors.json`` lie in it.
        layout, contrast, masks_dir, images: see :func:`~roi_fusion_tools.layouts.find_pairs`.
        names, name_key: of cases that come as DICOM, see :class:`~roi_fusion.data.naming.Naming`.
        num_workers: processes; 0 or 1 works in this one.
        options: of every case.
        progress: show a bar.

    Returns:
        The content of ``prepare.json``.

    Raises:
        InputError: when there is no pair, every one was refused, or another run writes into `output_dir`.
    """
    options = options or PrepareOptions()
    if not isinstance(num_workers, int) or isinstance(num_workers, bool) or num_workers < 0:
        raise InputError(f"num_workers: expected a whole number of 0 or more, got {num_workers!r}")
    source, root = Path(input_dir).resolve(), Path(output_dir).resolve()
    if root == source or source in root.parents:
        raise InputError(f"output_dir: expected a folder outside of input_dir {input_dir}, got {output_dir}")
    naming = Naming(names, name_key, root)
    found = find_pairs(input_dir, layout, contrast=contrast, masks_dir=masks_dir, images=images, naming=naming)
    logger.info("%s", found.summary())
    for case in found.cases:
        for note in case.notes:
            if note.startswith("left alone"):
                logger.warning("%s: %s", case.case, note)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root):
        if found.splits is not None:
            renamed = {c.original: c.case for c in found.cases if c.original}
            if renamed:
                _rename_splits(found.splits.parent, root, renamed)
            else:
                _copy_splits(found.splits, root)
        record = Record(root, found, options)
        with tqdm(total=len(found.cases), desc="cases", unit="case", disable=not progress) as bar:
            for outcome in attempts(found.cases, root, options, num_workers):
                record.add(outcome)
                bar.update()
        _write_official_splits(found, root)
        content = record.write()
        for case, why in content["stale"].items():
            logger.warning("stale case %s: %s", case, why)
        write_prepare_page(root, content)
    if not content["counts"]["prepared"] + content["counts"]["kept"]:
        first = next(iter(content["errors"].values()))
        raise InputError(f"{input_dir}: expected at least one usable pair, got none of {len(found.cases)} ({first})")
    return content


def _write_official_splits(found: Found, root: Path) -> None:
    """``splits.json`` of what the data set's authors call training and test; their training cases are shared out as ever.

    Where they published one part alone, or the folder has splits, nothing is written.
    """
    parts = {part: {c.case for c in found.cases if c.part == part} for part in ("train", "test")}
    if not all(parts.values()) or (root / "splits.json").exists() or (root / "splits").exists():
        return
    there = find_cases(root, allow_missing=True)
    test = [c["case"] for c in there if c["case"] in parts["test"]]
    shared = make_splits([c for c in there if c["case"] in parts["train"]])
    if test and shared["train"]:
        write_json(
            root / "splits.json", {"train": shared["train"], "val": sorted(shared["val"] + shared["test"]), "test": test}
        )


def _rename_splits(source: Path, root: Path, renamed: dict[str, str]) -> None:
    """The splits that came with the data under the cases' new names, unless the output folder has some."""
    splits = read_splits(source)
    if splits is None or (root / "splits.json").exists() or (root / "splits").exists():
        return
    write_json(root / "splits.json", {part: [renamed[n] for n in names if n in renamed] for part, names in splits.items()})


def _copy_splits(splits: Path, root: Path) -> None:
    """The splits that came with the data, unless the output folder has some of its own: made by a user, or by a training."""
    files = sorted(p for p in splits.rglob("*") if p.is_file()) if splits.is_dir() else [splits]
    for file in files:
        target = root / file.relative_to(splits.parent)
        if not os.path.lexists(target):
            with whole_file(target) as scratch:
                shutil.copyfile(file, scratch)
        elif not target.is_file() or not filecmp.cmp(file, target, shallow=False):
            logger.warning("%s: differs from %s and was left alone", target, file)
