"""A photograph on the road: wrapped, stored, routed, asked about, written, delivered, reported, and taken back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from dicom_node.body_sites import body_site
from dicom_node.cli import app
from dicom_node.photo import Importer, Occasion, Patient, WrappedPhoto, wrap
from dicom_node.record.tables import cases, deliveries, reports, revisions, runs, series, studies
from dicom_node.results.readback import measurement_groups
from dicom_node.stages.context import ChildDied
from fhir_bridge.schema import faults
from tests.fixtures_classifier import make_tiny_classifier
from tests.fixtures_photo import drawn_lesion, jpeg
from tests.support.node import NAMESPACE, Node

pytestmark = [pytest.mark.component, pytest.mark.realdata]

ROUTES = """
schema_version: 1
routes:
  - name: skin-lesion
    when: {attribute: SOPClassUID, in: [1.2.840.10008.5.1.4.1.1.77.1.4, 1.2.840.10008.5.1.4.1.1.77.1.7,
           1.2.840.10008.5.1.4.1.1.7]}
    exclude: [burned-in, own-result, not-an-image]
    role_sets: [[dermoscopy]]
    cases: one-per-series
    model: tiny-classifier
    result_family: skin-lesion
    destinations: [archive]
    publish: all
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_tiny_classifier(root)
    return root


@pytest.fixture
def node(tmp_path: Path, models: Path) -> Iterator[Node]:
    made = Node(tmp_path / "node", models, ROUTES)
    yield made
    made.close()


def wrapped(data: bytes, number: int = 1, declared: str = "dermoscopic") -> WrappedPhoto:
    return wrap(
        data,
        Patient(id="P-17", issuer="HOSPITAL", name="Doe^Jane", birth_date="19700101", sex="F"),
        Occasion(
            created="2026-11-22T10:00:00+01:00",
            body_site=body_site("chest"),
            laterality="L",
            declared=declared,  # type: ignore[arg-type]
            number=number,
        ),
        Importer(uuid.UUID(NAMESPACE), "0.1.0", "node-1"),
    )


def stored(folder: Path, photo: WrappedPhoto) -> Path:
    path = folder / f"{photo.sha256[:16]}.dcm"
    path.write_bytes(photo.data)
    return path


def bring(node: Node, folder: Path, *photos: WrappedPhoto) -> None:
    """Photographs arrive, and their series close, before anything is done about any of them."""
    node.receive([stored(folder, photo) for photo in photos])
    for photo in photos:
        node.close_series(photo.series_uid)
    node.engine.run()


def original(data_dir: Path) -> bytes:
    return sorted((data_dir / "dermoscopy" / "originals").glob("*.jpg"))[0].read_bytes()


def probability(report) -> float:
    return measurement_groups(report)[0].numbers["AI-MAL-PROB"][0]


def test_an_original_becomes_objects_a_report_and_the_same_number_everywhere(
    node: Node, data_dir: Path, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = original(data_dir)
    photo = wrapped(data)
    bring(node, tmp_path, photo)
    assert node.engine.errors == {}
    (run,) = node.rows(runs)
    assert run["state"] == "built", (run, node.events("run.failed"), node.events("run.refused"))
    made = {d.Modality: d for d in node.delivered()}
    assert sorted(made) == ["DOC", "OT", "SR"]
    assert {str(d.PatientID) for d in made.values()} == {"P-17"}
    assert {str(d.StudyInstanceUID) for d in made.values()} == {photo.study_uid}
    assert made["OT"].BurnedInAnnotation == "YES"
    assert {d["state"] for d in node.rows(deliveries)} == {"confirmed"}
    value = probability(made["SR"])
    assert measurement_groups(made["SR"])[0].codes["363698007"] == "74160004"

    resources = [row["resource"] for row in node.rows(reports)]
    for resource in resources:
        assert list(faults(resource)) == [], resource["resourceType"]
    observations = [r for r in resources if r["resourceType"] == "Observation"]
    said = {o["code"]["coding"][0]["code"]: o for o in observations}
    first = said["AI-MAL-PROB"]
    assert first["valueQuantity"]["code"] == "%" and first["valueQuantity"]["value"] == pytest.approx(value, abs=0.01)
    assert first["referenceRange"][0]["low"]["value"] == 50
    assert first["bodySite"]["coding"][0]["code"] == "74160004"
    assert first["status"] == "preliminary"
    (report,) = [r for r in resources if r["resourceType"] == "DiagnosticReport"]
    assert report["presentedForm"][0]["contentType"] == "application/pdf" and not report.get("conclusionCode")
    assert "segmentation" not in json.dumps(resources).lower()

    bare = tmp_path / "bare.jpg"
    bare.write_bytes(data)
    monkeypatch.setenv("AI_NODE__ENGINE__MODELS", str(models))
    monkeypatch.setenv("AI_NODE__ENGINE__THREADS", "1")
    asked = ["predict", "--model", "tiny-classifier", str(bare), str(stored(tmp_path, photo)), "--dermoscopic",
             "--precision", "f32", "--out", str(tmp_path / "out"), "--json"]  # fmt: skip
    answered = CliRunner().invoke(app, asked)
    assert answered.exit_code == 0, answered.output
    lines = [json.loads(line) for line in answered.stdout.splitlines() if line.startswith("{")]
    assert [line["measurements"][0]["value"] for line in lines] == pytest.approx([value, value], abs=1e-6)
    assert [line["input"]["kind"] for line in lines] == ["photo", "dicom"]
    assert sorted(p.name for p in (tmp_path / "out" / "1").iterdir()) == ["overlay.png", "result.json"]
    assert (tmp_path / "out" / "2" / "sr.dcm").is_file()


def test_photographs_of_a_study_are_several_cases_and_asked_about_together(node: Node, tmp_path: Path) -> None:
    photos = [wrapped(jpeg(drawn_lesion(seed=number)), number) for number in (1, 2, 3)]
    assert len({photo.study_uid for photo in photos}) == 1
    bring(node, tmp_path, *photos)
    assert node.engine.errors == {}
    assert [r["state"] for r in node.rows(runs)] == ["built"] * 3
    assert len({row["result_family"] for row in node.rows(cases)}) == 3
    reported = [d for d in node.delivered() if d.Modality == "SR"]
    assert len(reported) == 3
    assert len({measurement_groups(d)[0].tracking_uid for d in reported}) == 3
    sources = {measurement_groups(d)[0].images[0] for d in reported}
    assert sources == {photo.sop_instance_uid for photo in photos}
    assert max(event["detail"]["pictures_together"] for event in node.events("run.inferred")) > 1
    resources = [row["resource"] for row in node.rows(reports)]
    assert len([r for r in resources if r["resourceType"] == "DiagnosticReport"]) == 3


def test_the_same_photograph_in_another_installation_is_the_same_bytes(
    node: Node, tmp_path: Path, models: Path
) -> None:
    photo = wrapped(jpeg(drawn_lesion()))
    bring(node, tmp_path, photo)
    twin = Node(tmp_path / "twin", models, ROUTES)
    try:
        bring(twin, tmp_path, photo)
        assert {d.SOPInstanceUID for d in node.delivered()} == {d.SOPInstanceUID for d in twin.delivered()}
        assert node.findings(1)["observations"] == twin.findings(1)["observations"]
    finally:
        twin.close()


def test_a_refused_photograph_has_no_number_anywhere(node: Node, tmp_path: Path) -> None:
    bring(node, tmp_path, wrapped(jpeg(drawn_lesion()), declared="plain"), wrapped(jpeg(drawn_lesion() // 6), 2))
    assert [r["state"] for r in node.rows(runs)] == ["refused", "refused"]
    codes = {r["refusal"]["code"] for r in node.rows(runs)}
    assert codes == {"picture-kind-unsupported", "image-exposure"}
    assert node.delivered() == []
    assert node.rows(reports) == []
    assert "AI-MAL-PROB" not in json.dumps([dict(e) for e in node.events("run.refused")], default=str)


def in_one_series(folder: Path, *photos: WrappedPhoto) -> list[Path]:
    """The objects of a sender that collects the photographs of a visit in one series: that of the first."""
    paths = []
    for photo in photos:
        target = dcmread(BytesIO(photo.data))
        target.SeriesInstanceUID = photos[0].series_uid
        paths.append(folder / f"{photo.sha256[:16]}.dcm")
        target.save_as(paths[-1])
    return paths


def bring_series(node: Node, paths: list[Path], photo: WrappedPhoto) -> None:
    node.receive(paths)
    node.close_series(photo.series_uid)
    node.engine.run()
    node.quiet(photo.study_uid)
    node.engine.run()
    assert node.engine.errors == {}


def test_a_series_of_several_photographs_has_a_result_for_each_and_a_bad_one_fails_alone(
    node: Node, tmp_path: Path
) -> None:
    good = [wrapped(jpeg(drawn_lesion(seed=number)), number) for number in (1, 2, 3)]
    plain = wrapped(jpeg(drawn_lesion(seed=4)), 4, declared="plain")
    bring_series(node, in_one_series(tmp_path, *good, plain), good[0])
    assert sorted(r["state"] for r in node.rows(runs)) == ["built"] * 3 + ["refused"]
    (refused,) = [r for r in node.rows(runs) if r["state"] == "refused"]
    assert refused["refusal"]["code"] == "picture-kind-unsupported"
    assert refused["identity"]["photograph"] == plain.sop_instance_uid
    reported = [d for d in node.delivered() if d.Modality == "SR"]
    assert {measurement_groups(d)[0].images[0] for d in reported} == {one.sop_instance_uid for one in good}
    assert len({measurement_groups(d)[0].tracking_uid for d in reported}) == 3
    alone = Node(tmp_path / "alone", node.settings.engine.models, ROUTES)
    try:  # the same photographs, each in a series of its own, have the same numbers
        bring(alone, tmp_path, *good)
        asked = {measurement_groups(d)[0].images[0]: probability(d) for d in alone.delivered() if d.Modality == "SR"}
    finally:
        alone.close()
    assert {measurement_groups(d)[0].images[0]: probability(d) for d in reported} == asked
    resources = [row["resource"] for row in node.rows(reports)]
    assert len([r for r in resources if r["resourceType"] == "DiagnosticReport"]) == 3
    for resource in resources:
        assert list(faults(resource)) == [], resource["resourceType"]
    told = {o["derivedFrom"][0]["reference"] for o in resources if o["resourceType"] == "Observation"}
    assert told, "every observation says what it was derived from"


def test_a_later_photograph_of_a_series_adds_its_result_and_leaves_the_others_alone(node: Node, tmp_path: Path) -> None:
    first, later = wrapped(jpeg(drawn_lesion())), wrapped(jpeg(drawn_lesion(seed=9)), 2)
    paths = in_one_series(tmp_path, first, later)
    bring_series(node, paths[:1], first)
    before = {str(d.SOPInstanceUID) for d in node.delivered()}
    bring_series(node, paths[1:], first)
    assert len(node.rows(revisions)) == 2
    assert [r["state"] for r in node.rows(runs)] == ["built"] * 2
    after = node.delivered()
    assert before < {str(d.SOPInstanceUID) for d in after} and len(after) == 2 * len(before)
    assert not [d for d in after if d.Modality == "KO"]
    told = [row["resource"] for row in node.rows(reports) if row["resource"]["resourceType"] == "DiagnosticReport"]
    assert [report["status"] for report in told] == ["preliminary"] * 2
    assert len({report["id"] for report in told}) == 2


def test_photographs_of_two_patients_in_one_series_wait_for_a_person(node: Node, tmp_path: Path) -> None:
    photos = [wrapped(jpeg(drawn_lesion(seed=number)), number) for number in (1, 2)]
    paths = in_one_series(tmp_path, *photos)
    other = dcmread(paths[1])
    other.PatientID = "P-18"
    other.save_as(paths[1])
    bring_series(node, paths, photos[0])
    assert node.rows(runs) == [] and node.delivered() == []
    held = [row["held"] for row in (*node.rows(series), *node.rows(studies)) if row["held"]]
    assert held and {one["code"] for one in held} == {"patient-conflict"}


def test_a_film_is_no_series_of_lesions(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.stages.read.MAX_PHOTOGRAPHS", 2)
    photos = [wrapped(jpeg(drawn_lesion(seed=number)), number) for number in (1, 2, 3)]
    bring_series(node, in_one_series(tmp_path, *photos), photos[0])
    assert node.rows(runs) == []
    (refused,) = [r["refusal"] for r in node.rows(revisions) if r["refusal"]]
    assert (refused["code"], refused["found"]) == ("too-large", "3 photographs")


def test_the_nodes_own_heat_map_is_never_read(node: Node, tmp_path: Path) -> None:
    """I18: a capture that comes back is an image in colour, of a class that is read, and still ours."""
    bring(node, tmp_path, wrapped(jpeg(drawn_lesion())))
    (capture,) = [d for d in node.delivered() if d.Modality == "OT"]
    capture.BurnedInAnnotation = "NO"
    path = tmp_path / "returned.dcm"
    capture.save_as(path)
    node.receive([path])
    node.close_series(str(capture.SeriesInstanceUID))
    node.engine.run()
    assert len(node.rows(runs)) == 1


def test_a_death_is_counted_for_the_run_whose_job_it_was_and_its_picture_goes_alone_from_then_on(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    models = node.tools.models
    ask = models.classify

    def classify(reference, pictures, is_wanted=None):
        calls.append(len(pictures))
        if len(calls) == 1:
            raise ChildDied("child-died")
        return ask(reference, pictures, is_wanted)

    monkeypatch.setattr(models, "classify", classify)
    photos = [wrapped(jpeg(drawn_lesion(seed=number)), number) for number in (1, 2, 3)]
    bring(node, tmp_path, *photos)
    assert node.engine.errors == {}
    assert [r["state"] for r in node.rows(runs)] == ["built"] * 3
    assert sorted(r["child_deaths"] for r in node.rows(runs)) == [0, 0, 1]
    assert calls[0] == 3 and 1 in calls[1:] and sum(calls[1:]) == 3, "each is answered once, the unlucky one alone"
