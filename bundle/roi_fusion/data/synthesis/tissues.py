# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The label table: which label is which tissue, and how bright each tissue is in CT and in each MRI contrast.

The table itself is data, ``tissues.json`` beside this module. Per tissue it holds ``labels`` (single numbers or
``[first, last]`` ranges), a ``group`` and, per contrast, ``[mean, spread]`` in HU or MRI units. Tissues without labels are
drawn by the generator. ``lesion_ages`` holds, per age, the brightness of the lesion relative to the tissue that it replaces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError

__all__ = ["LesionAge", "TissueTable", "tissue_table"]

_LARGEST_LABEL = 20_000


@dataclass(frozen=True)
class LesionAge:
    """How a lesion of one age looks.

    Attributes:
        name: such as ``acute``.
        weight: relative frequency.
        hu_drop: range of the loss of CT number, in HU.
        ratios: contrast → range of the brightness relative to healthy tissue.
    """

    name: str
    weight: float
    hu_drop: tuple[float, float]
    ratios: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class TissueTable:
    """Tissues in the order of their index in all arrays of this package.

    Attributes:
        names: of the K tissues; index 0 is air.
        groups: of the K tissues.
        index_of_label: tissue index per label number, -1 where the table does not know the label.
        values: contrast → ``[K, 2]``, mean and spread.
        contrasts: MRI contrasts, without the CT.
        ages: of lesions.

    >>> table = tissue_table()
    >>> table.names[int(table.index_of_label[41])]
    'white'
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    index_of_label: np.ndarray
    values: Mapping[str, np.ndarray]
    contrasts: tuple[str, ...]
    ages: tuple[LesionAge, ...]

    def index(self, name: str) -> int:
        """Position of a tissue."""
        return self.names.index(name)

    def in_groups(self, *groups: str) -> np.ndarray:
        """Which tissues belong to one of the groups, boolean ``[K]``."""
        return np.isin(self.groups, groups)

    def tissues_of(self, labels: np.ndarray, where: str) -> np.ndarray:
        """Label numbers ``[X, Y, Z]`` → tissue indices, uint8.

        Args:
            labels: whole numbers.
            where: names the label map in messages.

        Raises:
            InputError: for labels that the table does not know.
        """
        if labels.min() < 0 or labels.max() > _LARGEST_LABEL:
            raise InputError(f"{where}: expected labels from 0 to {_LARGEST_LABEL}, got {labels.min()} to {labels.max()}")
        tissue = self.index_of_label[labels]
        unknown = np.unique(labels[tissue < 0])
        if len(unknown):
            listed = ", ".join(str(int(n)) for n in unknown[:5]) + (", …" if len(unknown) > 5 else "")
            raise InputError(f"{where}: expected labels of the table tissues.json, got unknown labels {listed}")
        return tissue.astype(np.uint8)


def read_table(path: str | Path) -> TissueTable:
    """Read a label table.

    Raises:
        InputError: when the file is missing or not of the form that this module describes.
    """
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text())
        tissues: dict[str, Any] = content["tissues"]
        contrasts = tuple(content["contrasts"])
        index_of_label = np.full(_LARGEST_LABEL + 1, -1, np.int16)
        for index, entry in enumerate(tissues.values()):
            for label in entry["labels"]:
                first, last = label if isinstance(label, list) else (label, label)
                index_of_label[first : last + 1] = index
        values = {c: np.array([entry[c] for entry in tissues.values()], np.float32) for c in contrasts}
        ages = tuple(
            LesionAge(
                name,
                float(age["weight"]),
                (age["hu_drop"][0], age["hu_drop"][1]),
                {c: (age[c][0], age[c][1]) for c in contrasts if c in age},
            )
            for name, age in content["lesion_ages"].items()
        )
        groups = tuple(str(entry["group"]) for entry in tissues.values())
    except (OSError, ValueError, KeyError, TypeError, IndexError) as e:
        raise InputError(f"{path}: expected a label table (see tissues.json), got {type(e).__name__}: {e}") from None
    return TissueTable(tuple(tissues), groups, index_of_label, values, tuple(c for c in contrasts if c != "ct"), ages)


@lru_cache(maxsize=1)
def tissue_table() -> TissueTable:
    """The package's own table."""
    return read_table(Path(__file__).with_name("tissues.json"))
