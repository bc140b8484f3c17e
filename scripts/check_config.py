#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Check bundle configs without running them: the id, the file and the first cause of what is broken."""

import sys

from _cli import main
from roi_fusion.config.faults import find_fault


def check_config(*config_files: str) -> None:
    """Check one config, or several merged in order as --config_file merges them.

    Args:
        config_files: JSON files.
    """
    if not config_files:
        sys.exit("error: expected one or more config files, got none")
    fault = find_fault(config_files)
    if fault is not None:
        sys.exit(str(fault))
    print(f"no fault in {', '.join(config_files)}")


if __name__ == "__main__":
    main(check_config)
