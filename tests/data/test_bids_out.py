# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from raw_layouts import save
from roi_fusion.data.bids_out import BIDS_FOLDER, bids_names, write_bids, write_run
from roi_fusion.errors import InputError

AFFINE = np.diag([1.0, 1.0, 5.0, 1.0])
SHA = "ab" * 32


def result(folder: Path, mri: Path | str, **facts: Any) -> Path:
    """A folder as inference leaves it."""
    rng = np.random.default_rng(len(folder.name))
    lesion = (rng.random((6, 7, 4)) > 0.7).astype(np.uint8)
    arrays = {
        "fused": rng.random((6, 7, 4)).astype(np.float32),
        "lesion": lesion,
        "lesion_prob": 0.9 * lesion.astype(np.float32),
    }
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, AFFINE), folder / f"{name}.nii.gz")
    content = {
        "case": folder.name,
        "mri": str(mri),
        "ct": "",
        "lesion_ml": 1.5,
        "lesion_ml_interval": [0.5, 3.0],
        "lesion_threshold": 0.45,
        "weights": {"sha256": SHA},
        "versions": {"roi_fusion": "0.2.0"},
    }
    (folder / "result.json").write_text(json.dumps({**content, **facts}))
    return folder


@pytest.fixture
def results(tmp_path: Path) -> list[Path]:
    """Results of prepared cases, of a BIDS tree, of DICOM, and of the CT alone."""
    cases, raw = tmp_path / "cases", tmp_path / "raw"
    for case, contrast in (("sub-01_ses-2", "dwi"), ("patient-3f_7", "flair"), ("sub-06", "adc"), ("sub-07", "t1")):
        save(cases / case / "mri.nii.gz", np.zeros((3, 3, 3)), AFFINE)
        (cases / case / "case.json").write_text(json.dumps({"contrast": contrast}))
    save(raw / "sub-03" / "anat" / "sub-03_T2w.nii.gz", np.zeros((3, 3, 3)), AFFINE)
    (raw / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.8.0"}')
    named = tmp_path / "results"
    found = [result(named / c.name, c / "mri.nii.gz") for c in sorted(cases.iterdir())]
    found.append(result(named / "sub-03", raw / "sub-03" / "anat" / "sub-03_T2w.nii.gz"))
    found.append(result(named / "sub-04", "dicom:patient-1/mri", contrast="t2", ct="dicom:patient-1/ct"))
    found.append(result(named / "sub-05", "", ct=str(cases / "sub-05" / "ct.nii.gz")))
    return found


def files_in(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


def both(*stems: str) -> set[str]:
    return {f"{stem}{end}" for stem in stems for end in (".nii.gz", ".json")}


def test_the_tree_and_its_sources(results: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "derivatives" / "roi_fusion"
    assert write_bids(results, root) == {}
    fused = {
        "sub-01/ses-2/dwi/sub-01_ses-2": "trace",
        "sub-patient3f7/anat/sub-patient3f7": "FLAIR",
        "sub-03/anat/sub-03": "T2w",
        "sub-04/anat/sub-04": "T2w",
        "sub-06/dwi/sub-06": "ADC",
        "sub-07/anat/sub-07": "T1w",
    }
    stems = [f"{stem}_desc-fused_{suffix}" for stem, suffix in fused.items()]
    for stem in (*fused, "sub-05/anat/sub-05"):
        stems += [f"{stem}_label-lesion_mask", f"{stem}_label-lesion_probseg"]
    assert files_in(root) == both(*stems) | {"dataset_description.json", "README"}
    mask = nib.load(root / "sub-03/anat/sub-03_label-lesion_mask.nii.gz")
    source = nib.load(results[4] / "lesion.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(source.dataobj))
    sidecar = json.loads((root / "sub-03/anat/sub-03_label-lesion_mask.json").read_text())
    assert (sidecar["WeightsSHA256"], sidecar["LesionVolumeML"], sidecar["Type"]) == (SHA, 1.5, "Lesion")
    links = json.loads((root / "dataset_description.json").read_text())["DatasetLinks"]
    _, link, path = sidecar["Sources"][0].split(":")
    assert (root / links[link] / path).resolve() == tmp_path / "raw/sub-03/anat/sub-03_T2w.nii.gz"
    sidecar = json.loads((root / "sub-01/ses-2/dwi/sub-01_ses-2_desc-fused_trace.json").read_text())
    _, link, path = sidecar["Sources"][0].split(":")
    assert (root / links[link] / path).resolve() == tmp_path / "cases/sub-01_ses-2/mri.nii.gz"
    dicom = json.loads((root / "sub-04/anat/sub-04_desc-fused_T2w.json").read_text())
    assert dicom["Sources"] == ["dicom:patient-1/mri", "dicom:patient-1/ct"]
    assert str(tmp_path) not in "".join(p.read_text() for p in root.rglob("*.json"))


def test_the_validator_of_bids_finds_no_error(results: list[Path], tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("bids-validator-deno")
    if not tool.is_file() and not (tool := Path(shutil.which("bids-validator-deno") or "")).is_file():
        pytest.skip("bids-validator-deno is not installed (pip install bids-validator-deno)")
    root = tmp_path / "derivatives" / "roi_fusion"
    write_bids(results, root)

    def issues() -> dict[str, list[str]]:
        done = subprocess.run([str(tool), str(root), "--json"], capture_output=True, text=True, timeout=300)
        found: dict[str, list[str]] = {"error": [], "warning": []}
        for one in json.loads(done.stdout)["issues"]["issues"]:
            found[one["severity"]].append(f"{one['code']} {one.get('subCode', '')} {one.get('location', '')}")
        return found

    assert issues()["error"] == []
    (root / "sub-03" / "anat" / "sub-03_lesion.nii.gz").write_bytes((results[0] / "lesion.nii.gz").read_bytes())
    assert any("sub-03_lesion.nii.gz" in e for e in issues()["error"])  # it looks at the names


def test_more_cases_are_added_and_written_again(results: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "bids"
    write_bids(results[:1], root)
    before = files_in(root)
    write_bids(results[1:2], root)
    write_bids(results[:1], root)
    assert before < files_in(root)
    assert len(json.loads((root / "dataset_description.json").read_text())["DatasetLinks"]) == 1


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "results"
    mri = save(tmp_path / "x.nii.gz", np.zeros((3, 3, 3)), AFFINE)
    unknown = result(out / "a-1", mri)
    same, stale = result(out / "a_1", mri), result(out / "b", mri, stale="of an earlier run")
    left = write_bids([unknown, same, stale], tmp_path / "bids")
    assert "expected an MRI whose contrast is known" in left["a-1"]
    assert "expected a BIDS label of its own, got that of a-1" in left["a_1"]
    assert "those of an earlier run" in left["b"]
    assert not (tmp_path / "bids").exists()
    assert set(write_bids([unknown], tmp_path / "bids", "t2")) == set()
    write_run(out, "true")
    assert "not written as BIDS" in caplog.text
    assert not (out / BIDS_FOLDER).exists()
    with pytest.raises(InputError, match="contrast: expected one of t1, t2, flair, dwi, adc, got 'swi'"):
        write_bids([unknown], tmp_path / "bids", "swi")
    with pytest.raises(InputError, match="expected a new folder or a BIDS derivative data set of ROI Fusion, got another"):
        write_bids([unknown], out, "t2")


def test_labels() -> None:
    assert bids_names("sub-A1_ses-b") == ("sub-A1", "ses-b")
    assert bids_names("sub-01_acq-x") == ("sub-sub01acqx", "")
