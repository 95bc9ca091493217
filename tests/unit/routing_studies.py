"""Facts of a study like the native tumour study: nine series, no contrast tag, two pairs of equal descriptions."""

from __future__ import annotations

from typing import Any

from dicom_node.routing import ClosedSeries, RouteBook
from dicom_node.routing.book import parse_routes
from dicom_node.routing.roles import assign_roles
from dicom_node.words import RoleGuess, SeriesFacts

STUDY = "1.2.3"
FRAME = "1.2.3.99"

SPIN_ECHO_T1 = {"ScanningSequence": ["SE"], "EchoTime": 15.0, "RepetitionTime": 626.0, "MRAcquisitionType": "2D"}
T2 = {"ScanningSequence": ["SE"], "EchoTime": 100.0, "RepetitionTime": 5200.0, "MRAcquisitionType": "2D"}
FLAIR = {
    "ScanningSequence": ["IR"],
    "EchoTime": 120.0,
    "RepetitionTime": 6000.0,
    "InversionTime": 2000.0,
    "MRAcquisitionType": "2D",
}
VOLUME_T1 = {
    "ScanningSequence": ["GR"],
    "EchoTime": 4.6,
    "RepetitionTime": 25.0,
    "FlipAngle": 30.0,
    "MRAcquisitionType": "3D",
    "ImageType": ["ORIGINAL", "PRIMARY", "PROJECTION IMAGE", "M", "FFE"],
}


def series(number: int, minute: float | None = None, **attributes: Any) -> SeriesFacts:
    """A head series; `minute` after two o'clock is when it was acquired."""
    values: dict[str, Any] = {
        "Modality": "MR",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
        "Manufacturer": "Maker",
        "BodyPartExamined": "BRAIN",
        "PatientID": "P1",
        "PatientName": "A^B",
        "SeriesNumber": number,
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "SE"],
        "FrameOfReferenceUID": FRAME,
        "Plane": "axial",
        "NumberOfSlices": 26,
        "NumberOfInstances": 26,
        "NumberOfOrientations": 1,
        "SliceStepMm": 6.0,
        "SpacingMm": [0.9, 0.9],
    }
    if minute is not None:
        seconds = round(minute * 60)
        clock = f"{14 + seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
        values["AcquiredAt"] = f"20130323{clock}"
    values.update(attributes)
    return SeriesFacts(f"{STUDY}.{number}", STUDY, values)


def nine() -> list[SeriesFacts]:
    """Localizer, ADC, T2, T1, FLAIR, T1, then contrast: T1, T1, FLAIR."""
    return [
        series(101, 23, SeriesDescription="Survey", ScanningSequence=["GR"], EchoTime=5.2, RepetitionTime=15.0,
               FlipAngle=20.0, NumberOfOrientations=3, NumberOfSlices=3, NumberOfInstances=5),
        series(303, 25, SeriesDescription="dReg - DWI", ImageType=["ORIGINAL", "PRIMARY", "ADC", "ADC"]),
        series(401, 27, SeriesDescription="T2W_TSE_TRA", **T2),
        series(502, 29, SeriesDescription="VT1W_3D_FFE", SliceStepMm=3.0, **VOLUME_T1),
        series(701, 38, SeriesDescription="T2W_FLAIR_TRA", **FLAIR),
        series(901, 42, SeriesDescription="T1W_SE-TRA_FS", ScanOptions=["FS"], **SPIN_ECHO_T1),
        series(1103, 49, SeriesDescription="VsT1W_3D_ISO", ScanOptions=["FS"], SliceStepMm=3.0, **VOLUME_T1),
        series(1201, 54, SeriesDescription="T1W_SE-TRA_FS", ScanOptions=["FS"], **SPIN_ECHO_T1),
        series(1301, 59, SeriesDescription="T2W_FLAIR_TRA", **FLAIR),
    ]  # fmt: skip


def closed(found: list[SeriesFacts], revision: dict[str, int] | None = None) -> tuple[ClosedSeries, ...]:
    """The series with their roles and revisions (by default the series number)."""
    roles = assign_roles(found)
    numbers = revision or {}
    return tuple(
        ClosedSeries(s, roles[s.series_uid], numbers.get(s.series_uid, int(s.attributes["SeriesNumber"])))
        for s in found
    )


def guess(role: str, confidence: float = 0.9, **more: Any) -> RoleGuess:
    return RoleGuess(role, confidence, ("said so",), **more)


ROUTE = """
  - name: {name}
    when: {{attribute: Modality, equals: MR}}
    role_sets: {sets}
    model: {name}-model
    result_family: {family}
"""


def book(*routes: tuple[str, str], family: str = "brain", extra: dict[str, str] | None = None) -> RouteBook:
    """A route book of (name, role sets) pairs in one family; `extra` adds lines to a route by name."""
    text = "schema_version: 1\nroutes:\n"
    for name, sets in routes:
        text += ROUTE.format(name=name, sets=sets, family=family) + (extra or {}).get(name, "")
    return parse_routes(text)
