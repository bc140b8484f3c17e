#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Lay out the bundle's configs: vectors and transforms on one line each, 4 spaces of indent."""

import sys

from _cli import main
from roi_fusion_tools.config_format import config_files, format_file


def format_configs(check: bool = False) -> None:
    """Lay out every config of the bundle.

    Args:
        check: change nothing; exit 1 when a config is laid out otherwise.
    """
    changed = [path.name for path in config_files() if not format_file(path, check)]
    if check and changed:
        sys.exit(f"error: expected the layout of scripts/format_configs.py, got another in {', '.join(changed)}")
    print(f"laid out: {', '.join(changed) or 'nothing to change'}")


if __name__ == "__main__":
    main(format_configs)
