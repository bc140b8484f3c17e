# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import BUNDLE
from roi_fusion.config.faults import find_fault, foreign_code, walk

CONFIGS = sorted((BUNDLE / "configs").glob("*.json"))
SETS = [
    ["train"],
    ["inference"],
    ["train", "evaluate"],
    ["train", "multi_gpu_train"],
    ["train", "synthesis"],
    ["train", "federated"],
]


def paths(names: list[str]) -> list[Path]:
    return [BUNDLE / "configs" / f"{n}.json" for n in names]


@pytest.mark.parametrize("names", SETS)
def test_the_shipped_configs_have_no_fault(names: list[str]) -> None:
    assert find_fault(paths(names)) is None


def test_several_processes_run_the_same_list_between_start_and_end_of_their_group() -> None:
    single, several = (json.loads(p.read_text())["training"] for p in paths(["train", "multi_gpu_train"]))
    assert several == [
        "$roi_fusion.config.check.check_knobs()",
        "$roi_fusion.engine.training.start_process_group(torch.device(@device))",
        *single[1:],
        "$torch.distributed.destroy_process_group()",
    ]
    assert single[0] == several[0]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda p: p.stem)
def test_the_shipped_configs_name_no_foreign_code(file: Path) -> None:
    assert foreign_code(json.loads(file.read_text())) == []


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "subprocess.run"},
        {"_target_": "builtins.eval"},
        "$import subprocess",
        "$from shutil import rmtree",
        "$__import__('os').system('x')",
        "$os.system('x')",
        "$open('/etc/passwd')",
        "$eval('1')",
        "$torch.nn.Module.__subclasses__()",
    ],
)
def test_foreign_code_is_found_anywhere(node: object) -> None:
    assert len(foreign_code({"a": {"b": [1, node]}})) == 1


def change(content: dict, item: str, value: object) -> None:
    *parents, last = item.split("#")
    for key in parents:
        content = content[int(key) if isinstance(content, list) else key]
    content[int(last) if isinstance(content, list) else last] = value  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("item", "value", "cause"),
    [
        ("validate#evaluator#inferer", "@validate#infrer", "expected a reference to an id of the config, got @validate#infrer"),
        ("network", "$@network_def.to(@device", "expected a Python expression"),
        (
            "loss#_target_",
            "roi_fusion.core.losses.RoiFusionLos",
            "_target_ roi_fusion.core.losses.RoiFusionLos: expected a class or function that exists",
        ),
        ("train#trainer#_target_", "SupervisedTrainr", "_target_ SupervisedTrainr"),
        ("loss#alfa", 1.0, "roi_fusion.core.losses.RoiFusionLoss: expected arguments among preset, alpha"),
        ("optimizer#params", None, None),
        ("max_epochs", -3, "max_epochs: expected a whole number of 1 or more, got -3"),
        (
            "preprocessing#5#_target_",
            "roi_fusion.data.transforms.loading.Nothing",
            "_target_ roi_fusion.data.transforms.loading.Nothing",
        ),
    ],
)
def test_a_fault_is_named_by_id_file_and_cause(item: str, value: object, cause: str | None, tmp_path: Path) -> None:
    content = json.loads((BUNDLE / "configs" / "train.json").read_text())
    change(content, item, value)
    broken = tmp_path / "train.json"
    broken.write_text(json.dumps(content))
    fault = find_fault([broken])
    if cause is None:
        assert fault is None
        return
    assert fault is not None
    lines = str(fault).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("id: ")
    assert lines[0].removeprefix("id: ") in (item, item.rpartition("#")[0])
    assert lines[1] == f"file: {broken}"
    assert cause in lines[2]


def test_a_missing_argument_and_the_right_file_of_several(tmp_path: Path) -> None:
    override = tmp_path / "mine.json"
    override.write_text(json.dumps({"noise_schedule": {"_target_": "roi_fusion.engine.inferer.SamplingInferer"}}))
    fault = find_fault([*paths(["train"]), override])
    assert fault is not None
    assert fault.item == "noise_schedule"
    assert fault.file == str(override)
    assert "expected the argument scheduler" in fault.cause


def test_files_that_are_no_config(tmp_path: Path) -> None:
    assert "found no such file" in find_fault([tmp_path / "none.json"]).cause  # type: ignore[union-attr]
    (tmp_path / "cut.json").write_text('{"a": 1,')
    assert "expected JSON" in find_fault([tmp_path / "cut.json"]).cause  # type: ignore[union-attr]
    (tmp_path / "list.json").write_text("[]")
    assert "expected an object of ids, got list" in find_fault([tmp_path / "list.json"]).cause  # type: ignore[union-attr]


def test_walk_sees_every_node() -> None:
    assert dict(walk({"a": [1, {"b": 2}]})) == {
        "": {"a": [1, {"b": 2}]},
        "a": [1, {"b": 2}],
        "a#0": 1,
        "a#1": {"b": 2},
        "a#1#b": 2,
    }


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("evaluate", "expected the config that it lies over before it, as train.json,evaluate.json"),
        ("tracking", "expected a config with a run list"),
        ("metadata", "expected a config with a run list"),
    ],
)
def test_what_runs_with_another_config_only_says_so(name: str, cause: str) -> None:
    fault = find_fault(paths([name]))
    assert fault is not None
    assert cause in fault.cause
