"""Report inputs for tests: a synthetic patient, two regions, a real PDF's first bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

from ai_engine.findings import Code, Findings, Measurement, ModelIdentity, Region
from dicom_node.words import Grade, ObjectKind, RunIdentity
from fhir_bridge import ObjectReference, Organisation, ReportInput, ReportOptions, UsedSeries

SITE = "6f1f4e7a-5b0c-4a43-9a5e-0d7c5f0a9b11"
STUDY_UID = "1.2.826.0.1.3680043.8.498.4711"
PATIENT_SYSTEM = "urn:oid:1.2.3.4.5"
ORDER_SYSTEM = "urn:oid:1.2.3.4.6"

MODEL = ModelIdentity(
    name="brain-flair",
    version="1.0.0",
    digest_sha256="ab" * 32,
    title="Brain FLAIR segmentation",
    framework="nnU-Net",
    backend="openvino",
    device="CPU",
    precision="f32",
)
VOLUME = Code("118565006", "SCT", "Volume")
CUBIC_CENTIMETRE = Code("cm3", "UCUM", "cubic centimeter")
MILLIMETRE = Code("mm", "UCUM", "millimeter")
VOXEL_METHOD = Code("126030", "DCM", "Sum of segmented voxel method for volume")


def region(key: str = "flair_abnormality", volume_ml: float = 24.53481, voxels: int = 24535) -> Region:
    """A region with a volume and a long axis, or an absent one when `voxels` is 0."""
    measurements = (
        Measurement("volume", VOLUME, volume_ml, CUBIC_CENTIMETRE, method=VOXEL_METHOD),
        Measurement("long_axis", Code("103339001", "SCT", "Long axis"), 41.20731, MILLIMETRE),
    )
    return Region(
        key=key,
        name="FLAIR abnormality",
        abbreviation="FLAIR",
        category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
        type=Code("301766008", "SCT", "Lesion of Brain"),
        site=Code("12738006", "SCT", "Brain"),
        color_cielab=(41412, 31398, 21703),
        color_rgb=(255, 0, 0),
        voxels=voxels,
        percent=100.0 if voxels else 0.0,
        label=1,
        measurements=measurements if voxels else (),
    )


def attributes(**changes: Any) -> dict[str, Any]:
    """The source header of a synthetic study; a value of None leaves an attribute out."""
    base = {
        "PatientID": "MR-0042",
        "IssuerOfPatientID": "HOSPITAL",
        "PatientName": "Marker^Mary",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "StudyInstanceUID": STUDY_UID,
        "StudyDate": "20261122",
        "StudyTime": "101500",
        "AcquisitionDate": "20261122",
        "AcquisitionTime": "101702.25",
        "AccessionNumber": "ACC0001",
        "TimezoneOffsetFromUTC": "+0100",
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def report(
    *,
    regions: tuple[Region, ...] = (),
    run_key: str = "11" * 32,
    created: str = "2026-11-22T10:20:30.125+01:00",
    study_uid: str = STUDY_UID,
    predecessor: dict[str, Any] | None = None,
    header: dict[str, Any] | None = None,
    **changes: Any,
) -> ReportInput:
    """A whole report input; keyword arguments replace its fields."""
    base = ReportInput(
        run=RunIdentity(
            run_key=run_key,
            site_namespace=SITE,
            created=created,
            study_uid=study_uid,
            predecessor=predecessor,
            grade=Grade.TRANSFERRED,
            notes=("flair: series 5, the only one of its role",),
        ),
        findings=Findings(model=MODEL, regions=regions or (region(),), notes=("Resampled from 3 mm slices.",)),
        attributes=attributes() if header is None else header,
        objects=(
            ObjectReference(ObjectKind.SEG, "1.2.840.10008.5.1.4.1.1.66.4", f"2.25.{run_key[:9]}1", "2.25.101"),
            ObjectReference(ObjectKind.PDF, "1.2.840.10008.5.1.4.1.1.104.1", f"2.25.{run_key[:9]}2", "2.25.102"),
            ObjectReference(ObjectKind.SR, "1.2.840.10008.5.1.4.1.1.88.34", f"2.25.{run_key[:9]}3", "2.25.103"),
        ),
        pdf=b"%PDF-1.4 synthetic page",
        organisation=Organisation("Test Hospital", "urn:oid:1.2.3.4", "TH", "ai@example.org"),
        result_family="brain",
        series=(UsedSeries("1.2.826.0.1.3680043.8.498.4711.5", "MR", "flair", 24),),
        issuer_systems={"HOSPITAL": PATIENT_SYSTEM},
        accession_systems={"": ORDER_SYSTEM},
        options=ReportOptions(title="AI brain MR segmentation"),
        tracking_uids={"flair_abnormality": "2.25.777"},
    )
    return dataclasses.replace(base, **changes)
