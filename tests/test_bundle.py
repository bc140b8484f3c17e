# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The bundle as users start it: the four commands, from several places, in two processes, on bad input."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import nibabel.processing
import numpy as np
import pytest
import torch
from jsonschema import validate
from monai.bundle import ConfigWorkflow, ckpt_export, verify_net_in_out

import roi_fusion
from conftest import BUNDLE, ROOT, SHARED
from in_process import run_bundle
from roi_fusion.core.channels import OUTPUT_CHANNELS
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.results import RESULT_FILES

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
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONUNBUFFERED": "1"}


def run_process(*arguments: str, cwd: Path = BUNDLE, returncode: int = 0, start: tuple[str, ...] = ()) -> str:
    """Start a bundle command as a user does; returns everything it printed.

    One per entry point; what else the commands do is tested in this process, by :func:`in_process.run_bundle`.
    """
    command = [sys.executable, *start, "-m", "monai.bundle", "run", *arguments]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert done.returncode == returncode, text[-6000:]
    return text


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny training of two epochs, by the README's command."""
    folder = tmp_path_factory.mktemp("trained")
    data = folder / "data"
    shutil.copytree(tiny_dataset, data)
    (data / "phantom_0001" / "lesion_mask.nii.gz").unlink()  # unknown, not empty
    run_process(
        "training",
        "--config_file",
        "configs/train.json",
        "--dataset_dir",
        str(data),
        "--output_dir",
        str(folder / "run"),
        "--max_epochs",
        "2",
        *SMALL,
    )
    return folder


def test_training_leaves_what_it_promises(trained: Path) -> None:
    run_dir = trained / "run"
    assert {p.name for p in run_dir.iterdir()} == {
        "model.pt",
        "model.pt.json",
        "last.pt",
        "history.jsonl",
        "errors.json",
        "run.json",
        "start_check.json",
        "doctor.json",
        "previews",
        "report.html",
        "tensorboard",
    }
    record = json.loads((run_dir / "run.json").read_text())
    assert record["knobs"]["max_epochs"] == 2
    assert record["network_def"]["channels"] == [8, 8, 12, 12]
    assert json.loads((run_dir / "start_check.json").read_text())["schedule"] is None
    assert [p.name[:11] for p in sorted((run_dir / "previews").iterdir())] == ["epoch_0001_", "epoch_0002_"]
    rows = [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in rows] == [1, 2]
    for name in ("diffusion", "brain", "bone", "lesion", "masks", "total"):
        assert np.isfinite(rows[0][f"loss_{name}"])
    for name in ("mri_mean", "mri_std", "ct_mean", "ct_std", "fused_min", "fused_max", "fused_at_bounds", "learning_rate"):
        assert name in rows[0]
    assert rows[1]["validation"]["brain_ssim"] > 0
    assert set(rows[1]["baselines"]) == {"average", "maximum", "paste", "target"}
    assert rows[1]["baselines"]["target"]["brain_ssim"] >= 0.98
    assert rows[1]["baselines"]["target"]["bone_ssim"] >= 0.98
    assert json.loads((run_dir / "errors.json").read_text()) == {}
    weights = torch.load(run_dir / "model.pt", weights_only=True)
    assert all(isinstance(v, torch.Tensor) for v in weights.values())
    whole = torch.load(run_dir / "last.pt", weights_only=True)
    assert set(whole) == {"model", "ema", "optimizer", "plan", "trainer", "best", "record"}


def test_evaluation_writes_tables_volumes_and_report(trained: Path) -> None:
    text = run_bundle(
        "--config_file",
        "['configs/train.json','configs/evaluate.json']",
        "--dataset_dir",
        str(trained / "data"),
        "--output_dir",
        str(trained / "run"),
        *SMALL[:4],
        "--num_inference_steps",
        "2",
    )
    folder = trained / "run" / "evaluation"
    test_cases = json.loads((trained / "data" / "splits.json").read_text())["test"]
    assert f"{len(test_cases)} case" in text
    with (folder / "metrics.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [r["case"] for r in rows if r["method"] == "roi_fusion"] == test_cases
    assert {r["method"] for r in rows} == {"roi_fusion", "average", "maximum", "paste", "target"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["cases"] == len(test_cases)
    assert summary["counts"]["fused_at_bounds"] == 0
    assert (folder / "report.html").stat().st_size > 20_000
    assert (folder / test_cases[0] / "fused.nii.gz").exists()


def check_results(folder: Path, mri_file: Path) -> None:
    mri = nib.load(mri_file)
    volumes = {}
    for stem, dtype in RESULT_FILES.values():
        image = nib.load(folder / f"{stem}.nii.gz")
        assert image.shape == mri.shape
        assert image.get_data_dtype() == dtype
        np.testing.assert_allclose(image.affine, mri.affine, atol=1e-4)
        volumes[stem] = np.asarray(image.dataobj)
    outside = np.isnan(volumes["provenance"]) & (volumes["fused"] == 0)
    assert outside.any()
    assert set(np.unique(volumes["lesion"])) <= {0, 1}
    for stem in ("lesion_prob", "uncertainty"):
        assert 0 <= volumes[stem].min() <= volumes[stem].max() <= 1
    share = volumes["provenance"][~np.isnan(volumes["provenance"])]
    assert 0 <= share.min() <= share.max() <= 1
    facts = json.loads((folder / "result.json").read_text())
    assert {
        "normalisation",
        "seed",
        "num_inference_steps",
        "guidance",
        "largest_residual",
        "lesion_ml",
        "lesion_ml_interval",
        "versions",
    } <= set(facts)
    assert facts["largest_residual"] == pytest.approx(float(np.abs(volumes["residual"]).max()), rel=1e-4)
    assert facts["fused_at_bounds"] == 0


@pytest.mark.parametrize("place", ["bundle", "root", "elsewhere"])
def test_inference_from_anywhere_names_refused_cases_and_goes_on(place: str, trained: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(trained / "data", data)
    for n in range(4, 8):
        shutil.rmtree(data / f"phantom_000{n}")
    (data / "phantom_0000" / "ct.nii.gz").write_text("no volume")
    cwd = {"bundle": BUNDLE, "root": ROOT, "elsewhere": tmp_path}[place]
    config = {
        "bundle": "configs/inference.json",
        "root": "bundle/configs/inference.json",
        "elsewhere": str(BUNDLE / "configs/inference.json"),
    }
    where = ["--bundle_root", str(BUNDLE)] if place == "elsewhere" else []
    out = tmp_path / "out"
    start = run_process if place == "elsewhere" else run_bundle
    start(
        "--config_file",
        config[place],
        "--dataset_dir",
        str(data),
        "--output_dir",
        str(out),
        "--checkpoint",
        str(trained / "run" / "model.pt"),
        *where,
        *SMALL[:4],
        cwd=cwd,
    )
    errors = json.loads((out / "errors.json").read_text())
    assert list(errors) == ["phantom_0000"]
    assert "ct.nii.gz: expected a readable volume" in errors["phantom_0000"]
    for n in (1, 2, 3):
        check_results(out / f"phantom_000{n}", data / f"phantom_000{n}" / "mri.nii.gz")
    assert (out / "metrics.csv").exists()
    assert "phantom_0000" in (out / "report.html").read_text()


def test_a_single_pair_in_another_orientation_and_on_another_grid(trained: Path, tmp_path: Path) -> None:
    case = trained / "data" / "phantom_0002"
    mri, ct = (nib.load(case / f"{n}.nii.gz") for n in ("mri", "ct"))
    change = nib.orientations.ornt_transform(nib.io_orientation(mri.affine), nib.orientations.axcodes2ornt(("S", "L", "P")))
    nib.save(mri.as_reoriented(change), tmp_path / "x_mri.nii.gz")
    fine = nib.processing.resample_to_output(ct, (4.0, 4.0, 9.0), order=1, cval=-1000)
    nib.save(fine, tmp_path / "other.nii.gz")
    run_bundle(
        "--config_file",
        "configs/inference.json",
        "--mri",
        str(tmp_path / "x_mri.nii.gz"),
        "--ct",
        str(tmp_path / "other.nii.gz"),
        "--output_dir",
        str(tmp_path / "out"),
        "--checkpoint",
        str(trained / "run" / "model.pt"),
        *SMALL[:4],
    )
    check_results(tmp_path / "out" / "x", tmp_path / "x_mri.nii.gz")


def test_two_processes_train_and_the_first_alone_writes(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    text = run_process(
        "training",
        "--config_file",
        "['configs/train.json','configs/multi_gpu_train.json']",
        "--dataset_dir",
        str(trained / "data"),
        "--output_dir",
        str(out),
        "--max_epochs",
        "2",
        *SMALL,
        start=("-m", "torch.distributed.run", "--nproc_per_node=2"),
    )
    assert len((out / "history.jsonl").read_text().splitlines()) == 2
    best = re.findall(r"^epoch (\d+)/2  .*new best", text, re.MULTILINE)
    assert best[0] == "1"
    assert len(set(best)) == len(best)  # the second process said and wrote nothing
    assert len(re.findall(r"^report: ", text, re.MULTILINE)) == 1
    load = torch.load(out / "model.pt", weights_only=True)
    assert not any(k.startswith("module.") for k in load)
    assert not list(out.glob("previous-*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--stepz", "9"], "error: stepz: expected a knob of docs/README.md, got an unknown one"),
        (["--max_epoch", "9"], "did you mean max_epochs?"),
        (["--preset", "strok"], "error: preset: expected one of default, stroke"),
        (["--dataset_dir", "nowhere"], "error: dataset_dir: expected a folder of cases, found no folder nowhere"),
        (["--resume", "no/last.pt"], "error: no/last.pt: expected a checkpoint to resume (last.pt), found no such file"),
    ],
)
def test_bad_input_is_one_sentence_and_no_traceback(arguments: list[str], sentence: str, trained: Path, tmp_path: Path) -> None:
    given = ["--dataset_dir", str(trained / "data")] if "--dataset_dir" not in arguments else []
    text = run_bundle(
        "training",
        "--config_file",
        "configs/train.json",
        "--output_dir",
        str(tmp_path / "run"),
        *given,
        *SMALL[:6],
        *arguments,
        ok=False,
    )
    assert sentence in text
    assert "Traceback" not in text
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_single_pair_that_is_refused_ends_with_its_sentence(trained: Path, tmp_path: Path) -> None:
    mri = trained / "data" / "phantom_0002" / "mri.nii.gz"
    text = run_bundle(
        "--config_file",
        "configs/inference.json",
        "--mri",
        str(mri),
        "--ct",
        str(mri),
        "--output_dir",
        str(tmp_path / "out"),
        "--checkpoint",
        str(trained / "run" / "model.pt"),
        *SMALL[:4],
        ok=False,
    )
    assert "error: " in text
    assert "expected CT in HU (air near -1000, bone above 300), got values from" in text
    assert "Traceback" not in text


def test_a_volume_with_fewer_slices_than_a_patch_trains(tmp_path: Path) -> None:
    from roi_fusion_tools.phantoms.render import PhantomConfig
    from roi_fusion_tools.phantoms.write import write_phantoms

    list(write_phantoms(tmp_path / "data", 4, PhantomConfig(shape=(40, 52, 3), spacing_mm=(5.5, 5.0, 20.0)), seed=1))
    run_bundle(
        "training",
        "--config_file",
        "configs/train.json",
        "--dataset_dir",
        str(tmp_path / "data"),
        "--output_dir",
        str(tmp_path / "run"),
        "--max_epochs",
        "1",
        *SMALL[:4],
        "--patch_size",
        "[64,64,8]",
    )
    assert (tmp_path / "run" / "last.pt").exists()


#: Runs ``python -m monai.bundle ARGUMENTS`` in folders, each in a fork of a process that has imported MONAI and nothing else.
_FORKS = """
import json, os, sys
import fire, monai.bundle

assert not [name for name in sys.modules if name.startswith("roi_fusion")]
for cwd, arguments in json.loads(sys.argv[1]):
    if os.fork() == 0:
        os.chdir(cwd)
        sys.path[0] = cwd  # as `python -m` has it
        fire.Fire({"run": monai.bundle.run}, command=arguments)
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_the_package_imports_from_the_four_places(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "bundle"
    shutil.copytree(BUNDLE, copy, ignore=shutil.ignore_patterns("__pycache__", "runs", "results", "data", "models"))
    show = "import roi_fusion; print(roi_fusion.__file__)"
    config = {"imports": ["$import roi_fusion"], "run": ["$print('FOUND', roi_fusion.__file__)"]}
    (copy / "configs" / "show.json").write_text(json.dumps(config))

    def output(*arguments: str, cwd: Path) -> str:
        return subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=True
        ).stdout

    expected = str(copy / "roi_fusion" / "__init__.py")
    assert expected in output("-c", show, cwd=copy)
    assert expected in output("-c", f"import sys; sys.path.insert(0, {str(copy)!r}); {show}", cwd=tmp_path)
    places = [
        (copy, "configs/show.json"),
        (copy.parent, "bundle/configs/show.json"),
        (tmp_path, str(copy / "configs" / "show.json")),
    ]
    commands = [(str(cwd), ["run", "--config_file", file, "--bundle_root", str(copy)]) for cwd, file in places]
    found = [
        line.split()[1] for line in output("-c", _FORKS, json.dumps(commands), cwd=tmp_path).splitlines() if "FOUND" in line
    ]
    assert [(cwd / file).resolve() for (cwd, _), file in zip(places, found, strict=True)] == [Path(expected).resolve()] * 3


@pytest.mark.parametrize(("name", "kind"), [("train", "train"), ("inference", "infer")])
def test_no_property_is_missing(name: str, kind: str, trained: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / f"{name}.json"),
        workflow_type=kind,
        dataset_dir=str(trained / "data"),
        output_dir=str(trained / "properties"),
        logging_file=False,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert isinstance(workflow.network_def, RoiFusionNet)
    assert workflow.version == roi_fusion.__version__


def test_train_and_inference_share_their_preprocessing() -> None:
    train, inference = (json.loads((BUNDLE / "configs" / f"{n}.json").read_text()) for n in ("train", "inference"))
    expected = train["preprocessing"] + train["concatenation"]
    assert expected[0].pop("allow_missing") == "@allow_missing"
    assert inference["preprocessing"]["transforms"][0].pop("allow_missing") is True  # inference takes one volume alone too
    assert inference["preprocessing"]["transforms"] == expected
    assert inference["network_def"] == train["network_def"]


_TEXT = {"type": "string", "minLength": 1}
_FORMATS = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "type": "object",
        "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"],
    },
}
#: What MONAI's metadata schema demands, for a checkout that has not the schema itself beside it.
METADATA_SCHEMA = {
    "type": "object",
    "required": [
        "schema",
        "version",
        "changelog",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "required_packages_version",
        "task",
        "description",
        "authors",
        "copyright",
        "network_data_format",
    ],
    "properties": {
        **dict.fromkeys(
            ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors", "copyright"),
            _TEXT,
        ),
        "schema": {"type": "string", "pattern": "meta_schema_.*json$"},
        "changelog": {"type": "object", "additionalProperties": _TEXT},
        "required_packages_version": {"type": "object", "additionalProperties": _TEXT},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": _FORMATS, "outputs": _FORMATS},
        },
    },
}


def test_metadata_follows_the_schema_and_the_changelog() -> None:
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    schema = SHARED / "data" / "meta_schema_20240725.json"
    validate(metadata, json.loads(schema.read_text()) if schema.is_file() else METADATA_SCHEMA)
    assert metadata["version"] == roi_fusion.__version__
    assert metadata["version"] in metadata["changelog"]
    assert f"## {metadata['version']}" in (ROOT / "CHANGELOG.md").read_text()
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert len(channels) == metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == len(OUTPUT_CHANNELS)


def test_the_network_takes_and_gives_what_the_metadata_says() -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        config_file=str(BUNDLE / "configs" / "inference.json"),
        device="cpu",
        n=3,
        p=2,
    )


def test_the_shipped_weights_load_and_export(tmp_path: Path) -> None:
    weights = BUNDLE / "models" / "model.pt"
    assert weights.stat().st_size < 25e6
    network = RoiFusionNet().eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    exported = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(weights),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        config_file=str(BUNDLE / "configs" / "inference.json"),
        key_in_ckpt="",
        input_shape=[1, 2, 32, 32, 4],
    )
    image = torch.randn(1, 2, 40, 33, 3)
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(str(exported))(image), network(image), atol=1e-3)
