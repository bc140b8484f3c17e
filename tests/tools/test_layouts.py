# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""Finding goes by names and DICOM headers; volumes are not read, so empty files do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from raw_layouts import dicom_series
from roi_fusion.errors import InputError
from roi_fusion_tools.layouts import CaseSource, find_pairs
from roi_fusion_tools.layouts.names import role_of, safe_name


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def only(root: Path, layout: str, **options: str) -> CaseSource:
    found = find_pairs(root, **options)
    assert found.layout == layout
    assert len(found.cases) == 1
    return found.cases[0]


def test_case_folders_and_preproc(tmp_path: Path) -> None:
    touch(tmp_path, "preproc/train_000/ct.nii.gz", "preproc/train_000/adc.mha", "preproc/train_000/lesion_mask.nrrd")
    touch(tmp_path, "preproc/train_000/brain_mask.nii.gz", "splits/train.txt")
    case = only(tmp_path, "cases")
    assert (case.case, case.contrast, case.refused) == ("train_000", "adc", None)
    assert str(case.mri).endswith("adc.mha")
    assert str(case.lesion_mask).endswith("lesion_mask.nrrd")
    assert str(case.brain_mask).endswith("brain_mask.nii.gz")
    assert find_pairs(tmp_path).splits == tmp_path / "splits"


def test_flat_pairs(tmp_path: Path) -> None:
    touch(tmp_path, "x_mri.nii.gz", "x_ct.nii.gz", "x_lesion_mask.nii.gz", "a_b_flair.nii", "a_b_ncct.nii", "y_mri.nii.gz")
    found = find_pairs(tmp_path)
    assert found.layout == "pairs"
    x, y = found.cases[1:]
    assert [c.case for c in found.cases] == ["a_b", "x", "y"]
    assert found.cases[0].contrast == "flair"
    assert x.lesion_mask is not None
    assert y.refused == f"y: expected an MRI and a CT, found no CT but: {tmp_path / 'y_mri.nii.gz'}"
    assert "2 pairs" in found.summary()
    assert "1 refused" in found.summary()


def test_a_case_may_be_called_like_a_part(tmp_path: Path) -> None:
    cases = ("LVO_1", "brain_1", "label")
    touch(tmp_path, *(f"{case}_{part}.nii.gz" for case in cases for part in ("ct", "mri", "lesion_mask")))
    found = find_pairs(tmp_path)
    assert [(c.case, c.refused) for c in found.cases] == [(case, None) for case in cases]
    assert all(str(c.lesion_mask).endswith(f"{c.case}_lesion_mask.nii.gz") for c in found.cases)


def test_bids_with_one_and_with_several_sessions(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/ses-1/ct/sub-01_ses-1_ct.nii.gz", "sub-01/ses-2/dwi/sub-01_ses-2_dwi.nii.gz")
    touch(tmp_path, "sub-01/ses-2/anat/sub-01_ses-2_T2w.nii.gz", "sub-01/ses-1/perf/sub-01_ses-1_cbf.nii.gz")
    touch(tmp_path, "derivatives/lesions/sub-01/ses-2/sub-01_ses-2_space-dwi_desc-lesion_mask.nii.gz")
    for session in ("ses-a", "ses-b"):
        touch(tmp_path, f"sub-02/{session}/sub-02_{session}_ct.nii.gz", f"sub-02/{session}/sub-02_{session}_acq-x_adc.nii.gz")
    found = find_pairs(tmp_path)
    assert found.layout == "bids"
    assert [c.case for c in found.cases] == ["sub-01", "sub-02_ses-a", "sub-02_ses-b"]
    first = found.cases[0]
    assert (first.contrast, first.notes) == ("dwi", ["MRI: took dwi, passed over t2"])
    assert first.lesion_mask is not None
    assert find_pairs(tmp_path, contrast="t2").cases[0].contrast == "t2"


def test_freesurfer_derivatives_are_no_masks(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/ct/sub-01_ct.nii.gz", "sub-01/anat/sub-01_T1w.nii.gz")
    touch(tmp_path, *(f"derivatives/freesurfer/sub-01/mri/{n}.mgz" for n in ("brain", "brainmask", "T1")))
    case = only(tmp_path, "bids")
    assert (case.refused, case.brain_mask) == (None, None)


def test_isles24(tmp_path: Path) -> None:
    s = "rawdata/sub-stroke0001"
    touch(tmp_path, f"{s}/ses-01/sub-stroke0001_ses-01_ncct.nii.gz", f"{s}/ses-01/sub-stroke0001_ses-01_cta.nii.gz")
    touch(tmp_path, f"{s}/ses-02/sub-stroke0001_ses-02_adc.nii.gz", f"{s}/ses-02/sub-stroke0001_ses-02_dwi.nii.gz")
    touch(tmp_path, "derivatives/sub-stroke0001/ses-02/sub-stroke0001_ses-02_lesion-msk.nii.gz")
    kinds = ("tmax", "lvo-msk", "cow-msk")
    touch(tmp_path, *(f"derivatives/sub-stroke0001/ses-01/sub-stroke0001_ses-01_space-ncct_{kind}.nii.gz" for kind in kinds))
    case = only(tmp_path, "isles24")
    assert (case.case, case.contrast, case.refused) == ("sub-stroke0001", "adc", None)
    assert case.lesion_mask is not None
    assert str(case.ct).endswith("ncct.nii.gz")


@pytest.mark.parametrize("layout", ["auto", "isles24"])
def test_isles24_as_published_with_all_of_the_follow_up_on_the_grid_of_the_ncct(layout: str, tmp_path: Path) -> None:
    """The tree of https://zenodo.org/records/16748089."""
    maps, both = ("cbf", "cbv", "mtt", "tmax"), ("sub-stroke0001", "sub-stroke0002")
    for s in both:
        first, second = f"derivatives/{s}/ses-01/", f"derivatives/{s}/ses-02/{s}_ses-02_space-ncct"
        touch(tmp_path, *(f"raw_data/{s}/ses-01/{s}_ses-01_{kind}.nii.gz" for kind in ("ncct", "cta", "ctp")))
        touch(tmp_path, *(f"raw_data/{s}/ses-01/perfusion-maps/{s}_ses-01_{kind}.nii.gz" for kind in maps))
        touch(tmp_path, *(f"{first}perfusion-maps/{s}_ses-01_space-ncct_{kind}.nii.gz" for kind in maps))
        touch(tmp_path, *(f"{first}{s}_ses-01_space-ncct_{kind}.nii.gz" for kind in ("cta", "ctp", "lvo-msk", "cow-msk")))
        touch(tmp_path, *(f"{second}_{kind}.nii.gz" for kind in ("dwi", "adc")))
    lesion = touch(tmp_path, f"{second}_lesion-msk.nii.gz") / f"{second}_lesion-msk.nii.gz"
    found = find_pairs(tmp_path, layout)
    assert (found.layout, [c.case for c in found.cases]) == ("isles24", list(both))
    assert [(c.contrast, c.refused) for c in found.cases] == [("adc", None)] * 2
    assert [c.lesion_mask for c in found.cases] == [None, lesion]  # a vessel is no lesion, even where there is no other mask
    assert str(found.cases[1].mri).endswith("derivatives/sub-stroke0002/ses-02/sub-stroke0002_ses-02_space-ncct_adc.nii.gz")
    assert str(found.cases[1].ct).endswith("raw_data/sub-stroke0002/ses-01/sub-stroke0002_ses-01_ncct.nii.gz")


@pytest.mark.parametrize("nested", [True, False])
def test_apis(nested: bool, tmp_path: Path) -> None:
    for kind, name in (("ct", "ct"), ("adc", "adc"), ("lesion_masks", "lesion")):
        touch(tmp_path, f"raw/{kind}/train_000/{name}.nii.gz" if nested else f"raw/{kind}/train_000.nii.gz")
    case = only(tmp_path, "apis")
    assert (case.case, case.contrast, case.refused) == ("train_000", "adc", None)
    assert case.lesion_mask is not None


def volume() -> np.ndarray:
    return np.zeros((8, 9, 4), np.int16)


def test_dicom_by_folder_with_a_localiser(tmp_path: Path) -> None:
    dicom_series(tmp_path / "p1", volume(), np.eye(4), "CT", description="head", number=2)
    dicom_series(tmp_path / "p1", volume(), np.eye(4), "CT", description="Topogram", number=1)
    dicom_series(tmp_path / "p1" / "mr", volume(), np.eye(4), "MR", description="t2_tirm_tra_dark-fluid", number=3)
    touch(tmp_path, "p1/notes.txt")
    case = only(tmp_path, "dicom")
    assert (case.case, case.contrast, case.refused) == ("p1", "flair", None)
    assert any("(series 1): a localiser" in n for n in case.notes)
    assert len(case.files()) == 8


def test_dicom_by_patient_where_folders_are_modalities(tmp_path: Path) -> None:
    for patient in ("A", "B"):
        dicom_series(tmp_path / "CT" / patient, volume(), np.eye(4), "CT", description="head", patient=patient)
        dicom_series(tmp_path / "MR" / patient, volume(), np.eye(4), "MR", description="ADC", patient=patient)
    assert [c.case for c in find_pairs(tmp_path).cases] == ["A", "B"]


def test_only_a_localiser_is_no_pair(tmp_path: Path) -> None:
    dicom_series(tmp_path / "p1", volume(), np.eye(4), "CT", description="Topogram", number=1)
    dicom_series(tmp_path / "p1" / "mr", volume(), np.eye(4), "MR", description="ADC", number=3)
    with pytest.raises(InputError, match=r"found no CT but: .*\(series 1\): a localiser"):
        find_pairs(tmp_path)


def test_two_candidates_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/ct.nii.gz", "a/ct_thin.nii.gz", "a/mri.nii.gz", "b/ct.nii.gz", "b/mri.nii.gz")
    bad, good = find_pairs(tmp_path).cases
    assert bad.refused is not None
    assert bad.refused.startswith("a: expected one CT, got 2 candidates: ")
    assert good.refused is None


def test_no_pair_says_what_was_found(tmp_path: Path) -> None:
    touch(tmp_path, "deep/down/scan.nii.gz", "readme.txt")
    with pytest.raises(InputError, match=r"expected an MRI and a CT of one patient, found none among 2 files .*deep/down/scan"):
        find_pairs(tmp_path)
    with pytest.raises(InputError, match="in layout bids, found none"):
        find_pairs(tmp_path, "bids")
    touch(tmp_path, "c1/ct.nii.gz")
    with pytest.raises(InputError, match="the nearest to a pair was c1: expected an MRI and a CT, found no MRI but"):
        find_pairs(tmp_path)


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="input_dir: expected a folder"):
        find_pairs(tmp_path / "none")
    with pytest.raises(InputError, match="layout: expected one of auto"):
        find_pairs(tmp_path, "bits")
    with pytest.raises(InputError, match="contrast: expected one of auto"):
        find_pairs(tmp_path, contrast="t3")


def test_masks_of_other_programs(tmp_path: Path) -> None:
    touch(tmp_path / "d", "a/ct.nii.gz", "a/mri.nii.gz")
    touch(tmp_path / "m", "a/brain.nii.gz", "a/skull.nii.gz", "a/mask.nii.gz")
    case = only(tmp_path / "d", "cases", masks_dir=str(tmp_path / "m"))
    assert case.brain_mask == tmp_path / "m" / "a" / "brain.nii.gz"
    assert case.bone_mask == tmp_path / "m" / "a" / "skull.nii.gz"
    assert case.notes == [f"left alone, as the name says neither brain nor bone: {tmp_path / 'm' / 'a' / 'mask.nii.gz'}"]
    touch(tmp_path / "m", "a/brain_mask.nii.gz")
    assert "expected one brain mask, got 2" in str(only_refused(tmp_path / "d", tmp_path / "m"))
    with pytest.raises(InputError, match="masks_dir: expected a folder"):
        find_pairs(tmp_path / "d", masks_dir=tmp_path / "none")


def only_refused(root: Path, masks: Path) -> str | None:
    return find_pairs(root, masks_dir=masks).cases[0].refused


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("lesion", "lesion_mask"),
        ("x_lesion_mask", "lesion_mask"),
        ("x_stroke", "lesion_mask"),
        ("stroke_seg", "lesion_mask"),
        ("infarct_roi", "lesion_mask"),
        ("lesion_adc_mask", "lesion_mask"),
        ("lesion_r1", "lesion_mask"),
        ("sub-01_ses-1_label-lesion_mask", "lesion_mask"),
        ("sub-stroke0001_ses-02_lesion-msk", "lesion_mask"),
        ("mask", "other_mask"),
        ("head_mask", "other_mask"),
        ("adc_mask", "other_mask"),
        ("seg", "other_mask"),
        ("labels", "other_mask"),
        ("mask_r1", "other_mask"),
        ("stroke_01_mask", "other_mask"),  # the case is called stroke_01
        ("sub-stroke0001_ses-01_lvo-msk", "other_mask"),
        ("brain_mask", "brain_mask"),
        ("head_ct_stroke", "ct"),  # a protocol
        ("ct_in_mri_space", "ct"),
        ("brain_01_ct_thin", "ct"),
        ("sub-stroke0001_ses-01_ctp", ""),
        ("notes", ""),
    ],
)
def test_what_a_name_says(name: str, role: str) -> None:
    assert role_of(name)[0] == role


def test_masks_that_do_not_say_lesion_are_named_and_left_alone_in_every_layout(tmp_path: Path) -> None:
    files = {
        "cases": ("a/ct.nii.gz", "a/mri.nii.gz", "a/mask.nii.gz"),
        "pairs": ("a_ct.nii.gz", "a_mri.nii.gz", "a_head_mask.nii.gz"),
        "bids": ("sub-1/sub-1_ct.nii.gz", "sub-1/sub-1_dwi.nii.gz", "derivatives/sub-1/sub-1_space-dwi_mask.nii.gz"),
        "isles24": ("sub-stroke1/ses-1/sub-stroke1_ncct.nii.gz", "sub-stroke1/ses-2/sub-stroke1_adc.nii.gz")
        + ("derivatives/sub-stroke1/ses-2/sub-stroke1_msk.nii.gz",),
        "apis": ("raw/ct/a.nii.gz", "raw/adc/a.nii.gz", "raw/masks/a.nii.gz"),
    }
    for layout, names in files.items():
        touch(tmp_path / layout, *names)
        case = only(tmp_path / layout, layout)
        assert (case.refused, case.lesion_mask) == (None, None)
        assert case.notes == [f"left alone, as the name says neither lesion nor stroke: {tmp_path / layout / names[2]}"]


def test_subjects(tmp_path: Path) -> None:
    """By the folder of the subject, by case.json of an earlier preparation, by a BIDS-like name, else the case."""
    sessions = [f"sub-02/{s}/sub-02_{s}_{kind}.nii.gz" for s in ("ses-a", "ses-b") for kind in ("ct", "adc")]
    touch(tmp_path / "bids", "sub-01/sub-01_ct.nii.gz", "sub-01/sub-01_dwi.nii.gz", *sessions)
    assert [c.subject for c in find_pairs(tmp_path / "bids").cases] == ["sub-01", "sub-02", "sub-02"]
    cases = [f"{c}/{kind}.nii.gz" for c in ("p", "q") for kind in ("ct", "mri")]
    touch(tmp_path / "cases", *cases)
    (tmp_path / "cases" / "q" / "case.json").write_text('{"subject": "someone"}')
    assert {c.case: c.subject for c in find_pairs(tmp_path / "cases").cases} == {
        "p": "p",
        "q": "someone",
    }
    flat = [f"sub-0{s}_ses-{n}_{kind}.nii.gz" for s, n in ((1, 1), (1, 2), (2, 1)) for kind in ("ct", "mri")]
    nested = [f.replace("_ct", "/ct").replace("_mri", "/mri") for f in flat]
    for name, files in (("flat", flat), ("nested", nested)):
        touch(tmp_path / name, *files)
        assert [(c.case, c.subject) for c in find_pairs(tmp_path / name).cases] == [
            ("sub-01_ses-1", "sub-01"),
            ("sub-01_ses-2", "sub-01"),
            ("sub-02_ses-1", "sub-02"),
        ]


def test_a_pair_beside_the_subjects_of_bids_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, *(f"{folder}/{kind}.nii.gz" for folder in ("sub-01", "control7") for kind in ("ct", "mri")))
    assert [c.case for c in find_pairs(tmp_path).cases] == ["sub-01"]
    assert caplog.messages == ["layout bids: left out 1 folder with a pair: control7 (--layout cases takes it)"]
    assert [c.case for c in find_pairs(tmp_path, "cases").cases] == ["control7", "sub-01"]


def add_pair(root: Path, patient: str, study: str, mr_study: str | None = None, place: str | None = None) -> None:
    """A CT and an MRI of one patient, by default in folders of the modality."""
    ct, mr = (root / place, root / place) if place else (root / "CT", root / "MR")
    number = len(list(root.rglob("s*_*")))
    for folder, modality, uid in ((ct, "CT", study), (mr, "MR", mr_study or study)):
        name = f"{modality}{number}"
        dicom_series(folder / name, volume(), np.eye(4), modality, description="ADC", patient=patient, study=uid)


def series_of(case: CaseSource) -> set[str]:
    return {s.patient_id for s in (case.mri, case.ct)}  # type: ignore[union-attr]


def test_dicom_patients_are_told_apart_by_the_raw_id(tmp_path: Path) -> None:
    for patient, study in (("A/1", "1.1"), ("A_1", "1.2"), ("a_1", "1.3"), ("B 7", "1.4"), ("..", "1.5")):
        add_pair(tmp_path, patient, study)
    found = find_pairs(tmp_path).cases
    assert all(c.refused is None and len(series_of(c)) == 1 for c in found)
    assert len({c.case.lower() for c in found}) == 5
    assert len({c.subject for c in found}) == 5
    named = {next(iter(series_of(c))): c.case for c in found}
    assert named["A/1"] == safe_name("A/1", plain=True)
    assert re.fullmatch(r"B_7-[0-9a-f]{8}", named["B 7"])
    assert re.fullmatch(r"[A-Za-z0-9_-]+", named[".."])
    add_pair(tmp_path, "C", "1.6")
    assert {c.case for c in found} < {c.case for c in find_pairs(tmp_path).cases}  # names stay when others come


def test_dicom_without_ids_goes_by_the_study(tmp_path: Path) -> None:
    for patient, study in (("", "1.1"), ("", "1.2"), ("ANONYMOUS", "1.3"), ("anonymous", "1.4")):
        add_pair(tmp_path, patient, study)
    found = find_pairs(tmp_path).cases
    assert [c.refused for c in found] == [None] * 4
    assert len({c.case for c in found}) == len({c.subject for c in found}) == 4
    assert all(c.ct.study_uid == c.mri.study_uid for c in found)  # type: ignore[union-attr]


def test_two_studies_of_a_dicom_patient_are_two_cases_of_one_subject(tmp_path: Path) -> None:
    add_pair(tmp_path, "P", "1.1")
    add_pair(tmp_path, "P", "1.2")
    add_pair(tmp_path, "Q", "1.3", mr_study="1.4")  # CT and MRI on different days: one pair
    first, second, q = find_pairs(tmp_path).cases
    assert (first.subject, second.subject, q.case, q.subject) == ("P", "P", "Q", "Q")
    assert first.case != second.case
    assert (first.refused, second.refused, q.refused) == (None, None, None)
    assert first.ct.study_uid == first.mri.study_uid != second.ct.study_uid  # type: ignore[union-attr]


def test_one_dicom_patient_in_two_folders_is_one_subject(tmp_path: Path) -> None:
    add_pair(tmp_path, "P", "1.1", place="day1")
    add_pair(tmp_path, "P", "1.2", place="day2")
    assert [(c.case, c.subject) for c in find_pairs(tmp_path).cases] == [("day1", "day1"), ("day2", "day1")]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A folder's name in Latin-1 on a UTF-8 system, blanks, and other alphabets."""
    names = [os.fsdecode(b"M\xfcller"), "Müller", "a b", "患者"]
    touch(tmp_path, *(f"{n}/{kind}.nii.gz" for n in names for kind in ("ct", "mri")))
    found = {c.case: c.refused for c in find_pairs(tmp_path).cases}
    assert set(found.values()) == {None}
    assert {"Müller", "a b", "患者"} < set(found)
    assert all(c.encode() and len(found) == 4 for c in found)
