#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Studies of the sampler on cases with references: steps, guidance, misregistration, uncertainty, seams."""

import math
from pathlib import Path

from _cli import main
from roi_fusion.cases import write_json
from roi_fusion.errors import InputError
from roi_fusion.results import versions
from roi_fusion.studies import STUDIES, load_study, study_table


def study(name: str, checkpoint: str, dataset_dir: str, output_dir: str) -> None:
    """Measure, print the table and write <output_dir>/<name>.json.

    Args:
        name: steps, guidance, misregistration, uncertainty or seams.
        checkpoint: weights.
        dataset_dir: folder of cases with lesion masks.
        output_dir: folder of the result.
    """
    if name not in STUDIES:
        raise InputError(f"name: wanted one of {', '.join(STUDIES)}, came {name!r}")
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    network, items = load_study(checkpoint, dataset_dir)
    rows = STUDIES[name](network, items, Path(dataset_dir), folder)
    path = folder / f"{name}.json"
    rows = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
    write_json(path, {"study": name, "rows": rows, "versions": versions()})
    print(study_table(rows))
    print(path)


if __name__ == "__main__":
    main(study)
