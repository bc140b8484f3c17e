# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Names are planted wherever a study has room for text; no byte of what leaves may hold one."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary

from helpers import FAST, SMALL
from in_process import run_bundle, run_cli
from raw_layouts import dicom_series, save
from roi_fusion.data.naming import Naming
from roi_fusion_tools.layouts import find_pairs
from roi_fusion_tools.phantoms.render import PhantomConfig
from unregistered import Pair, draw_pair

pytest.importorskip("itk")

NAME, DATE, NUMBER = "PLANTED", "19121103", "4711081500"
PLANTED = tuple(t.lower().encode() for t in (NAME, DATE, NUMBER))

#: Kinds of attributes that hold text a person may have typed, and a text for each.
TEXTS = {"PN": f"{NAME}^ANNA", "DA": DATE, "DT": f"{DATE}101112", "IS": NUMBER[:9]} | dict.fromkeys(
    ("LO", "SH", "LT", "ST", "UT", "UC", "AE"), NAME
)
#: Numbers that the reader goes by, and text in another form.
KEPT_AS_THEY_ARE = {"SeriesNumber", "InstanceNumber", "NumberOfFrames", "AcquisitionNumber", "TemporalPositionIdentifier"}


#: What begins as DICOM and says that it is deflated, which it is not.
BROKEN = b"\0" * 128 + b"DICM\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99" + NAME.encode() * 5


def plant(files: list[Path], description: str, patient: str) -> None:
    """Fill every text attribute that DICOM has, a private one too, and name the files after the patient."""
    fields = {
        entry[4]: TEXTS[entry[0]]
        for tag, entry in DicomDictionary.items()
        if entry[0] in TEXTS
        and entry[1].startswith("1")
        and not entry[3]
        and tag >> 16 in (0x8, 0x10, 0x18, 0x20, 0x32, 0x38, 0x40)
    }
    for number, file in enumerate(files):
        header = pydicom.dcmread(file)
        for keyword, text in fields.items():
            if keyword and keyword not in KEPT_AS_THEY_ARE and keyword not in header:
                setattr(header, keyword, text)
        header.PatientName, header.PatientID = TEXTS["PN"], patient
        header.SeriesDescription = f"{description} {NAME}"
        header.add_new(0x00091001, "LO", f"{NAME} private")
        header.save_as(file.with_name(f"{NAME}_{number:04d}_{file.name}"))
        file.unlink()


def plant_nifti(path: Path) -> Path:
    image: Any = nib.load(path)
    header = image.header
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        header[field] = NAME.encode()
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", f"{NAME} {NUMBER}".encode()))
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, header)
    path.unlink()
    nib.save(image, path)
    return path


@pytest.fixture(scope="module")
def pair() -> Pair:
    grid = PhantomConfig((72, 84, 18), (2.9, 2.8, 8.0))
    return draw_pair(101, "adc", grid, grid, np.eye(3), np.zeros(3))


@pytest.fixture(scope="module")
def raw(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two patients; the second one has lost a slice. Beside the first lie a mask and what is no mask."""
    root = tmp_path_factory.mktemp("raw")
    for patient in (f"{NAME}_ANNA", f"{NAME}_BERTA"):
        number = NUMBER + patient[-5]
        ct = dicom_series(root / patient / f"{NAME} ct", pair.ct, pair.ct_affine, "CT", number=2)
        if patient.endswith("BERTA"):
            ct.pop(5).unlink()
        plant(ct, "Head", number)
        plant(dicom_series(root / patient / "mr", pair.mri, pair.mri_affine, "MR", number=3), "ADC", number)
        plant(dicom_series(root / patient / "mr", pair.mri[..., :1], pair.mri_affine, "MR", number=4), "localizer", number)
        plant_nifti(save(root / patient / f"{NAME}_lesion_mask.nii.gz", pair.lesion, pair.mri_affine))
        plant_nifti(save(root / patient / f"{NAME}_head_mask.nii.gz", pair.brain, pair.mri_affine))
        (root / patient / "mr" / f"{NAME}_broken").write_bytes(BROKEN)
    (root / "splits.json").write_text(json.dumps({"train": [f"{NAME}_ANNA"], "val": [f"{NAME}_BERTA"], "test": []}))
    return root


def texts_in(content: bytes) -> Iterator[bytes]:
    """A file's bytes, what is packed in it, and what is packed in its base64."""
    yield content
    if content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    for packed in re.findall(rb"H4sI[A-Za-z0-9+/=]{64,}", content):
        yield gzip.decompress(base64.b64decode(packed))


def leaks(folder: Path) -> list[str]:
    """Files whose name or content holds what was planted."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder)).lower().encode()
        content = path.read_bytes() if path.is_file() else b""
        if any(p in text.lower() for text in (name, *texts_in(content)) for p in PLANTED):
            found.append(str(path.relative_to(folder)))
    return found


def bundle(config: str, **knobs: Any) -> str:
    return run_bundle("--config_file", f"configs/{config}.json", *(w for k, v in knobs.items() for w in (f"--{k}", str(v))))


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output of prepare and what it printed."""
    out = tmp_path_factory.mktemp("prepared") / "cases"
    options = ("--register", "false", "--num_workers", "0")
    return out, run_cli("prepare", "--input", str(raw), "--output", str(out), *options)


def test_the_search_finds_what_was_planted(raw: Path) -> None:
    found = leaks(raw)
    assert all(any(path in f for f in found) for path in ("lesion_mask.nii.gz", "splits.json", f"{NAME} ct"))
    nifti = next(raw.rglob("*lesion_mask.nii.gz"))
    assert PLANTED[0] not in nifti.read_bytes().lower()  # but only packed


def test_preparing_dicom_leaves_no_name(prepared: tuple[Path, str], name_key: Path) -> None:
    out, printed = prepared
    assert leaks(out) == []
    assert NAME.lower() not in printed.lower()
    (case,) = (p.parent for p in out.glob("*/case.json"))
    facts, record = (json.loads(p.read_text()) for p in (case / "case.json", out / "prepare.json"))
    assert (case / "lesion_mask.nii.gz").is_file()
    assert facts["subject"].startswith("patient-")
    (refused,) = record["errors"].values()
    assert "slices are missing" in refused
    assert json.loads((out / "splits.json").read_text())["train"] == [case.name]
    table = name_key.with_name("names.csv").read_text()
    assert f"{case.name},{NUMBER}" in table
    assert f"{NAME}_ANNA" in table


def test_unchanged_patients_are_kept(prepared: tuple[Path, str], raw: Path) -> None:
    options = ("--register", "false", "--num_workers", "0")
    again = run_cli("prepare", "--input", str(raw), "--output", str(prepared[0]), *options)
    assert "0 prepared, 1 kept, 1 refused" in again


def test_names_are_kept_where_they_are_asked_for(raw: Path) -> None:
    found = find_pairs(raw, naming=Naming("keep"))
    assert [c.case for c in found.cases] == [f"{NAME}_ANNA", f"{NAME}_BERTA"]


def test_inference_on_dicom_leaves_no_name(
    raw: Path, small_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = raw / f"{NAME}_ANNA"
    caplog.set_level(logging.INFO)
    printed = bundle(
        "inference", **FAST, mri=study / "mr", ct=study / f"{NAME} ct", output_dir=tmp_path, checkpoint=small_weights
    )
    assert leaks(tmp_path) == []
    assert NAME.lower() not in (printed + caplog.text).lower()
    (folder,) = (p.parent for p in tmp_path.glob("*/result.json"))
    facts = json.loads((folder / "result.json").read_text())
    assert (facts["mri"], facts["ct"]) == (f"dicom:{folder.name}/mri", f"dicom:{facts['ct'].split(':')[1]}")
    assert any("cannot be read and were passed over" in n for n in facts["reader_notices"])
    page = (tmp_path / "report.html").read_text()
    assert "H4sI" in page or "<img" in page  # the images were found behind their names
    broken = raw / f"{NAME}_BERTA" / f"{NAME} ct"
    said = run_bundle(
        *("--config_file", "configs/inference.json", "--mri", str(study / "mr"), "--ct", str(broken)),
        *("--output_dir", str(tmp_path), "--checkpoint", str(small_weights)),
        *(w for k, v in FAST.items() for w in (f"--{k}", str(v))),
        ok=False,
    )
    assert "slices are missing" in (tmp_path / "errors.json").read_text()
    assert leaks(tmp_path) == []
    assert NAME.lower() not in said.lower()


def test_headers_of_nifti_are_not_carried_on(pair: Pair, small_weights: Path, tmp_path: Path) -> None:
    raw = tmp_path / "sub-01"
    mri = plant_nifti(save(raw / "mri.nii.gz", pair.mri, pair.mri_affine))
    ct = plant_nifti(save(raw / "ct.nii.gz", pair.ct.astype(np.int16), pair.ct_affine))
    plant_nifti(save(raw / "lesion_mask.nii.gz", pair.lesion, pair.mri_affine))
    bundle("inference", **FAST, mri=mri, ct=ct, output_dir=tmp_path / "results", checkpoint=small_weights)
    assert leaks(tmp_path / "results") == []
    run_cli(
        "prepare",
        "--input",
        str(tmp_path / "sub-01" / ".."),
        "--output",
        str(tmp_path.with_name("cases_of_nifti")),
        "--register",
        "false",
    )
    assert leaks(tmp_path.with_name("cases_of_nifti")) == []


def test_a_training_with_mlflow_leaves_no_name(prepared: tuple[Path, str], tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (case,) = (p.parent for p in prepared[0].glob("*/case.json"))
    for name in ("patient-1", "patient-2", "patient-3"):
        shutil.copytree(case, tmp_path / "cases" / name)
        facts = json.loads((case / "case.json").read_text())
        (tmp_path / "cases" / name / "case.json").write_text(json.dumps({**facts, "subject": name}))
    (tmp_path / "cases" / "splits.json").write_text('{"train": ["patient-1"], "val": ["patient-2"], "test": ["patient-3"]}')
    small = {**SMALL, "patch_size": [32, 32, 4], "max_epochs": 1, "val_interval": 1, "num_inference_steps": 1, "batch_size": 1}
    bundle(
        "train",
        **small,
        tracking="configs/tracking.json",
        plausibility="warn",
        dataset_dir=tmp_path / "cases",
        output_dir=tmp_path / "training",
    )
    assert (tmp_path / "training" / "mlruns.db").is_file()
    assert leaks(tmp_path / "training") == []
