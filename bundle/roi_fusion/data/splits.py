# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Train, validation and test parts of a data set, made and read by patient: two cases of one patient are no two samples."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..values import read_json
from .grids import spacing_mm
from .io import read_volume

__all__ = ["PARTS", "by_subject", "hold_back", "make_splits", "read_splits", "subject_of"]

logger = logging.getLogger(__name__)


PARTS = ("train", "val", "test")


_SHARES = (0.70, 0.15, 0.15)


def subject_of(case: str, folder: str | Path | None = None) -> str:
    """The patient that a case belongs to.

    ``subject`` of ``case.json`` by ``roi-fusion prepare``, else the first entity of a BIDS-like name, else the name.

    Args:
        case: name of the case.
        folder: of the case, where ``case.json`` may lie.

    Example:
        >>> subject_of("sub-01_ses-2"), subject_of("patient7")
        ('sub-01', 'patient7')
    """
    if folder is not None:
        try:
            facts = read_json(Path(folder) / "case.json")
        except (OSError, ValueError):  # none, or one of another program
            facts = None
        subject = facts.get("subject") if isinstance(facts, dict) else None
        if isinstance(subject, str) and subject:
            return subject
    found = re.match(r"(sub-[^_]+)(_|$)", case)
    return found[1] if found else case


def by_subject(cases: Sequence[Mapping[str, str]]) -> dict[str, list[int]]:
    """Subject → indices of its cases, in the order of the cases."""
    groups: dict[str, list[int]] = {}
    for index, case in enumerate(cases):
        groups.setdefault(subject_of(case["case"], case.get("folder")), []).append(index)
    return groups


def _lesion_volume_ml(entry: Mapping[str, str]) -> float:
    """Volume for stratification; -1 where the lesion is unknown or its file cannot be read (refused later, with a reason)."""
    if "label" not in entry:
        return -1.0
    try:
        mask = read_volume(entry["label"], as_stored=True)
        voxel_ml = float(np.prod(spacing_mm(mask.affine))) / 1000
        return round(np.count_nonzero(mask.array) * voxel_ml, 6)
    except InputError as e:  # the loader reports it with its case
        logger.debug("%s: %s", entry["label"], e)
        return -1.0


def make_splits(cases: Sequence[Mapping[str, str]], seed: int = 0) -> dict[str, list[str]]:
    """70/15/15 by patient, seeded, stratified by lesion volume: each part is spread evenly over all volumes.

    All cases of a patient stand in one part. Three or more patients give every part at least one.

    Args:
        cases: entries of :func:`~roi_fusion.data.cases.find_cases`.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    groups = list(by_subject(cases).values())
    volumes = np.array([np.mean([_lesion_volume_ml(cases[i]) for i in group]) for group in groups])
    order = np.lexsort((rng.random(len(groups)), volumes))
    parts: dict[str, list[list[int]]] = {s: [] for s in PARTS}
    counts = dict.fromkeys(PARTS, 0)
    phase = rng.random(3) * 0.5
    rank = 0
    for group in (groups[i] for i in order):
        rank += len(group)
        deficit = [share * rank + offset - counts[s] for s, share, offset in zip(PARTS, _SHARES, phase)]
        part = PARTS[int(np.argmax(deficit))]
        parts[part].append(group)
        counts[part] += len(group)
    for part in ("val", "test"):
        if not parts[part] and len(parts["train"]) > 1:
            parts[part].append(parts["train"].pop())
    return {s: sorted(cases[i]["case"] for group in parts[s] for i in group) for s in PARTS}


def hold_back(cases: Sequence[Mapping[str, str]], count: int) -> tuple[list[int], list[int]]:
    """Indices of the cases to train on and of those held back: the last patients, until `count` cases or more are held.

    At least one patient stays to train on.

    Args:
        cases: entries with ``case`` and, where known, ``folder``.
        count: of cases to hold back.
    """
    groups = list(by_subject(cases).values())
    held: list[int] = []
    while len(held) < count and len(groups) > 1:
        held += groups.pop()
    return sorted(i for group in groups for i in group), sorted(held)


def read_splits(root: Path) -> dict[str, list[str]] | None:
    """``splits.json`` of a data set, else ``splits/{train,val,test}.txt``; None where there is neither.

    Raises:
        InputError: when the file cannot be read, or a case or a patient stands in two parts.
    """
    file = root / "splits.json"
    texts = {s: root / "splits" / f"{s}.txt" for s in PARTS}
    if file.is_file():
        try:
            content = read_json(file)
            if not isinstance(content, dict) or not all(isinstance(content.get(s, []), list) for s in PARTS):
                raise ValueError("no lists named train, val, test")
        except ValueError as e:
            raise InputError(f'{file}: expected {{"train": [...], "val": [...], "test": [...]}}, got {e}') from None
        splits = {s: [str(n) for n in content.get(s, [])] for s in PARTS}
    elif any(t.is_file() for t in texts.values()):
        splits = {s: t.read_text().split() if t.is_file() else [] for s, t in texts.items()}
    else:
        return None
    where = {s: file if file.is_file() else texts[s] for s in PARTS}
    seen: dict[str, tuple[str, str]] = {}  # subject → its first case and that one's part
    part_of: dict[str, str] = {}
    for part, names in splits.items():
        for name in names:
            if part_of.setdefault(name, part) != part:
                raise InputError(f"{where[part]}: expected each case in one part, got {name} in {part_of[name]} and in {part}")
    for part, names in splits.items():
        for name in names:
            subject = subject_of(name, root / name)
            first, its_part = seen.setdefault(subject, (name, part))
            if its_part != part:
                came = f"{subject} in {its_part} ({first}) and in {part} ({name})"
                raise InputError(f"{where[part]}: expected each patient in one part, got {came}")
    return splits
