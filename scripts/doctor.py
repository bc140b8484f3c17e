#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Look at a finished or running training: what is wrong, since when, the likely cause and the remedy."""

import sys

from _cli import main
from roi_fusion.engine.doctor import prescription
from roi_fusion.engine.doctor_chart import read_chart
from roi_fusion.engine.doctor_rules import diagnose


def doctor(run_dir: str) -> None:
    """Print findings and gates; exit 1 when there is a critical finding.

    Args:
        run_dir: folder of a training, with history.jsonl.
    """
    chart = read_chart(run_dir)
    print(prescription(chart))
    if any(f.severity == "critical" for f in diagnose(chart)):
        sys.exit(1)


if __name__ == "__main__":
    main(doctor)
