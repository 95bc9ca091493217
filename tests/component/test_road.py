"""The road below the door, on the real tumour study: volume, model, objects, delivery, late slices, any order."""

from __future__ import annotations

import hashlib
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.record.tables import cases, deliveries, reports, revisions, runs
from tests.fixtures_packages import make_tiny_package
from tests.support.node import Node

pytestmark = [pytest.mark.component, pytest.mark.realdata]

FLAIR_PRE, FLAIR_POST = "s0701_flair_axial", "s1301_flair_axial_post"


@pytest.fixture(scope="module")
def study(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The tumour study's files by series folder."""
    folder = tmp_path_factory.mktemp("study")
    with tarfile.open(data_dir / "dicom" / "tumour-study-philips.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _identified(path)
            found.setdefault(path.parent.name, []).append(path)
    return found


def _identified(path: Path) -> None:
    """Take away that the study was de-identified: such a study is kept from FHIR, which has a test of its own."""
    dataset = dcmread(path)
    for keyword in ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.IssuerOfPatientID = "TEST"
    dataset.save_as(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_tiny_package(root)
    return root


@pytest.fixture
def node(tmp_path: Path, models: Path) -> Iterator[Node]:
    made = Node(tmp_path / "node", models)
    yield made
    made.close()


def uid_of(files: list[Path]) -> tuple[str, str]:
    header = dcmread(files[0], stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "StudyInstanceUID"])
    return str(header.SeriesInstanceUID), str(header.StudyInstanceUID)


def bring(node: Node, files: list[Path]) -> None:
    """A series arrives and closes."""
    node.receive(files)
    node.close_series(uid_of(files)[0])
    node.engine.run()


def test_one_series_becomes_objects_in_the_archive_and_a_report(node: Node, study: dict[str, list[Path]]) -> None:
    bring(node, study[FLAIR_PRE])
    assert node.engine.errors == {}
    run = node.rows(runs)[0]
    assert run["state"] == "built", (run, node.events("run.failed"), node.events("run.refused"))
    modalities = [d.Modality for d in node.delivered()]
    assert sorted(modalities) == ["DOC", "SEG", "SR"]
    assert {d["state"] for d in node.rows(deliveries)} == {"confirmed"}
    kinds = {row["resource_type"] for row in node.rows(reports)}
    assert {"DiagnosticReport", "Observation", "Device", "ImagingStudy"} <= kinds
    source = dcmread(study[FLAIR_PRE][0], stop_before_pixels=True)
    assert {d.StudyInstanceUID for d in node.delivered()} == {source.StudyInstanceUID}
    assert {d.PatientID for d in node.delivered()} == {source.PatientID}


def test_the_same_series_in_another_installation_is_the_same_bytes(
    node: Node, study: dict[str, list[Path]], tmp_path: Path, models: Path
) -> None:
    """I14, I2: everything but the time of the run's row is a function of the input."""
    bring(node, study[FLAIR_PRE])
    twin = Node(tmp_path / "twin", models)
    try:
        shuffled = list(study[FLAIR_PRE])
        random.Random(7).shuffle(shuffled)
        bring(twin, shuffled)
        one = {d.SOPInstanceUID for d in node.delivered()}
        assert one == {d.SOPInstanceUID for d in twin.delivered()}
        assert node.findings(1)["regions"] == twin.findings(1)["regions"]
    finally:
        twin.close()


def test_a_late_slice_supersedes(node: Node, study: dict[str, list[Path]]) -> None:
    files = sorted(study[FLAIR_PRE], key=lambda f: float(dcmread(f).ImagePositionPatient[2]))
    bring(node, files[:-1])
    first = {d.Modality: d for d in node.delivered()}
    bring(node, files)
    assert [r["state"] for r in node.rows(runs)] == ["superseded", "built"]
    new = [d for d in node.delivered() if d.SOPInstanceUID not in {o.SOPInstanceUID for o in first.values()}]
    reports_now = [d for d in new if d.Modality == "SR"]
    assert len(reports_now) == 1
    old_uid = (
        reports_now[0]
        .PredecessorDocumentsSequence[0]
        .ReferencedSeriesSequence[0]
        .ReferencedSOPSequence[0]
        .ReferencedSOPInstanceUID
    )
    assert old_uid == first["SR"].SOPInstanceUID
    rejections = [d for d in new if d.Modality == "KO"]
    assert len(rejections) == 1
    named = {
        item.ReferencedSOPInstanceUID
        for study_item in rejections[0].CurrentRequestedProcedureEvidenceSequence
        for series_item in study_item.ReferencedSeriesSequence
        for item in series_item.ReferencedSOPSequence
    }
    assert named == {d.SOPInstanceUID for d in first.values()}
    current = [r for r in node.rows(reports) if r["resource_type"] == "DiagnosticReport"]
    assert len({r["resource_id"] for r in current}) == 1 and len(current) == 2


def test_a_de_identified_study_is_held_from_fhir(node: Node, data_dir: Path, tmp_path: Path) -> None:
    """Standards 7.6: no person's record may receive it; the archive still gets the objects."""
    with tarfile.open(data_dir / "dicom" / "tumour-study-philips.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    bring(node, sorted((tmp_path / "tumour-study-philips" / FLAIR_PRE).iterdir()))
    assert len(node.delivered()) == 3
    held = [d for d in node.rows(deliveries) if d["state"] == "held"]
    assert [d["destination"] for d in held] == ["own-fhir"] and node.rows(reports) == []
    assert held[0]["reason"]["code"] == "patient-unidentified"


def test_nothing_is_published_unless_the_route_says_so(
    tmp_path: Path, models: Path, study: dict[str, list[Path]]
) -> None:
    from tests.support.node import ROUTES

    node = Node(tmp_path / "quiet", models, routes=ROUTES.replace("publish: all", "publish: nothing"))
    try:
        bring(node, study[FLAIR_PRE])
        assert node.rows(runs)[0]["state"] == "built"
        assert node.rows(deliveries) == [] and node.delivered() == [] and node.rows(reports) == []
        from dicom_node.record import views

        with node.database.read() as connection:
            said = views.says(connection, node.tools.artefact_folder, 1)
        assert "mL" in said or said == "no region above threshold"
    finally:
        node.close()


def test_an_inner_slice_missing_is_refused_by_name(node: Node, study: dict[str, list[Path]]) -> None:
    files = sorted(study[FLAIR_PRE], key=lambda f: float(dcmread(f).ImagePositionPatient[2]))
    bring(node, files[:10] + files[11:])
    node.quiet(uid_of(files)[1])
    node.engine.run()
    assert node.rows(runs) == []
    assert node.events("series.refused")[0]["detail"]["refusal"]["code"] == "slices-missing"
    assert [c["refusal"]["code"] for c in node.rows(cases)] == ["slices-missing"]
    assert node.delivered() == []


ORDERS = 4


@pytest.mark.parametrize("seed", range(ORDERS))
def test_every_order_of_arrival_ends_in_one_current_result(
    seed: int, tmp_path: Path, models: Path, study: dict[str, list[Path]]
) -> None:
    """The nine native series in any order, with and without a pause longer than the quiet period (I19)."""
    rng = random.Random(seed)
    order = sorted(study)
    rng.shuffle(order)
    node = Node(tmp_path / "node", models)
    try:
        paused = rng.randrange(1, len(order)) if seed % 2 else None
        for number, name in enumerate(order):
            bring(node, study[name])
            if number == paused:
                node.quiet(uid_of(study[name])[1])
                node.engine.run()
        node.quiet(uid_of(study[FLAIR_PRE])[1])
        node.engine.run()
        assert node.engine.errors == {}
        built = node.current_runs()
        assert len(built) == 1
        with node.database.read() as connection:
            mask = node.tools.load(connection, built[0]["id"], "mask")
        assert mask is not None
        case = next(c for c in node.rows(cases) if c["id"] == built[0]["case_id"])
        chosen = {r["id"]: r["series_uid"] for r in node.rows(revisions)}
        assert chosen[case["revisions"]["flair"]] == uid_of(study[FLAIR_PRE])[0]
        digest = hashlib.sha256(mask).hexdigest()
        assert _digests.setdefault("mask", digest) == digest
        if built[0]["predecessor_run"] is None:
            uids = sorted(d.SOPInstanceUID for d in node.delivered())
            assert _digests.setdefault("uids", " ".join(uids)) == " ".join(uids)
    finally:
        node.close()


_digests: dict[str, str] = {}
