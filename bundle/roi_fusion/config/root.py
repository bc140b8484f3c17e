# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Where the bundle lies: the one place that configs and weights are looked for from."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BUNDLE_ROOT", "find_bundle"]


def find_bundle(package: str | Path = Path(__file__).parents[1]) -> Path:
    """The folder with ``configs/`` and ``models/`` that belongs to a copy of the package.

    Args:
        package: folder of ``roi_fusion``.

    Returns:
        The package's parent in a checkout, in the zip and in other copies of a bundle; ``roi_fusion_bundle`` beside the package
        where a wheel was installed.
    """
    beside = Path(package).resolve().parent
    return beside if (beside / "configs" / "inference.json").is_file() else beside / "roi_fusion_bundle"


BUNDLE_ROOT = find_bundle()
