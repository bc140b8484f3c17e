#!/usr/bin/env python
# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Print what the MONAI Label environment needs beside torch and monailabel itself, for one `pip install -r`.

pip has no way to leave out a requirement of a requirement, and monailabel requires sam2: a source build against whatever torch
its isolated build finds, whose weights the sample apps then fetch at start. Nothing here uses it, and MONAI Label runs without.
So monailabel is installed with --no-deps, and this prints its own requirements but that one, and those of roi_fusion.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

LEFT_OUT = {"sam2"}


def label_requirements() -> list[str]:
    """Requirements of the installed monailabel and of roi_fusion, without :data:`LEFT_OUT` and extras."""
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
    own = [r for r in project["optional-dependencies"]["label"] if not r.startswith("monailabel")]
    found = [*project["dependencies"], *own, *(r for r in requires("monailabel") or [] if "extra ==" not in r)]
    return [r for r in found if re.split(r"[^A-Za-z0-9_.-]", r.strip())[0].lower() not in LEFT_OUT]


if __name__ == "__main__":
    try:
        print("\n".join(label_requirements()))
    except PackageNotFoundError:
        sys.exit("error: expected monailabel in this environment (make label installs it), found none")
