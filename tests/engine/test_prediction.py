# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The bundle from plain Python: `roi_fusion.predict`, `monai.bundle.load` and `create_workflow`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch

import roi_fusion
from conftest import BUNDLE
from helpers import documented_examples, pair_of, run_documented
from in_process import run_bundle
from roi_fusion.core.channels import OUTPUT_CHANNELS
from roi_fusion.core.network import RoiFusionNet
from roi_fusion.data.results import RESULT_FILES, read_result
from roi_fusion.engine.prediction import Predictor, prepare
from roi_fusion.errors import InputError

SMALL = {"network_def#channels": [8, 8, 12, 12], "network_def#denoiser_channels": [4, 4, 6]}


FAST = {**SMALL, "num_inference_steps": 2, "num_samples": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with small random weights, whose lesion threshold is not the default one."""
    folder = tmp_path_factory.mktemp("zoo") / "roi_fusion_bundle"
    (folder / "models").mkdir(parents=True)
    for name in ("configs", "roi_fusion"):
        (folder / name).symlink_to(BUNDLE / name)
    torch.manual_seed(0)
    network = RoiFusionNet(SMALL["network_def#channels"], SMALL["network_def#denoiser_channels"])
    with torch.no_grad():
        network.out.weight.normal_(0, 0.5)
    network.threshold.fill_(0.3)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def test_predict_returns_what_it_writes(bundle: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    mri, ct = pair_of(tiny_dataset)
    result = roi_fusion.predict(mri, ct, output_dir=tmp_path, bundle_root=bundle, **FAST)
    source = nib.load(mri)
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-5)
    assert result["affine"] is result.affine
    for name in ("lesion_ml", "no_such"):
        with pytest.raises(KeyError):
            result[name]
    for stem, dtype in RESULT_FILES.values():
        on_disk = nib.load(tmp_path / "phantom_0000" / f"{stem}.nii.gz")
        volume = getattr(result, stem)
        assert result[stem] is volume
        assert volume.shape == source.shape
        assert volume.dtype == dtype
        np.testing.assert_array_equal(volume, np.asarray(on_disk.dataobj))
        assert result.files[stem] == tmp_path / "phantom_0000" / f"{stem}.nii.gz"
        np.testing.assert_allclose(on_disk.affine, source.affine, atol=1e-4)
    facts = json.loads((tmp_path / "phantom_0000" / "result.json").read_text())
    assert facts["num_samples"] == 2
    assert result.files["result"] == tmp_path / "phantom_0000" / "result.json"
    assert (
        result.lesion_ml == facts["lesion_ml"] == pytest.approx(result.lesion.sum() * abs(np.linalg.det(source.affine)) / 1000)
    )
    assert (result.lesion_ml_interval, result.lesion_ml_interval_note) == (None, "the weights were not calibrated")
    assert list(result.warnings) == facts["warnings"]
    assert result.outside_training is None
    assert {k: v for k, v in result.facts.items() if k not in ("mri", "ct")} == {
        k: v for k, v in facts.items() if k not in ("mri", "ct")
    }
    # paths from the case's folder, no name of the machine among them
    assert not Path(facts["mri"]).is_absolute()
    assert (tmp_path / "phantom_0000" / facts["mri"]).samefile(mri)
    assert read_result(tmp_path / "phantom_0000")["ct"] == str(Path(ct).resolve())
    assert facts["weights"]["checkpoint"] == "model.pt"
    # the threshold is the weights' own
    np.testing.assert_array_equal(result.lesion > 0, result.lesion_prob > np.float32(0.3))


@pytest.mark.parametrize("missing", ["mri", "ct"])
def test_one_volume_alone_is_an_ordinary_input(missing: str, bundle: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    case = tmp_path / "data" / "phantom_0000"
    shutil.copytree(tiny_dataset / "phantom_0000", case)
    (case / f"{missing}.nii.gz").unlink()
    settings = dict(zip(FAST, FAST.values()))
    command = ["--config_file", str(bundle / "configs" / "inference.json"), "--dataset_dir", str(case.parent)]
    command += ["--bundle_root", str(bundle), "--output_dir", str(tmp_path / "out"), "--guidance", "logits"]
    command += [part for k, v in settings.items() for part in (f"--{k}", str(v))]
    run_bundle(*command)
    result = tmp_path / "out" / "phantom_0000"
    facts = json.loads((result / "result.json").read_text())
    assert facts["missing"] == missing
    assert any(w.startswith(f"no {missing.upper()}:") for w in facts["warnings"])
    assert facts["lesion_ml_interval"] is None
    assert f"no {missing.upper()}: " in (tmp_path / "out" / "report.html").read_text()
    fused, share = (np.asarray(nib.load(result / f"{n}.nii.gz").dataobj) for n in ("fused", "provenance"))
    assert np.isfinite(fused).all()
    assert np.isfinite(share[fused != 0]).any()
    assert fused.std() > 0
    assert facts[missing] == ""
    assert (result / facts[{"mri": "ct", "ct": "mri"}[missing]]).is_file()


def test_predict_equals_the_bundle_command(bundle: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    mri, ct = pair_of(tiny_dataset)
    knobs = [t for k, v in FAST.items() if k != "device" for t in (f"--{k}", str(v).replace(" ", ""))]
    command = ["--config_file", str(bundle / "configs" / "inference.json"), "--bundle_root", str(bundle), "--mri", str(mri)]
    run_bundle(*command, "--ct", str(ct), "--output_dir", str(tmp_path), *knobs)
    result = roi_fusion.predict(mri, ct, bundle_root=bundle, **FAST)
    for stem, _ in RESULT_FILES.values():
        on_disk = np.asarray(nib.load(tmp_path / "phantom_0000" / f"{stem}.nii.gz").dataobj)
        np.testing.assert_allclose(getattr(result, stem), on_disk, atol=1e-4 * max(1, np.nanmax(np.abs(on_disk))))


def test_a_predictor_serves_many_pairs_and_writes_nothing_unasked(bundle: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    predictor = Predictor(bundle / "models" / "model.pt", **FAST)
    first, second = (predictor(*pair_of(tiny_dataset, c)) for c in ("phantom_0000", "phantom_0001"))
    again = predictor(*pair_of(tiny_dataset))
    np.testing.assert_array_equal(first.fused, again.fused)
    assert not np.array_equal(first.fused, second.fused)
    assert first.files == {}
    assert not list(tmp_path.iterdir())


def test_prepare_gives_what_exported_models_take(tiny_dataset: Path) -> None:
    case = prepare(*pair_of(tiny_dataset))
    assert case["image"].shape[0] == 2
    assert abs(float(case["image"][case["image"] != 0].mean())) < 0.1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mri_path": None, "ct_path": None}, "mri_path and ct_path: expected a file for one of them at least, got none"),
        ({"mri_path": "absent.nii.gz"}, "expected a volume, found no such file"),
        ({"checkpoint": "absent.pt"}, "expected weights of this network, found no such file"),
        ({"num_samples": 0}, "num_samples: expected a whole number of 1 or more"),
        ({"num_step": 3}, "num_step: expected a knob .* did you mean"),
        ({"bundle_root": "absent"}, "expected the bundle's inference config, found no such file"),
        ({"output_dir": __file__}, "output_dir: expected a folder, got the file"),
    ],
)
def test_bad_input_is_one_sentence(bundle: Path, tiny_dataset: Path, changes: dict, sentence: str) -> None:
    mri, ct = pair_of(tiny_dataset)
    with pytest.raises(InputError, match=sentence) as caught:
        roi_fusion.predict(**{"mri_path": mri, "ct_path": ct, "bundle_root": bundle, **FAST, **changes})
    assert "\n" not in str(caught.value)


def test_a_broken_volume_is_one_sentence(bundle: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    ct = pair_of(tiny_dataset)[1]
    (tmp_path / "mri.nii.gz").write_bytes(b"no nifti")
    with pytest.raises(InputError, match=r"mri\.nii\.gz: expected a readable volume"):
        roi_fusion.predict(tmp_path / "mri.nii.gz", ct, bundle_root=bundle, **FAST)


def test_the_documented_examples_run(tiny_dataset: Path, tmp_path: Path) -> None:
    """`predict`, `Predictor`, `monai.bundle.load` and `create_workflow`."""
    torch.save(RoiFusionNet().state_dict(), tmp_path / "weights.pt")
    checks = "assert fused.shape == image.shape[2:]; assert roi_fusion.__file__.startswith(__import__('os').getcwd())"
    run_documented(tmp_path, tiny_dataset, tmp_path / "weights.pt", documented_examples() + checks)
    folder = tmp_path / "results"
    assert all((folder / tmp_path.name / f"{stem}.nii.gz").is_file() for stem, _ in RESULT_FILES.values())


def test_monai_bundle_load(bundle: Path, tiny_dataset: Path) -> None:
    network = monai.bundle.load(
        bundle.name,
        bundle_dir=str(bundle.parent),
        workflow_type="inference",
        device="cpu",
        net_override={k.split("#")[1]: v for k, v in SMALL.items()},
    )
    image = prepare(*pair_of(tiny_dataset))["image"].as_tensor()
    with torch.inference_mode():
        pred = network.eval()(image[None])
    assert pred.shape == (1, len(OUTPUT_CHANNELS), *image.shape[1:])
    assert float(network.threshold) == pytest.approx(0.3)


def test_create_workflow(bundle: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    workflow = monai.bundle.create_workflow(
        config_file=str(bundle / "configs" / "inference.json"),
        workflow_type="inference",
        bundle_root=str(bundle),
        dataset_dir=str(tiny_dataset),
        split="test",
        output_dir=str(tmp_path / "results"),
        **FAST,
    )
    workflow.run()
    workflow.finalize()
    cases = json.loads((tiny_dataset / "splits.json").read_text())["test"]
    assert all((tmp_path / "results" / case / "fused.nii.gz").is_file() for case in cases)
