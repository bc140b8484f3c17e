# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Runs the bundle's configs in this process, as ``python -m monai.bundle run`` does in one of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roi_fusion.config.root import BUNDLE_ROOT

__all__ = ["run_bundle"]


def run_bundle(configs: Sequence[str], knobs: Mapping[str, Any], tracking: bool = False) -> None:
    """Merge configs, turn knobs and run them.

    Args:
        configs: names in the bundle's ``configs/``, without ``.json``, merged in order.
        knobs: name → value. Texts are taken as typed, and never evaluated.
        tracking: add ``tracking.json``.

    Raises:
        InputError: when a knob or the data cannot be used; MONAI may have wrapped it.
    """
    from monai.bundle import ConfigWorkflow

    from roi_fusion.config.paths import set_as_typed
    from roi_fusion.console import set_up_console
    from roi_fusion.values import as_bool

    set_up_console(as_bool("verbose", knobs.get("verbose", False)))  # before MONAI says what it begins with
    folder = BUNDLE_ROOT / "configs"
    workflow = ConfigWorkflow(
        [str(folder / f"{name}.json") for name in configs],
        tracking=str(folder / "tracking.json") if tracking else None,
        **{name: value for name, value in knobs.items() if not isinstance(value, str)},
    )
    workflow.initialize()
    set_as_typed(workflow.parser, {name: value for name, value in knobs.items() if isinstance(value, str)})
    workflow.run()
    workflow.finalize()
