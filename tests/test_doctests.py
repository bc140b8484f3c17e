# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The examples in the docstrings of the method and of the metrics run, and the main functions have one."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from roi_fusion import core, metrics

MODULES = [f"{package.__name__}.{m.name}" for package in (core, metrics) for m in pkgutil.iter_modules(package.__path__)]

#: A user's entries to both packages.
WITH_EXAMPLE = (
    "roi_fusion.core.channels.split_output",
    "roi_fusion.core.facts.facts_of",
    "roi_fusion.core.guidance.RoiGuidance",
    "roi_fusion.core.intensity.IntensityMap",
    "roi_fusion.core.intensity.fusion_sources",
    "roi_fusion.core.losses.boundary_loss",
    "roi_fusion.core.masks.cranial_masks",
    "roi_fusion.core.masks.head_mask",
    "roi_fusion.core.network.RoiFusionNet",
    "roi_fusion.core.schedule.inference_levels",
    "roi_fusion.core.schedule.sample",
    "roi_fusion.core.ssim.ssim_map",
    "roi_fusion.core.target.fusion_target",
    "roi_fusion.core.tiles.tiles_of",
    "roi_fusion.core.uncertainty.entropy_bits",
    "roi_fusion.metrics.calibration.brier_score",
    "roi_fusion.metrics.calibration.expected_calibration_error",
    "roi_fusion.metrics.calibration.volume_interval",
    "roi_fusion.metrics.fusion.regional_psnr",
    "roi_fusion.metrics.fusion.regional_ssim",
    "roi_fusion.metrics.fusion.seam_ratio",
    "roi_fusion.metrics.lesion.lesion_region",
    "roi_fusion.metrics.table.summarise",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_main_functions_have_an_example(name: str) -> None:
    module, _, member = name.rpartition(".")
    (found,) = doctest.DocTestFinder(recurse=False).find(getattr(importlib.import_module(module), member), name)
    assert found.examples
