# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

import csv
import hashlib
import hmac
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from raw_layouts import dicom_series, save
from roi_fusion.data.naming import Naming, default_key, hidden, original_of, tells_a_patient
from roi_fusion.errors import InputError

ARRAY = np.arange(4 * 5 * 3).reshape(4, 5, 3)


def table(key: Path) -> dict[str, str]:
    with key.with_name("names.csv").open(newline="") as file:
        return {r["name"]: r["original"] for r in csv.DictReader(file)}


def test_a_name_is_an_hmac_of_the_key_and_the_same_again(tmp_path: Path) -> None:
    key = tmp_path / "settings" / "key"
    name = Naming(name_key=key).name("KEEP-4711", "patient")
    digest = hmac.new(key.read_bytes().strip(), b"patient\0KEEP-4711", hashlib.sha256).hexdigest()
    assert name == f"patient-{digest[:12]}"
    assert Naming(name_key=key).name("KEEP-4711", "patient") == name
    assert Naming(name_key=tmp_path / "other").name("KEEP-4711", "patient") != name
    assert Naming(name_key=key).name("KEEP-4712", "patient") != name
    assert len(key.read_bytes().strip()) == 64


@pytest.mark.skipif(os.name != "posix", reason="rights are those of POSIX")
def test_key_and_table_are_for_the_user_alone(tmp_path: Path) -> None:
    key = tmp_path / "key"
    Naming(name_key=key).patient("KEEP-4711", "1.2")
    for path in (key, key.with_name("names.csv"), key.with_name("names.lock")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["key", "names.csv", "names.lock"]


def test_names_lead_back_and_stand_once_in_the_table(tmp_path: Path) -> None:
    naming = Naming(name_key=tmp_path / "key")
    names = {naming.patient(i, "1.2.3") for i in ("A,1", 'say "B"', "A,1", "anonymous", "")}
    assert sorted(table(tmp_path / "key").values()) == ["1.2.3", "A,1", 'say "B"']
    assert set(table(tmp_path / "key")) == names
    assert naming.patient("anonymous", "1.2.3").startswith("unnamed-")


def test_a_pair_of_dicom_is_named_by_patient_and_series(tmp_path: Path) -> None:
    dicom_series(tmp_path / "Doe" / "mr", ARRAY, np.eye(4), "MR", patient="4711", number=1)
    dicom_series(tmp_path / "Doe" / "flair", ARRAY, np.eye(4), "MR", patient="4711", number=2)
    (ct,) = (dicom_series(tmp_path / "Doe" / "ct", ARRAY, np.eye(4), "CT", patient="4711"),)
    naming = Naming(name_key=tmp_path / "key")
    given = {"image": str(tmp_path / "Doe" / "mr"), "ct": ",".join(map(str, ct))}
    entry = naming.entry(given)
    assert set(entry) == {"case", "image_shown", "ct_shown"}
    assert "Doe" not in str(entry)
    assert "4711" not in str(entry)
    assert [original_of(entry[f"{k}_shown"]) for k in given] == list(given.values())
    other = naming.entry({"image": str(tmp_path / "Doe" / "flair")})["case"]
    assert other != entry["case"]
    assert other.split("_")[0] == entry["case"].split("_")[0] == naming.patient("4711", "")
    assert naming.entry({"ct": given["ct"]})["case"].split("_")[0] == naming.patient("4711", "")


def test_files_that_users_named_keep_their_names(tmp_path: Path) -> None:
    nifti = save(tmp_path / "sub-01_T2w.nii.gz", ARRAY.astype(float), np.eye(4))
    assert Naming(name_key=tmp_path / "key").entry({"image": str(nifti)}) == {}
    dicom_series(tmp_path / "mr", ARRAY, np.eye(4), "MR")
    assert Naming("keep", tmp_path / "key").entry({"image": str(tmp_path / "mr")}) == {}
    assert not (tmp_path / "key").exists()


def test_a_path_of_another_user_stays_a_name(tmp_path: Path) -> None:
    assert original_of("dicom:patient-0/mri") == "dicom:patient-0/mri"
    assert original_of(str(tmp_path)) == str(tmp_path)


def test_faults_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="names: expected one of hash, keep, got 'hashed'"):
        Naming("hashed")
    with pytest.raises(InputError, match="name_key: expected a file outside of the output"):
        Naming(name_key=tmp_path / "out" / "key", output_dir=tmp_path / "out")
    (tmp_path / "short").write_text("secret\n")
    with pytest.raises(InputError, match="name_key: expected a key of 32 characters or more, got 6 in"):
        Naming(name_key=tmp_path / "short").name("a", "b")
    with pytest.raises(
        InputError, match=r"name_key: expected a place for the key .*; --name_key FILE names another, --names keep"
    ):
        Naming(name_key=tmp_path / "short" / "key").name("a", "b")
    monkeypatch.delenv("ROI_FUSION_NAME_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "conf"))
    assert default_key() == tmp_path / "conf" / "roi_fusion" / "name_key"


def test_texts_are_hidden_wherever_they_stand() -> None:
    names = {"/raw/Doe": "case-1", "/raw/Doe/mask.nii": "case-1, a mask"}
    content = {"a": ["/raw/Doe/mask.nii: empty", 3], "b": {"c": "/raw/Doe/x"}}
    assert hidden(content, names) == {"a": ["case-1, a mask: empty", 3], "b": {"c": "case-1/x"}}


def test_ids_that_tell_nobody() -> None:
    assert not any(map(tells_a_patient, ("", " Anonymous ", "0", "N/A")))
    assert tells_a_patient("4711")
