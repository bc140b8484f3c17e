#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Write report.html of a training, an evaluation or an inference again, from the files it left."""

from _cli import main
from roi_fusion.report.page import write_report


def make_report(results_dir: str, history_dir: str | None = None, max_cases: int = 24) -> None:
    """Write <results_dir>/report.html.

    Args:
        results_dir: folder of results or of a training.
        history_dir: training whose curves are shown beside.
        max_cases: cases with pictures, worst lesion Dice first.
    """
    print(write_report(results_dir, history_dir=history_dir, max_cases=max_cases))


if __name__ == "__main__":
    main(make_report)
