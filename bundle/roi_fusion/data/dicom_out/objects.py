# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The DICOM objects of one result: segmentations of the lesion, parametric maps, the derived MR series, the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dicom_choice import MODEL
from .source import DicomSource, grid_of, load_highdicom, uid_of

__all__ = ["ResultObjects"]

#: Behind the name of every series.
_FOR_RESEARCH = "for research, not for diagnosis"

#: Series numbers of results: far above those of a scanner, in the order that viewers list them.
_SERIES_NUMBERS = {"fused": 9001, "lesion": 9002, "lesion_prob": 9003, "report": 9004, "provenance": 9005, "uncertainty": 9006}

#: Value of a parametric map where it has none; the maps themselves are 0 to 1.
_NO_VALUE = -1.0

#: Stored numbers of the fused series are whole; where its values are small they are scaled to so many steps.
_STEPS = 30_000
_FINE_ENOUGH = 1_000


@dataclass
class ResultObjects:
    """Makes the DICOM objects of one result.

    Attributes:
        source: what they take over.
        key: that their UIDs are made of, see :func:`~roi_fusion.data.dicom_out.source.result_key`.
        affine: of the result's volumes, index to RAS millimetres.
        facts: of ``result.json``.
    """

    source: DicomSource
    key: str
    affine: np.ndarray
    facts: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.hd = load_highdicom()
        versions = self.facts.get("versions") or {}
        self.version = str(versions.get("roi_fusion", "unknown"))
        self.weights = str((self.facts.get("weights") or {}).get("sha256", "")) or "unknown"

    def series_uid(self, name: str) -> str:
        """Series instance UID of a result."""
        return uid_of(self.key, name)

    def _common(self, name: str, title: str) -> dict[str, Any]:
        return {
            "series_instance_uid": self.series_uid(name),
            "series_number": _SERIES_NUMBERS[name],
            "sop_instance_uid": uid_of(self.key, name, 1),
            "instance_number": 1,
            "series_description": f"{MODEL} {title}, {_FOR_RESEARCH}",
        }

    def _equipment(self) -> dict[str, Any]:
        return {
            "manufacturer": "The ROI Fusion authors",
            "manufacturer_model_name": MODEL,
            "software_versions": self.version,
            "device_serial_number": self.weights[:16],
        }

    def _volume(self, array: np.ndarray) -> Any:
        """A volume ``[X, Y, Z]`` as highdicom has it: slices, rows, columns."""
        first, step, orientation = grid_of(self.affine)
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        place = np.eye(4)
        place[:3, 0], place[:3, 1] = step, orientation[3:] * spacing[1]
        place[:3, 2], place[:3, 3] = orientation[:3] * spacing[0], first
        frame = str(self.source.images[0].FrameOfReferenceUID)
        return self.hd.Volume(np.ascontiguousarray(array.transpose(2, 1, 0)), place, "PATIENT", frame_of_reference_uid=frame)

    def _algorithm(self) -> Any:
        from pydicom.sr.codedict import codes

        parameters = {"weights": self.weights[:64], "threshold": f"{self.facts.get('lesion_threshold')}"}
        family = codes.DCM.ArtificialIntelligence
        return self.hd.AlgorithmIdentificationSequence(MODEL, family, self.version, parameters=parameters)

    def segmentation(self, name: str, array: np.ndarray) -> Any:
        """The lesion as SEG: the mask as BINARY, the probability as FRACTIONAL in steps of 1/255.

        Args:
            name: ``lesion`` or ``lesion_prob``.
            array: ``[X, Y, Z]``, 0 and 1, or 0 to 1.
        """
        from pydicom.sr.codedict import codes
        from pydicom.uid import ExplicitVRLittleEndian, RLELossless

        binary = name == "lesion"
        segment = self.hd.seg.SegmentDescription(
            segment_number=1,
            segment_label="Stroke lesion" if binary else "Stroke lesion, probability",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type="AUTOMATIC",
            algorithm_identification=self._algorithm(),
            tracking_uid=uid_of(self.key, "lesion", "tracking"),
            tracking_id="Stroke lesion",
            anatomic_regions=[codes.SCT.Brain],
        )
        return self.hd.seg.Segmentation(
            source_images=self.source.images,
            further_source_images=self.source.further or None,
            pixel_array=self._volume(array.astype(np.uint8 if binary else np.float32)),
            segmentation_type="BINARY" if binary else "FRACTIONAL",
            segment_descriptions=[segment],
            omit_empty_frames=False,
            transfer_syntax_uid=ExplicitVRLittleEndian if binary else RLELossless,
            content_label="LESION" if binary else "LESION_PROB",
            content_description="Stroke lesion, for research",
            **self._common(name, "lesion" if binary else "lesion probability"),
            **self._equipment(),
        )

    def parametric_map(self, name: str, array: np.ndarray) -> Any:
        """A map of 0 to 1 as parametric map of 32-bit numbers; NaN becomes -1, which the header names as no value.

        Args:
            name: ``provenance`` or ``uncertainty``.
            array: ``[X, Y, Z]``.
        """
        from pydicom.sr.codedict import codes
        from pydicom.sr.coding import Code

        unit = codes.UCUM.NoUnits if name == "provenance" else Code("bit", "UCUM", "bit")
        told = "share of the MRI in the fused volume" if name == "provenance" else "entropy of the lesion probability"
        filled = np.where(np.isfinite(array), array, _NO_VALUE).astype(np.float32)
        out = self.hd.pm.ParametricMap(
            source_images=self.source.images,
            further_source_images=self.source.further or None,
            pixel_array=self._volume(filled),
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                self.hd.pm.RealWorldValueMapping(
                    lut_label=name.upper()[:16],
                    lut_explanation=told,
                    unit=unit,
                    value_range=(float(filled.min(initial=0.0)), 1.0),  # readers refuse values outside of it
                    slope=1.0,
                    intercept=0.0,
                )
            ],
            voi_lut_transformations=[self.hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
            content_label=name.upper(),
            content_description=f"{told}; {_NO_VALUE:g} where there is none",
            **self._common(name, name),
            **self._equipment(),
        )
        if not np.isfinite(array).all():
            out.FloatPixelPaddingValue = out.FloatPixelPaddingRangeLimit = _NO_VALUE
        out.BodyPartExamined = "HEAD"
        return out

    def fused(self, array: np.ndarray, window: tuple[float, float] | None = None) -> list[Any]:
        """The fused volume as MR images, one a slice, which say from which source image they are derived.

        Args:
            array: ``[X, Y, Z]`` in the MRI's units.
            window: least and greatest value that a viewer should show; percentiles of all that is not 0 when None.
        """
        slope = _slope(array)
        stored = np.round(array / slope).astype(np.int16)
        if window is None:
            low, high = (float(v) for v in np.percentile(array[array != 0], (1, 99))) if (array != 0).any() else (0.0, 1.0)
            window = low, high
        return [self._fused_slice(k, stored, slope, window) for k in range(array.shape[2])]

    def _fused_slice(self, k: int, stored: np.ndarray, slope: float, window: tuple[float, float]) -> Any:
        from pydicom.uid import MRImageStorage
        from pydicom.valuerep import DSfloat

        def decimals(values: Any) -> list[Any]:
            return [DSfloat(float(v), auto_format=True) for v in np.atleast_1d(values)]

        first, step, orientation = grid_of(self.affine)
        position, spacing = first + k * step, np.linalg.norm(self.affine[:3, :3], axis=0)
        patient = self.source.images[0]
        common = {**self._common("fused", "volume"), **self._equipment()}
        common.update(sop_instance_uid=uid_of(self.key, "fused", k + 1), instance_number=k + 1)
        out = self.hd.base.SOPClass(
            study_instance_uid=patient.StudyInstanceUID,
            sop_class_uid=MRImageStorage,
            modality="MR",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            **{f"patient_{n}": patient.get(f"Patient{w}") for n, w in _PATIENT.items()},
            accession_number=patient.AccessionNumber,
            study_id=patient.StudyID,
            study_date=patient.StudyDate,
            study_time=patient.StudyTime,
            referring_physician_name=patient.ReferringPhysicianName,
            specific_character_set=patient.get("SpecificCharacterSet"),
            content_qualification="RESEARCH",
            **common,
        )
        out.copy_patient_and_study_information(patient)
        out.FrameOfReferenceUID = patient.FrameOfReferenceUID
        out.PositionReferenceIndicator = patient.get("PositionReferenceIndicator") or ""
        out.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        for tag in ("ScanningSequence", "SequenceVariant"):
            setattr(out, tag, self.source.acquisition.get(tag) or ("RM" if tag == "ScanningSequence" else "NONE"))
        for tag in ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"):
            setattr(out, tag, self.source.acquisition.get(tag))
        for tag in ("MagneticFieldStrength", "InversionTime"):
            if tag in self.source.acquisition:
                setattr(out, tag, self.source.acquisition[tag])
        out.DerivationDescription = f"MRI and CT fused by {MODEL} {self.version}, weights {self.weights[:12]}"
        self._refer(out, position, orientation)
        out.ImagePositionPatient, out.ImageOrientationPatient = decimals(position), decimals(orientation)
        out.PixelSpacing = decimals(spacing[[1, 0]])
        out.SliceThickness = out.SpacingBetweenSlices = decimals(spacing[2])[0]
        out.SamplesPerPixel, out.PhotometricInterpretation = 1, "MONOCHROME2"
        out.Columns, out.Rows = stored.shape[:2]
        out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = 16, 16, 15, 1
        if slope != 1.0:
            out.RescaleSlope, out.RescaleIntercept, out.RescaleType = decimals(slope)[0], "0", "US"
        out.WindowCenter, out.WindowWidth = decimals(sum(window) / 2)[0], decimals(max(window[1] - window[0], 1e-6))[0]
        out.BurnedInAnnotation, out.BodyPartExamined = "NO", "HEAD"
        out.PatientPosition = self.source.acquisition.get("PatientPosition") or ""
        out.add_new("PixelData", "OW", np.ascontiguousarray(stored[..., k].T).astype("<i2").tobytes())
        return out

    def _refer(self, out: Any, position: np.ndarray, orientation: np.ndarray) -> None:
        """Name the source images: the one in the same plane, or all where the result lies between them."""
        from pydicom import Dataset, Sequence
        from pydicom.sr.codedict import codes

        found = self.source.image_at(position, orientation)
        items = []
        for image, frame in [found] if found else [(image, 0) for image in self.source.images]:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
            if found and "NumberOfFrames" in image:
                item.ReferencedFrameNumber = frame
            item.PurposeOfReferenceCodeSequence = Sequence(
                [self.hd.sr.CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
            )
            items.append(item)
        out.SourceImageSequence = Sequence(items)


_PATIENT = {"id": "ID", "name": "Name", "birth_date": "BirthDate", "sex": "Sex"}


def _slope(array: np.ndarray) -> float:
    """Of the stored numbers: 1 where whole numbers are fine enough and fit 16 bits."""
    largest = float(np.abs(array).max())
    return 1.0 if _FINE_ENOUGH <= largest <= 32_767 else max(largest, 1e-6) / _STEPS
