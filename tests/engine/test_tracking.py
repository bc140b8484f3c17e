# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Tracking against a real `mlflow server` over HTTP, from trainings started as a user starts them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from monai.utils import path_to_sqlite_uri

from conftest import BUNDLE
from roi_fusion import __version__
from roi_fusion.config.knobs import KNOBS
from roi_fusion.core.losses import COMPONENTS
from roi_fusion.engine.handlers import TrainingEvents
from roi_fusion.engine.tracking import TrackingHandler, metric_name, unique_run_name
from roi_fusion.errors import InputError
from roi_fusion.metrics.fusion import FusionMetrics
from roi_fusion.metrics.lesion import LesionMetrics

SMALL = [
    "--network_def#channels",
    "[8,8,12,12]",
    "--network_def#denoiser_channels",
    "[4,4,6]",
    "--patch_size",
    "[32,32,4]",
    "--val_interval",
    "1",
    "--num_inference_steps",
    "2",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--backend-store-uri",
                path_to_sqlite_uri(str(folder / "store.db")),
                "--artifacts-destination",
                str(folder / "artifacts"),
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--workers",
                "1",
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(uri + "/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()[-3000:]
                assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
                time.sleep(0.3)
        yield uri
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(120)


def command(data: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "training",
        "--config_file",
        "configs/train.json",
        "--tracking",
        "configs/tracking.json",
        "--dataset_dir",
        str(data),
        "--output_dir",
        str(out),
        *SMALL,
        *more,
    ]


def environment(server: str) -> dict[str, str]:
    return {
        **os.environ,
        "MLFLOW_TRACKING_URI": server,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture(scope="module")
def data(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked") / "data"
    shutil.copytree(tiny_dataset, folder)
    return folder


def runs(server: str, **kwargs: Any) -> list[Any]:
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("roi_fusion")
    return client.search_runs(experiment.experiment_id, **kwargs) if experiment else []


@pytest.fixture(scope="module")
def killed(server: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run that a training killed after its first epoch has left."""
    process = subprocess.Popen(
        command(data, tmp_path_factory.mktemp("killed") / "run", "--max_epochs", "500"),
        cwd=BUNDLE,
        env=environment(server),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (found := [r for r in runs(server) if "train/loss/total" in r.data.metrics]):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return runs(server)[0] if found else None


@pytest.fixture(scope="module")
def tracked(server: str, killed: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """(run, folder) of a training of two epochs behind the killed one, whose model is registered."""
    out = tmp_path_factory.mktemp("done") / "run"
    done = subprocess.run(
        command(data, out, "--max_epochs", "2", "--seed", "5", "--register_model", "fusion"),
        cwd=BUNDLE,
        env=environment(server),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    found = [r for r in runs(server) if r.info.run_id != killed.info.run_id]
    assert len(found) == 1
    return found[0], out


def test_a_killed_run_is_not_appended_to(server: str, killed: Any, tracked: tuple[Any, Path]) -> None:
    assert killed.info.status == "RUNNING"
    assert tracked[0].info.run_id != killed.info.run_id
    assert tracked[0].info.run_name != killed.info.run_name
    again = MlflowClient(server).get_run(killed.info.run_id)
    assert again.data.metrics == killed.data.metrics
    assert again.data.params == killed.data.params


def test_every_component_and_metric_of_every_epoch_is_there(server: str, tracked: tuple[Any, Path]) -> None:
    run, out = tracked
    assert run.info.status == "FINISHED"
    client = MlflowClient(server)
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        values = {metric_name("train", k): v for k, v in row.items() if isinstance(v, float)}
        values.update({metric_name("val", k): v for k, v in row["validation"].items()})
        assert {f"train/loss/{n}" for n in (*COMPONENTS, "total")} <= set(values)
        assert {f"train/gradient_share/{n}" for n in COMPONENTS} <= set(values)
        assert {f"val/fusion/{n}" for n in FusionMetrics.names} <= set(values)
        for name, value in values.items():
            logged = {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}
            assert logged[row["epoch"]] == pytest.approx(value), name
    lesion = {n for n in LesionMetrics.names if n in rows[1]["validation"]}
    assert {metric_name("val", n) for n in lesion} <= set(run.data.metrics)
    assert not [n for n in run.data.metrics if "paste" in n or "/other/" in n]
    table = client.download_artifacts(run.info.run_id, "baselines.json")
    baselines = pd.read_json(table, orient="split")
    first = baselines[baselines["epoch"] == 1].set_index("method")
    assert set(first.index) == set(rows[0]["baselines"])
    assert first.loc["maximum", "brain_ssim"] == pytest.approx(rows[0]["baselines"]["maximum"]["brain_ssim"])


def test_data_sets_and_source_of_a_run(tracked: tuple[Any, Path], data: Path) -> None:
    run, out = tracked
    record = json.loads((out / "run.json").read_text())["data"]
    inputs = {i.dataset.name: i.dataset for i in run.inputs.dataset_inputs}
    assert set(inputs) == set(record) == {"train", "validate"}
    for name, found in inputs.items():
        assert found.digest == record[name]["hash"]
        assert json.loads(found.profile)["num_rows"] == record[name]["cases"]
        assert json.loads(found.source)["uri"] == data.resolve().as_uri()
    assert run.data.tags["mlflow.source.name"] == "python -m monai.bundle run"


def test_every_knob_is_a_param_and_the_tags_say_where_it_comes_from(tracked: tuple[Any, Path]) -> None:
    run, out = tracked
    record = json.loads((out / "run.json").read_text())
    used = {n for n, k in KNOBS.items() if "train" in k.where or "tracking" in k.where}
    assert used - {"tracking_uri"} <= set(run.data.params)
    assert {k: str(v) for k, v in record["knobs"].items()}.items() <= run.data.params.items()
    assert run.data.params["patch_size"] == "[32, 32, 4]"
    assert run.data.tags["seed"] == "5"
    assert run.data.tags["torch"] == torch.__version__
    assert run.data.tags["bundle_version"] == __version__
    assert run.data.tags["git_commit"] == record["git_commit"]
    assert run.data.tags["data_hash_train"] == record["data"]["train"]["hash"]
    assert run.data.tags["data_hash_validate"] == record["data"]["validate"]["hash"]


def test_search_finds_runs_by_metric_param_and_tag(server: str, tracked: tuple[Any, Path]) -> None:
    expected = "params.seed = '5' and tags.seed = '5' and metrics.`val/fusion/brain_ssim` > 0"
    expected += " and attributes.status = 'FINISHED'"
    assert [r.info.run_id for r in runs(server, filter_string=expected)] == [tracked[0].info.run_id]


def test_previews_weights_and_documents_are_artifacts(server: str, tracked: tuple[Any, Path], tmp_path: Path) -> None:
    run, out = tracked
    client = MlflowClient(server)
    names = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert {"model.pt", "history.jsonl", "run.json", "doctor.json", "start_check.json", "report.html", "previews"} <= names
    previews = {Path(a.path).name for a in client.list_artifacts(run.info.run_id, "previews")}
    assert previews == {p.name for p in (out / "previews").iterdir()}
    assert any(p.startswith("epoch_0002_") for p in previews)
    weights = torch.load(client.download_artifacts(run.info.run_id, "model.pt", str(tmp_path)), weights_only=True)
    kept = torch.load(out / "model.pt", weights_only=True)
    assert all(torch.equal(v, weights[k]) for k, v in kept.items())
    assert list((out / "tensorboard").iterdir())  # TensorBoard stays


def test_the_registered_model_takes_two_file_paths(server: str, tracked: tuple[Any, Path], data: Path, tmp_path: Path) -> None:
    version = MlflowClient(server).get_model_version("fusion", "1")
    assert version.run_id == tracked[0].info.run_id
    case = data / "phantom_0000"
    pair = {"mri": str(case / "mri.nii.gz"), "ct": str(case / "ct.nii.gz"), "output_dir": str(tmp_path / "out")}
    script = (
        "import json, mlflow, pandas\n"
        "model = mlflow.pyfunc.load_model('models:/fusion/1')\n"
        f"rows = model.predict(pandas.DataFrame([{pair!r}]))\n"
        "print('ROWS', json.dumps(rows.to_dict('records')))\n"
        "signature = model.metadata.signature\n"
        "example = model.metadata.load_input_example()\n"
        "said = {'inputs': {c.name: c.required for c in signature.inputs}, 'outputs': signature.outputs.input_names(),\n"
        "        'example': list(example)}\n"
        "print('SIGNATURE', json.dumps(said))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment(server), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    row = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("ROWS"))[5:])[0]
    assert Path(row["folder"]) == tmp_path / "out" / "phantom_0000"
    assert (tmp_path / "out" / "phantom_0000" / "fused.nii.gz").exists()
    assert row["lesion_ml"] >= 0
    assert pd.isna(row["lesion_ml_low"])  # not calibrated
    assert isinstance(row["warnings"], str)
    said = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("SIGNATURE"))[9:])
    assert said["inputs"] == {"mri": True, "ct": True, "output_dir": False}  # name → required
    assert {"folder", "lesion_ml", "lesion_ml_low", "lesion_ml_high", "warnings"} <= set(said["outputs"])
    assert said["example"] == ["mri", "ct", "output_dir"]


def test_a_training_that_ends_with_an_error_is_failed(
    server: str, tracked: tuple[Any, Path], data: Path, tmp_path: Path
) -> None:
    before = {r.info.run_id for r in runs(server)}
    done = subprocess.run(
        command(data, tmp_path / "run", "--max_epochs", "2", "--beta", "0", "--stop_on", "critical"),
        cwd=BUNDLE,
        env=environment(server),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "error: doctor: stopped the training: the bone term has weight 0" in done.stderr
    assert "Traceback" not in done.stderr
    new = [r for r in runs(server) if r.info.run_id not in before]
    assert [r.info.status for r in new] == ["FAILED"]
    assert "the bone term has weight 0" in new[0].data.tags["error"]


# --- without a server -------------------------------------------------------------------------------------------------------


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return path_to_sqlite_uri(str(tmp_path / "mlruns.db"))


def engine_with(handler: TrackingHandler, step: Any = lambda e, b: None) -> Engine:
    engine = Engine(step)
    engine.logger.disabled = True

    @engine.on(Events.EPOCH_COMPLETED)
    def _(e: Engine) -> None:
        e.state.metrics.update(loss_total=1.0 / e.state.epoch, broken=float("nan"))

    handler.attach(engine)
    return engine


def test_sqlite_names_and_missing_numbers(local: str, tmp_path: Path) -> None:
    evaluator = SimpleNamespace(state=SimpleNamespace(metrics={}, epoch=0))
    (tmp_path / "history.jsonl").write_text(json.dumps({"epoch": 1, "iteration": 1, "loss_total": 1.0}) + "\n")

    (tmp_path / "doctor.json").write_text(json.dumps({"findings": [], "gates": [], "gate_results": {"20": "passed"}}))

    def handler() -> TrackingHandler:
        return TrackingHandler(tmp_path, evaluator, BUNDLE, tracking_uri=local, run_name="mine")

    engine_with(handler()).run([0], max_epochs=2)

    def crash(engine: Engine, batch: int) -> None:
        raise ValueError("no such number")

    engine = engine_with(handler(), crash)
    with pytest.raises(ValueError, match="no such number"):
        engine.run([0], max_epochs=1)
    engine.state.error = ValueError("no such number")
    engine.fire_event(TrainingEvents.FAILED)  # as TrainingRun does
    client = MlflowClient(local)
    found = client.search_runs(
        client.get_experiment_by_name("roi_fusion").experiment_id, order_by=["attributes.start_time ASC"]
    )
    assert [r.info.status for r in found] == ["FINISHED", "FAILED"]
    assert found[0].info.run_name == "mine"
    assert found[1].info.run_name.startswith("mine_")
    assert found[1].data.tags["error"] == "no such number"
    assert found[0].data.metrics == {"train/loss/total": 0.5}  # NaN is left out
    assert found[0].data.tags["gate_20"] == "passed"


def test_a_training_that_fails_before_the_run_is_made_is_there_as_failed(local: str, tmp_path: Path) -> None:
    engine = Engine(lambda e, b: None)
    engine.logger.disabled = True

    @engine.on(Events.STARTED)
    def stop(_: Engine) -> None:
        raise InputError("doctor: stopped the training")

    TrackingHandler(tmp_path, None, BUNDLE, tracking_uri=local).attach(engine)
    with pytest.raises(InputError) as error:
        engine.run([0], max_epochs=1)
    engine.state.error = error.value
    engine.fire_event(TrainingEvents.FAILED)
    client = MlflowClient(local)
    found = client.search_runs(client.get_experiment_by_name("roi_fusion").experiment_id)
    assert [r.info.status for r in found] == ["FAILED"]
    assert found[0].data.tags["error"] == "doctor: stopped the training"


def test_the_module_imports_without_mlflow_and_pandas() -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('mlflow', 'pandas')))\n"
        "from roi_fusion.engine import tracking\n"
        "print(tracking.TrackingHandler.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=BUNDLE, capture_output=True, text=True)
    assert done.stdout == "TrackingHandler\n", done.stderr[-2000:]


def test_names_are_unique() -> None:
    assert len({unique_run_name() for _ in range(50)}) == 50


@pytest.mark.parametrize("uri", ["file:///some/folder", "mlruns"])
def test_a_file_store_is_refused_in_a_sentence(uri: str, local: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tracking_uri: .*Use a SQLite URI"):
        TrackingHandler(tmp_path, None, BUNDLE, tracking_uri=uri)


def test_a_missing_mlflow_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise ImportError("mlflow")

    monkeypatch.setattr("monai.handlers.MLFlowHandler.__init__", absent)
    with pytest.raises(InputError, match="expected mlflow, which is not installed: pip install mlflow"):
        TrackingHandler(tmp_path, None, BUNDLE)
