#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Write report.html of a training, an evaluation or an inference again, from the files it left."""

from _cli import main
from roi_fusion.report.page import write_report


def make_report(results_dir: str, history_dir: str | None = None, single_file_cases: int = 20) -> None:
    """Write <results_dir>/report.html.

    Args:
        results_dir: folder of results or of a training.
        history_dir: training whose curves are shown beside.
        single_file_cases: up to so many cases the report is one file; beyond, an index with a page per case.
    """
    print(write_report(results_dir, history_dir=history_dir, single_file_cases=single_file_cases))


if __name__ == "__main__":
    main(make_report)
