#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Look at a data set before training on it: explore.html and explore.json with flags for what would spoil a training."""

from pathlib import Path

from tqdm import tqdm

from _cli import main
from roi_fusion.data.cases import find_cases
from roi_fusion_tools.explore import FLAGS, look_at_case
from roi_fusion_tools.explore_page import write_exploration


def explore_dataset(dataset_dir: str, output_dir: str | None = None) -> None:
    """Write explore.html and explore.json and print what was flagged.

    Args:
        dataset_dir: folder of cases.
        output_dir: where to write; the data set's folder itself by default.
    """
    cases = find_cases(dataset_dir)
    found = [look_at_case(c) for c in tqdm(cases, desc="cases", unit="case")]
    folder = Path(output_dir or dataset_dir)
    summary = write_exploration(found, folder, f"Data set {Path(dataset_dir).resolve().name}")
    lesions = summary["lesions"]
    print(
        f"{summary['cases']} cases; lesions: {lesions['known']} known, {lesions['unknown']} unknown, "
        f"{lesions['without']} without"
    )
    for name, names in summary["flags"].items():
        print(f"{name} ({FLAGS[name]}): {', '.join(names)}")
    print(f"{'no flags; ' if not summary['flags'] else ''}{folder / 'explore.html'}")


if __name__ == "__main__":
    main(explore_dataset)
