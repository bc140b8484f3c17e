# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from dicom_study import dciodvfy, mr_series, results_of
from roi_fusion.data.dicom_out.objects import ResultObjects
from roi_fusion.data.dicom_out.source import read_source
from roi_fusion.data.dicom_out.write import write_dicom
from roi_fusion.data.io import read_volume

pytest.importorskip("highdicom")
pytest.importorskip("itk")


@pytest.mark.parametrize(("scale", "slope"), [(1.0, None), (1e-3, 1e-3 * 1400 / 30_000), (1e3, 1e3 * 1400 / 30_000)])
def test_small_and_large_values_are_scaled_to_16_bits(scale: float, slope: float | None, tmp_path: Path) -> None:
    mri = mr_series(tmp_path / "mr")
    folder = results_of(tmp_path / "case", mri)
    image = nib.load(folder / "fused.nii.gz")
    fused = np.asarray(image.dataobj) * scale
    nib.save(nib.Nifti1Image(fused.astype(np.float32), image.affine), folder / "fused.nii.gz")
    files = write_dicom(folder, mri)["fused"]
    found = pydicom.dcmread(files[0]).get("RescaleSlope")
    assert (found is None) == (slope is None)
    if slope is not None:
        assert float(found) == pytest.approx(slope, rel=0.05)
    step = 1.0 if found is None else float(found)
    np.testing.assert_allclose(read_volume(files[0]).array, fused, atol=0.51 * step)
    assert dciodvfy(files[0]) == []


def test_an_empty_lesion_is_a_segmentation_too(tmp_path: Path) -> None:
    source = read_source(mr_series(tmp_path))
    objects = ResultObjects(source, "key", read_volume(tmp_path).affine, {"lesion_threshold": 0.5})
    seg = objects.segmentation("lesion", np.zeros((12, 14, 5), np.uint8))
    assert seg.NumberOfFrames == 5
    assert not seg.pixel_array.any()
    (segment,) = seg.SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "SCT"
    assert segment.AnatomicRegionSequence[0].CodeMeaning == "Brain"
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "ROI Fusion"
    assert objects.segmentation("lesion_prob", np.zeros((12, 14, 5), np.float32)).SegmentationFractionalType == "PROBABILITY"
