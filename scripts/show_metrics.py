#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Print the metrics table of an evaluation or inference."""

from _cli import main
from roi_fusion.report.tables import metrics_text


def show_metrics(results_dir: str) -> None:
    """Print the means of summary.json, a line per method.

    Args:
        results_dir: folder with summary.json.
    """
    print(metrics_text(results_dir))


if __name__ == "__main__":
    main(show_metrics)
