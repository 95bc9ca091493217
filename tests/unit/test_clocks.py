"""I13: clocks change, years have 366 days, and headers hold dates of year 1: tables from DICOM to FHIR and SR."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from ai_engine.geometry import Affine
from dicom_node.results import build
from dicom_node.settings import NodeSection, Settings
from dicom_node.zones import is_zone, offset_at, offset_of_study
from fhir_bridge import ReportOptions, bundle, codes
from fhir_bridge.identity import contradictions
from tests.fixtures_results import (
    PRODUCER,
    asymmetric_phantom,
    findings_of,
    plain_volume,
    run_identity,
    write_series,
)
from tests.peers import reports

pytestmark = pytest.mark.unit

SANTIAGO, MADRID, GUAYAQUIL = "America/Santiago", "Europe/Madrid", "America/Guayaquil"

NIGHTS = [
    # zone, day, time, offset; None: the hour came twice, or never
    (SANTIAGO, "20240406", "225959", "-03:00"),  # at midnight clocks go back to 23:00
    (SANTIAGO, "20240406", "230000", None),
    (SANTIAGO, "20240406", "235959.999999", None),
    (SANTIAGO, "20240407", "000000", "-04:00"),
    (SANTIAGO, "20240907", "235959", "-04:00"),  # at midnight clocks go forward to 1:00
    (SANTIAGO, "20240908", "000000", None),
    (SANTIAGO, "20240908", "005959", None),
    (SANTIAGO, "20240908", "0100", "-03:00"),
    (MADRID, "20240331", "015959", "+01:00"),  # 2:00 becomes 3:00
    (MADRID, "20240331", "020000", None),
    (MADRID, "20240331", "025959", None),
    (MADRID, "20240331", "030000", "+02:00"),
    (MADRID, "20241027", "015959", "+02:00"),  # 3:00 becomes 2:00
    (MADRID, "20241027", "020000", None),
    (MADRID, "20241027", "030000", "+01:00"),
    (GUAYAQUIL, "20240406", "233000", "-05:00"),  # never changes its clocks
    (GUAYAQUIL, "20240908", "003000", "-05:00"),
    (GUAYAQUIL, "20241027", "023000", "-05:00"),
    (MADRID, "20240229", "120000", "+01:00"),
    (MADRID, "20230229", "120000", None),  # no such day
    (MADRID, "00010101", "000000", None),
    (MADRID, "18991231", "120000", None),
    (MADRID, "20240615", "", None),
    (MADRID, "20240615", "12", None),  # an hour alone
    (MADRID, "20240615", "2500", None),
    (MADRID, "", "120000", None),
    ("Atlantis/Capital", "20240615", "120000", None),
    ("../../etc/passwd", "20240615", "120000", None),
    ("-0430", "20240406", "233000", "-04:30"),  # an offset that was said holds in every hour
    ("+1500", "20240406", "233000", None),
]


@pytest.mark.parametrize(("zone", "day", "time", "expected"), NIGHTS)
def test_the_offset_of_a_local_time(zone: str, day: str, time: str, expected: str | None) -> None:
    assert offset_at(day, time, zone) == expected


@pytest.mark.parametrize(("zone", "day", "time", "expected"), NIGHTS)
def test_fhir_gives_a_time_with_its_offset_or_the_date_alone(
    zone: str, day: str, time: str, expected: str | None
) -> None:
    said = codes.date_time(day, time, zone)
    if expected is None:
        assert said == codes.date(day), "never another offset, never Z"
    else:
        assert said is not None and said.startswith(f"{day[:4]}-{day[4:6]}-{day[6:]}T") and said.endswith(expected)


@pytest.mark.parametrize("time", ["233000", "003000"])
def test_what_the_images_say_holds_in_every_hour(time: str) -> None:
    """Standards 7.5: in the hour that a change of clocks leaves out the offset stays as it was recorded."""
    header = {"AcquisitionDate": "20240908", "AcquisitionTime": time, "TimezoneOffsetFromUTC": "-0400"}
    assert str(codes.acquired(header, SANTIAGO)).endswith("-04:00")
    assert codes.acquired({**header, "TimezoneOffsetFromUTC": "CET"}, SANTIAGO) == "2024-09-08", "no offset at all"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({}, None),
        ({"AcquisitionDate": "", "StudyDate": None}, None),
        ({"AcquisitionDate": "00010101", "AcquisitionTime": "000000"}, None),
        ({"AcquisitionDate": "00010101", "StudyDate": "20240229"}, "2024-02-29"),
        ({"AcquisitionDate": "20230229", "SeriesDate": "20230228", "SeriesTime": "1200"}, "2023-02-28T12:00:00+01:00"),
        ({"AcquisitionDate": "20240229", "AcquisitionTime": "235960"}, "2024-02-29T23:59:60+01:00"),
        ({"AcquisitionDate": "20240229", "AcquisitionTime": "240000"}, "2024-02-29"),
        ({"AcquisitionDate": "2024.02.29"}, None),
        ({"AcquisitionDateTime": "20241027023000+0100"}, "2024-10-27T02:30:00+01:00"),
        ({"AcquisitionDateTime": "20241027023000"}, "2024-10-27"),
        ({"AcquisitionDateTime": "00010101000000"}, None),
        ({"AcquisitionTime": "120000"}, None),
    ],
)
def test_when_the_images_were_made(header: dict[str, Any], expected: str | None) -> None:
    assert codes.acquired(header, MADRID) == expected


def test_a_report_without_any_date_says_none() -> None:
    header = reports.attributes(
        StudyDate="00010101", StudyTime=None, AcquisitionDate="00010101", AcquisitionTime="", TimezoneOffsetFromUTC=None
    )
    made = bundle(reports.report(header=header, options=ReportOptions(time_zone=SANTIAGO)))
    bodies = [entry["resource"] for entry in made["entry"]]
    assert not any("effectiveDateTime" in body or "started" in body for body in bodies)
    assert "0001-01-01" not in str(made)


@pytest.mark.parametrize(
    ("day", "time", "started"),
    [
        ("20240615", "101500", "2024-06-15T10:15:00-04:00"),
        ("20241215", "101500", "2024-12-15T10:15:00-03:00"),
        ("20240406", "233000", "2024-04-06"),
    ],
)
def test_a_site_that_changes_its_clocks_is_right_all_year(day: str, time: str, started: str) -> None:
    header = reports.attributes(
        StudyDate=day, StudyTime=time, AcquisitionDate=day, AcquisitionTime=time, TimezoneOffsetFromUTC=None
    )
    made = bundle(reports.report(header=header, options=ReportOptions(time_zone=SANTIAGO)))
    study = next(e["resource"] for e in made["entry"] if e["resource"]["resourceType"] == "ImagingStudy")
    report = next(e["resource"] for e in made["entry"] if e["resource"]["resourceType"] == "DiagnosticReport")
    assert (study["started"], report["effectiveDateTime"]) == (started, started)


def test_a_placeholder_for_a_birth_date_contradicts_nobody() -> None:
    patient = {"birthDate": "1970-01-02"}
    assert contradictions({"PatientBirthDate": "00010101"}, patient) == []
    assert contradictions({"PatientBirthDate": "19700103"}, patient) == ["birth date"]


# -- settings and DICOM objects


def test_the_zone_of_a_site_is_one_that_is_known() -> None:
    assert is_zone(SANTIAGO) and not is_zone("")
    with pytest.raises(ValueError, match="tzdata"):
        Settings(node={"timezone": "Europe/Nowhere"})


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"StudyDate": "20240615", "StudyTime": "101500"}, "-04:00"),
        ({"StudyDate": "20241215", "StudyTime": "101500"}, "-03:00"),
        ({"StudyDate": "20240406", "StudyTime": "233000"}, "-03:00"),  # ambiguous: that day's noon
        ({"StudyDate": "20240908", "StudyTime": "003000"}, "-03:00"),
        ({"StudyDate": "20240615"}, "-04:00"),
        ({"StudyDate": "20240615", "StudyTime": "101500", "TimezoneOffsetFromUTC": "+0530"}, "+05:30"),
    ],
)
def test_the_offset_that_objects_are_written_with(header: dict[str, str], expected: str) -> None:
    assert NodeSection(timezone=SANTIAGO).offset_of(header) == expected


@pytest.mark.parametrize("day", ["", "00010101", "20230229"])
def test_without_a_day_it_is_the_offset_of_today(day: str) -> None:
    assert offset_of_study(day, "", GUAYAQUIL) == "-05:00"
    assert NodeSection(timezone_offset="+02:00").offset_of({"StudyDate": day}) == "+02:00"


AXIAL = Affine.from_axes((-10.0, -10.0, 0.0), [[0, 0, 1], [0, 1, 0], [1, 0, 0]], (4.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("changes", "acquired"),
    [
        ({"AcquisitionDateTime": "20240406233000-0300"}, "20240406223000-0400"),  # into the zone of the study
        ({"AcquisitionDateTime": "20240406233000"}, "20240406233000-0400"),
        ({"AcquisitionDateTime": "20240229000500+0000"}, "20240228200500-0400"),
        ({"AcquisitionDate": "20240229", "AcquisitionTime": "120000"}, "20240229120000-0400"),
        ({"AcquisitionDateTime": "00010101000000+0000", "ContentDate": "", "SeriesDate": ""}, ""),
        ({"AcquisitionDate": "20230229", "AcquisitionTime": "120000", "ContentDate": "", "SeriesDate": ""}, ""),
    ],
)
def test_documents_say_when_the_images_were_made(changes: dict[str, str], acquired: str, tmp_path: Path) -> None:
    array, mask = asymmetric_phantom((6, 16, 16))
    bare = {"AcquisitionDate": "", "AcquisitionTime": "", "StudyDate": "00010101"}
    volume = plain_volume(write_series(tmp_path, array, AXIAL, **{**bare, **changes}))
    identity = run_identity(timezone_offset="-04:00")
    for made in build(identity, volume, mask, findings_of(mask, volume.affine), PRODUCER).objects:
        document = dcmread(BytesIO(made.data))
        assert document.TimezoneOffsetFromUTC == "-0400" and document.StudyDate == "00010101"
        if document.Modality == "DOC":
            assert str(document.AcquisitionDateTime or "") == acquired
