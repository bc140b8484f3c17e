# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roi_fusion.data.synthesis.tissues import read_table, tissue_table
from roi_fusion.errors import InputError


def test_every_tissue_has_a_brightness_in_every_contrast() -> None:
    table = tissue_table()
    assert table.names[0] == "air"
    assert set(table.contrasts) == {"adc", "dwi", "flair", "t2", "t1"}
    for values in table.values.values():
        assert values.shape == (len(table.names), 2)
        assert (values[:, 1] >= 0).all()
    assert sum(a.weight for a in table.ages) == pytest.approx(1)


@pytest.mark.parametrize(
    ("label", "name"), [(2, "white"), (42, "grey"), (1012, "grey"), (251, "white"), (515, "cortical_bone")]
)
def test_labels_and_ranges_of_labels_become_tissues(label: int, name: str) -> None:
    table = tissue_table()
    found = table.tissues_of(np.full((2, 2, 2), label), "map")
    assert (found == table.index(name)).all()


def test_unknown_labels_are_named() -> None:
    labels = np.zeros((2, 2, 2), int)
    labels[0, 0, 0], labels[1, 1, 1] = 999, 998
    with pytest.raises(InputError, match=r"head\.nii: expected labels of the table tissues\.json, got unknown labels 998, 999"):
        tissue_table().tissues_of(labels, "head.nii")
    with pytest.raises(InputError, match="expected labels from 0 to 20000, got -1 to 0"):
        tissue_table().tissues_of(np.array([-1, 0]), "head.nii")


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(InputError, match="expected a label table"):
        read_table(tmp_path / "table.json")
