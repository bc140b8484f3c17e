# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from roi_fusion.report.previews import PreviewWriter, preview_figure
from roi_fusion.values import PREDICTION_CHANNELS


def item(name: str, lesion: bool = True) -> dict:
    generator = torch.Generator().manual_seed(1)
    label = torch.zeros(1, 20, 24, 6)
    label[0, 5:9, 5:9, 4] = float(lesion)
    return {"case": name, "image": torch.randn(2, 20, 24, 6, generator=generator), "label": label}


def prediction() -> torch.Tensor:
    return torch.rand(len(PREDICTION_CHANNELS), 20, 24, 6, generator=torch.Generator().manual_seed(2))


def test_the_slice_with_most_lesion_is_shown_and_outlined() -> None:
    case, out = item("a"), prediction()
    axes = preview_figure(case, out).axes
    assert [ax.get_title() for ax in axes] == ["MRI", "CT", "fused", "share of the MRI", "lesion probability"]
    shown = np.asarray(axes[2].images[0].get_array())
    np.testing.assert_array_equal(shown, out[0, :, :, 4].T.flip(1).numpy())
    assert all(len(ax.collections) == 1 for ax in axes)
    without = preview_figure(item("a", lesion=False), out).axes
    assert all(len(ax.collections) == 0 for ax in without)


def test_the_same_cases_are_drawn_at_every_validation(tmp_path: Path) -> None:
    def step(engine: Engine, name: str) -> list[dict]:
        engine.state.batch = [item(name)]
        return [{"pred": prediction()}]

    engine = Engine(step)
    PreviewWriter(tmp_path, num_cases=2).attach(engine)
    engine.run(["a", "b", "c"], max_epochs=1)
    engine.run(["c", "b", "a"], max_epochs=2)
    names = sorted(p.name for p in (tmp_path / "previews").iterdir())
    assert names == ["epoch_0001_a.png", "epoch_0001_b.png", "epoch_0002_a.png", "epoch_0002_b.png"]
    picture = np.asarray(Image.open(tmp_path / "previews" / names[0]).convert("L"))
    assert picture.shape[1] > 3 * picture.shape[0] / 1.5
    assert picture.std() > 10


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roi_fusion.report.previews.is_first_rank", lambda: False)
    state = SimpleNamespace(batch=[item("a")], output=[{"pred": prediction()}], epoch=1)
    PreviewWriter(tmp_path)(SimpleNamespace(state=state))  # type: ignore[arg-type]
    assert not (tmp_path / "previews").exists()
