# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""The lesion's volume with its interval as a structured report by DICOM's template 1500."""

from __future__ import annotations

from typing import Any

from ..dicom_choice import MODEL
from .objects import ResultObjects
from .source import uid_of

__all__ = ["volume_report"]


def volume_report(objects: ResultObjects, segmentation: Any) -> Any:
    """A measurement report (TID 1500) on the lesion of a binary segmentation.

    The interval stands as the upper and lower uncertainty of the volume; a comment says it in words, or why there is none. A
    volume that was not seen is left out, and not 0.

    Args:
        objects: of the result.
        segmentation: the lesion's SEG, which the measurement refers to.
    """
    from pydicom.sr.codedict import codes

    hd, facts = objects.hd, objects.facts
    device = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=uid_of(objects.weights, objects.version, "device"), name=MODEL, model_name=MODEL
        ),
    )
    patient = objects.source.images[0]
    group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid_of(objects.key, "lesion", "tracking"), "Stroke lesion"),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=1,
            source_series=hd.sr.SourceSeriesForSegmentation(str(patient.SeriesInstanceUID)),
        ),
        finding_type=codes.SCT.Lesion,
        finding_sites=[hd.sr.FindingSite(codes.SCT.Brain)],
        algorithm_id=hd.sr.AlgorithmIdentification(
            name=MODEL,
            version=objects.version,
            family=codes.DCM.ArtificialIntelligence,
            parameters=[f"weights {objects.weights}", f"lesion_threshold {facts.get('lesion_threshold')}"],
        ),
        measurements=_volume(hd, facts),
    )
    group[0].ContentSequence.append(
        hd.sr.TextContentItem(
            name=codes.DCM.Comment, value=comment_on(facts), relationship_type=hd.sr.RelationshipTypeValues.CONTAINS
        )
    )
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=None if "NumberOfFrames" in patient else objects.source.images,  # highdicom takes single images
    )
    common = objects._common("report", "report")
    out = hd.sr.Comprehensive3DSR(
        evidence=[*objects.source.images, segmentation],
        content=report,
        manufacturer="The ROI Fusion authors",
        is_complete=True,
        is_final=False,
        specific_character_set=patient.get("SpecificCharacterSet"),
        manufacturer_model_name=MODEL,
        software_versions=objects.version,
        device_serial_number=objects.weights[:16],
        **common,
    )
    return out


def _volume(hd: Any, facts: Any) -> list[Any]:
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    volume, interval = facts.get("lesion_ml"), facts.get("lesion_ml_interval")
    if volume is None:
        return []
    properties = None
    if interval is not None:
        properties = hd.sr.MeasurementProperties(
            upper_measurement_uncertainty=round(interval[1] - volume, 4),
            lower_measurement_uncertainty=round(volume - interval[0], 4),
        )
    unit = Code("mL", "UCUM", "milliliter")
    return [hd.sr.Measurement(codes.SCT.Volume, value=round(float(volume), 4), unit=unit, properties=properties)]


def comment_on(facts: Any) -> str:
    """The volume with its interval in words.

    Args:
        facts: of ``result.json``.
    """
    volume, interval = facts.get("lesion_ml"), facts.get("lesion_ml_interval")
    at_least = "at least " if facts.get("lesion_ml_is_lower_bound") else ""
    told = "lesion volume unknown" if volume is None else f"lesion volume {at_least}{volume:.2f} mL"
    if interval is not None:
        told += f", 90 % interval {interval[0]:.2f} to {interval[1]:.2f} mL"
    else:
        told += f", without an interval: {facts.get('lesion_ml_interval_note') or 'the result tells none'}"
    return f"{told}. For research, not for diagnosis."
