# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Lists the packages of the wheel, with the data package that pyproject.toml describes; all else stands there."""

from setuptools import find_packages, setup

setup(packages=[*find_packages("bundle"), *find_packages("scripts"), "roi_fusion_bundle"])
