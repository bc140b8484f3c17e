# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

import roi_fusion
from dicom_study import complete
from helpers import FAST, pair_of
from in_process import run_bundle
from raw_layouts import dicom_series
from roi_fusion.data.dicom_out.source import identities, result_key, uid_of
from roi_fusion.engine.dicom_writer import DicomWriter, check_dicom_mri
from roi_fusion.engine.prediction import Predictor
from roi_fusion.errors import InputError

pytest.importorskip("highdicom")
pytest.importorskip("itk")


@pytest.fixture(scope="module")
def study(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A phantom as a scanner sends it: folders of the MRI and the CT."""
    root = tmp_path_factory.mktemp("study")
    for path, modality in zip(pair_of(tiny_dataset), ("MR", "CT")):
        image = nib.load(path)
        complete(dicom_series(root / modality, np.round(np.asarray(image.dataobj)), image.affine, modality))
    return root / "MR", root / "CT"


def test_a_bundle_run_writes_dicom(study: tuple[Path, Path], small_weights: Path, tmp_path: Path) -> None:
    knobs = {**FAST, "mri": study[0], "ct": study[1], "output_dir": tmp_path, "checkpoint": small_weights, "dicom": True}
    run_bundle("--config_file", "configs/inference.json", *(w for k, v in knobs.items() for w in (f"--{k}", str(v))))
    (folder,) = tmp_path.glob("*/dicom")
    seg = pydicom.dcmread(folder / "lesion.dcm")
    lesion = np.asarray(nib.load(folder.parent / "lesion.nii.gz").dataobj)
    np.testing.assert_array_equal(np.atleast_3d(seg.pixel_array.transpose(2, 1, 0)), lesion)
    assert len(list((folder / "fused").iterdir())) == lesion.shape[2]


def test_predict_writes_dicom_with_uids_that_are_known_before(
    study: tuple[Path, Path], small_weights: Path, tmp_path: Path
) -> None:
    predict = Predictor(small_weights, dicom=True, **FAST)
    key = result_key(identities(study[0], "mr"), identities(study[1], "ct"), predict.settings())
    result = predict(*study, output_dir=tmp_path)
    assert pydicom.dcmread(result.files["dicom"] / "report.dcm").SOPInstanceUID == uid_of(key, "report", 1)
    with pytest.raises(InputError, match="dicom: expected an output_dir for results as DICOM, got none"):
        predict(*study)


def test_only_an_mri_that_came_as_dicom(tiny_dataset: Path, small_weights: Path, tmp_path: Path) -> None:
    mri, ct = pair_of(tiny_dataset)
    with pytest.raises(InputError, match=r"dicom: expected the MRI as a DICOM folder \(--mri\) .*, got .*mri.nii.gz"):
        roi_fusion.predict(mri, ct, tmp_path, small_weights, dicom=True, **FAST)
    with pytest.raises(InputError, match=r"dicom: expected the MRI as a DICOM folder .*, got none"):
        check_dicom_mri(None)
    with pytest.raises(InputError, match="got none"):
        DicomWriter(tmp_path, None, "true")
    DicomWriter(tmp_path, None, "false")
