#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Studies of the sampler on cases with references: steps, guidance, misregistration, uncertainty, seams."""

from pathlib import Path

from _cli import main
from roi_fusion.config.knobs import BUNDLE_ROOT
from roi_fusion.data.results import versions
from roi_fusion.errors import InputError
from roi_fusion.values import write_json
from roi_fusion_tools.studies import STUDIES, load_study, study_table


def study(
    name: str,
    checkpoint: tuple[str, ...],
    dataset_dir: str,
    output_dir: str,
    cases: int | None = None,
    precision: str = "auto",
) -> None:
    """Measure, print the table and write <output_dir>/study_<name>.json.

    Args:
        name: steps, guidance, misregistration, uncertainty or seams.
        checkpoint: weights; several, joined by commas, are studied one after the other, as with and without something.
        dataset_dir: folder of cases with lesion masks.
        output_dir: folder of the result.
        cases: how many of the folder's cases, the first ones; all when None.
        precision: auto, bf16 or fp32, of the network's passes.
    """
    if name not in STUDIES:
        raise InputError(f"name: expected one of {', '.join(STUDIES)}, got {name!r}")
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    networks, items = load_study(checkpoint, dataset_dir, cases)
    rows = []
    for file, network in zip(checkpoint, networks):
        found = STUDIES[name](network, items, Path(dataset_dir), folder, precision)
        rows += [{**row, "name": f"{Path(file).stem}: {row['name']}"} for row in found] if len(checkpoint) > 1 else found
    path = folder / f"study_{name}.json"
    names = [_shown(file) for file in checkpoint]
    write_json(path, {"study": name, "checkpoint": names, "precision": precision, "rows": rows, "versions": versions()})
    print(study_table(rows))
    print(path)


def _shown(file: str) -> str:
    """Name of the weights without the folders of this machine; that of the shipped ones from the repository's root."""
    return "bundle/models/model.pt" if Path(file).resolve() == BUNDLE_ROOT / "models" / "model.pt" else Path(file).name


if __name__ == "__main__":
    main(study)
