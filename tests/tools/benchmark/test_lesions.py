# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roi_fusion.errors import InputError
from roi_fusion_tools.benchmark import lesions as benchmark
from roi_fusion_tools.phantoms.render import PhantomConfig, draw_phantom


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> benchmark.LesionOptions:
    def evaluated(folder: Path, checkpoint: str, modes: tuple[str, ...], precision: str, **knobs: Any) -> dict[str, Any]:
        return {"modes": {m: {"summary": {"folder": Path(folder).name, **knobs}, "cases": []} for m in modes}}

    monkeypatch.setattr(benchmark, "evaluate_folder", evaluated)
    monkeypatch.setattr(benchmark, "make_phantoms", lambda *_, **__: None)
    (tmp_path / "model.pt").write_bytes(b"weights")
    return benchmark.LesionOptions(str(tmp_path / "out"), str(tmp_path / "model.pt"))


def test_sections_of_the_same_weights_are_kept_and_those_of_others_are_not(options: benchmark.LesionOptions) -> None:
    benchmark.run_lesions(options, ["grids"])
    both = benchmark.run_lesions(options, ["changed"])
    assert set(both["parts"]) == {"demo grid", "grid beyond training", "lesion as bright as CSF", "CSF at 1.4 x grey"}
    Path(options.checkpoint).write_bytes(b"other weights")
    assert set(benchmark.run_lesions(options, ["old"])["parts"]) == {"old phantoms"}


def test_unknown_sections_and_missing_heads_are_said(options: benchmark.LesionOptions) -> None:
    with pytest.raises(InputError, match="sections: expected some of unseen, old, changed, grids, real, got dreams"):
        benchmark.run_lesions(options, ["dreams"])
    with pytest.raises(InputError, match="label_maps: expected"):
        benchmark.run_lesions(options, ["unseen"])


def test_one_number_of_the_generator_changes_one_thing() -> None:
    config = {"shape": (40, 48, 10), "spacing_mm": (4.5, 4.5, 14.0), "contrast": "t2", "lesion_free_share": 0.0}
    plain, dark = (draw_phantom(PhantomConfig(**config, csf_signal=c), (1, 2)) for c in (None, 0.4))
    assert np.array_equal(plain.ct, dark.ct)
    assert np.array_equal(plain.lesion, dark.lesion)
    fluid = (plain.ct < 15) & (plain.brain > 0) & (plain.lesion == 0)
    assert dark.mri[fluid].mean() < 0.8 * plain.mri[fluid].mean()
    bright = draw_phantom(PhantomConfig(**config, lesion_signal=(3.0, 3.1)), (1, 2))
    assert bright.mri[bright.lesion > 0].mean() > 1.3 * plain.mri[plain.lesion > 0].mean()


def test_the_worst_factor_is_of_the_lesions_own_volume() -> None:
    rows = [
        {"lesion_ml": 10.0, "lesion_pred_ml": 5.0},
        {"lesion_ml": 1.0, "lesion_pred_ml": 4.0},
        {"lesion_ml": 0, "lesion_pred_ml": 9},
    ]
    unknown = [
        {"lesion_ml": None, "lesion_pred_ml": 3.0},
        {"lesion_ml": 2.0, "lesion_pred_ml": None},
    ]  # as JSON gives them back
    assert benchmark.worst_factor([*rows, *unknown]) == 3.0
    assert math.isnan(benchmark.worst_factor(unknown))
