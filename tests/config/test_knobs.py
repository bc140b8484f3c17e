# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from conftest import BUNDLE
from roi_fusion.config.check import STRUCTURE, check_config
from roi_fusion.config.knobs import KNOBS, knob_table
from roi_fusion.errors import InputError


def config(name: str) -> dict:
    content = json.loads((BUNDLE / "configs" / f"{name}.json").read_text())
    return content["configs"] if name == "tracking" else content


@pytest.mark.parametrize(
    "names", [("train",), ("inference",), ("train", "evaluate"), ("train", "multi_gpu_train"), ("train", "synthesis")]
)
def test_the_shipped_configs_pass(names: tuple[str, ...]) -> None:
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / f"{n}.json") for n in names])
    check_config(parser.config, STRUCTURE)


def test_every_knob_is_in_its_configs_with_its_documented_default() -> None:
    for name, knob in KNOBS.items():
        words = knob.where.replace(",", "").split()
        places = [n for n in ("train", "inference", "evaluate", "tracking", "synthesis") if n in words]
        assert places, name
        for place in places:
            content = config(place)
            assert name in content, f"{name} is not in {place}.json"
            if knob.kind in ("int", "float", "ints", "bool") and place == "train" and name != "num_samples":
                assert content[name] == knob.default, name


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "num_inferenc_steps",
            4,
            "num_inferenc_steps: expected a knob of docs/README.md, got an unknown one; did you mean num_inference_steps?",
        ),
        ("stepz", 9, "stepz: expected a knob of docs/README.md, got an unknown one"),
        ("max_epochs", 0, "max_epochs: expected a whole number of 1 or more, got 0"),
        ("max_epochs", 2.5, "max_epochs: expected a whole number of 1 or more, got 2.5"),
        ("max_epochs", "ten", "max_epochs: expected a whole number of 1 or more, got 'ten'"),
        ("max_epochs", None, "max_epochs: expected a whole number of 1 or more, got nothing"),
        ("learning_rate", -1e-4, "learning_rate: expected a number of 0 or more, got -0.0001"),
        ("ema_decay", 1.0, "ema_decay: expected a number from 0 to 0.999999, got 1.0"),
        ("patch_size", [96, 96], "patch_size: expected three whole numbers of 1 or more, got [96, 96]"),
        (
            "preset",
            "strok",
            "preset: expected one of default, stroke, brain_tumor, bone_tumor, metastasis, got 'strok', near stroke",
        ),
        ("scheduler", "ddpm", "scheduler: expected one of ddim, rflow, got 'ddpm'"),
        ("precision", True, "precision: expected one of auto, bf16, fp32, got True"),
        ("dataset_dir", 7, "dataset_dir: expected a path, got 7"),
        ("batch_size", True, "batch_size: expected a whole number of 1 or more, got True"),
    ],
)
def test_what_a_user_mistypes_is_named(key: str, value: object, sentence: str) -> None:
    with pytest.raises(InputError) as e:
        check_config({**config("train"), key: value}, STRUCTURE)
    assert str(e.value).startswith(sentence)


def test_a_knob_of_another_config_is_refused() -> None:
    """It would be taken and change nothing."""
    for name, key, sentence in (
        ("train", "guidance", "guidance: expected a knob of train, got one of inference"),
        ("inference", "max_epochs", "max_epochs: expected a knob of inference, got one of train"),
        ("train", "run_name", "run_name: expected a knob of train, got one of tracking"),
        ("train", "evaluation_dir", "evaluation_dir: expected a knob of train, got one of evaluate"),
    ):
        with pytest.raises(InputError, match=sentence):
            check_config({**config(name), key: None}, STRUCTURE)
    check_config({**config("train"), "evaluating": [], "evaluation_dir": "x"}, STRUCTURE)
    check_config({**config("train"), "tracking_uri": "sqlite:///x.db", "run_name": "a"}, STRUCTURE)


def test_a_users_own_part_is_accepted_when_it_is_used() -> None:
    own = config("train")
    own["my_loss"] = {"_target_": "torch.nn.L1Loss"}
    with pytest.raises(InputError, match="my_loss"):
        check_config(own, STRUCTURE)
    own["train"]["trainer"]["loss_function"] = "@my_loss"
    check_config(own, STRUCTURE)


def test_the_docs_hold_the_table() -> None:
    assert knob_table() in (BUNDLE / "docs" / "README.md").read_text()


def test_a_place_that_cannot_be_written_and_a_device_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/run"):
        with pytest.raises(InputError, match=r"output_dir: expected a folder, got the file .*/file"):
            check_config({"output_dir": str(tmp_path / place)}, set())
    check_config({"output_dir": str(tmp_path / "new" / "run"), "device": "cpu"}, set())
    with pytest.raises(InputError, match=r"device: expected a device of this machine, which has [0-9]+ GPUs, got cuda:99"):
        check_config({"device": "cuda:99"}, set())
    with pytest.raises(InputError, match="device: expected cpu, cuda or cuda:N, got 'gpu'"):
        check_config({"device": "gpu"}, set())
