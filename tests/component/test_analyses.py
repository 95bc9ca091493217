"""Analyses, through the node's own door: whose they are, where they may go, and how they are taken back."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pynetdicom import AE, evt
from sqlalchemy import update

from dicom_node.door import Disk, Passer, Vault
from dicom_node.durable import Put
from dicom_node.record import actions, views
from dicom_node.record import analyses as record
from dicom_node.record.tables import analyses, audit, cases, deliveries, instances, reports, revisions, runs, studies
from dicom_node.refusals import PeerTrouble, Refused
from dicom_node.routing.gate import HOLDS
from dicom_node.stages import submit as submitting
from tests.fixtures_classifier import make_tiny_classifier
from tests.fixtures_photo import drawn_lesion, jpeg
from tests.support.clinic import RUT, SYSTEM, Clinic, Warm, patient

pytestmark = pytest.mark.component


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    root = tmp_path_factory.mktemp("models")
    make_tiny_classifier(root)
    made = Warm(root)
    yield made
    made.close()


@pytest.fixture
def clinic(tmp_path: Path, warm: Warm) -> Iterator[Clinic]:
    made = Clinic(tmp_path / "node", warm)
    yield made
    made.close()


def passed(clinic: Clinic) -> tuple[list[str], set[str]]:
    """What an archive that takes everything gets of the originals: how they are marked then, and whose they are."""
    entity, taken = AE(ae_title="ORTHANC"), set[str]()
    for sop_class in ("1.2.840.10008.5.1.4.1.1.77.1.4", "1.2.840.10008.5.1.4.1.1.77.1.7"):
        entity.add_supported_context(sop_class, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"])

    def on_store(event: Any) -> int:
        taken.add(str(event.dataset.PatientID))
        return 0x0000

    place = ("127.0.0.1", clinic.archive_port)
    server = entity.start_server(place, block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    try:
        data = clinic.settings.data.folder
        vault = Vault(data, Disk(), min_free_bytes=0, min_free_share=0, max_object_bytes=1 << 30)
        Passer(clinic.settings, clinic.database, vault).pass_pending()
    finally:
        server.shutdown()
    return sorted(row["pass_state"] for row in clinic.rows(instances)), taken


def published(clinic: Clinic) -> set[str]:
    return {d["state"] for d in clinic.rows(deliveries)}


# -- the way


def test_a_photograph_goes_the_whole_way_and_names_nobody_who_asked(clinic: Clinic) -> None:
    with clinic.open():
        row = clinic.desk.accept(
            clinic.asked(patient=patient(), order="A-17", body_site="back", laterality="L", description="grows",
                         impression="benign")
        )  # fmt: skip
        assert row["state"] == "received" and clinic.desk.result(row).state == "waiting"
        result = clinic.until(row, "completed")
    assert {one.key for one in result.outputs} >= {"malignant"}
    assert result.malignant is not None and 0 <= result.malignant.value <= 1 and result.malignant.threshold == 0.5
    assert result.model.startswith("tiny-classifier@") and result.analysed_at and result.quality
    assert not result.is_private and result.files == {"photo", "heat_map.png", "report.pdf"}
    assert published(clinic) == {"confirmed"} and clinic.rows(reports)
    (revision,) = clinic.rows(revisions)
    assert revision["grade"] == "promised"
    assert passed(clinic) == (["passed"], {RUT})
    assert [row["submitter"] for row in clinic.rows(studies)] == [clinic.ana.actor]  # her turn, not the desk's
    (report,) = [r["resource"] for r in clinic.rows(reports) if r["resource"]["resourceType"] == "DiagnosticReport"]
    assert report["subject"]["identifier"] == {"system": SYSTEM, "value": RUT}

    delivered = clinic.delivered()
    assert {str(d.PatientID) for d in delivered} == {RUT} and {d.IssuerOfPatientID for d in delivered} == {"CL-RUT"}
    (instance,) = clinic.rows(instances)
    original = dcmread(clinic.settings.data.folder / instance["path"])
    assert (str(original.PatientName), original.PatientBirthDate, original.AccessionNumber) == (
        "Doe^Jane", "19700101", "A-17")  # fmt: skip
    assert "PatientIdentityRemoved" not in original
    who = clinic.ana
    texts = [d.to_json() for d in [*delivered, original]] + [json.dumps(r["resource"]) for r in clinic.rows(reports)]
    texts.append((clinic.desk.file(clinic.row(row["public_id"]), "report.pdf") or ("", b""))[1].decode("latin-1"))
    for told in texts:
        for secret in (who.name, who.email, who.public_id, "Primera"):
            assert secret not in told
    assert clinic.engine.errors == {}
    assert not list((clinic.settings.data.folder / "analyses").glob("*.dcm"))


def test_the_answer_is_durable_before_any_job_runs_and_the_reconciler_finds_it(clinic: Clinic, tmp_path: Path) -> None:
    def away(_item: Any) -> None:
        raise OSError("the engine's database is away")

    clinic.desk._put = away
    row = clinic.desk.accept(clinic.asked())
    assert row["state"] == "received"
    (put,) = submitting.unsubmitted_puts(clinic.tools, lambda key: False, "again")
    assert put.args == (row["id"], 0)
    assert submitting.unsubmitted_puts(clinic.tools, lambda key: key == f"submit/{row['id']}", "again") == []
    with clinic.open():
        clinic.put(put)
        assert clinic.until(row, "completed").is_private


def test_sent_twice_is_sent_once(clinic: Clinic) -> None:
    first = clinic.desk.accept(clinic.asked(client_id="phone-1", patient=patient()))
    again = clinic.desk.accept(clinic.asked(client_id="phone-1", patient=patient()))
    assert first["public_id"] == again["public_id"] and len(clinic.rows(analyses)) == 1
    for other in (
        clinic.asked(client_id="phone-1", patient=patient(id="5126663-3")),
        clinic.asked(client_id="phone-1"),
        clinic.asked(client_id="phone-1", patient=patient(), data=jpeg(drawn_lesion(seed=3))),
        clinic.asked(client_id="phone-1", patient=patient(), description="another"),
    ):
        with pytest.raises(Refused) as refused:
            clinic.desk.accept(other)
        assert refused.value.refusal.code == "idempotency-conflict"
    others = clinic.desk.accept(clinic.asked(clinic.eva, client_id="phone-1", patient=patient()))
    assert others["public_id"] != first["public_id"]
    with clinic.open():
        for key in (f"submit/{first['id']}", f"submit/{first['id']}/twice", f"submit/{first['id']}/thrice"):
            clinic.put(replace(submitting.submit_put(first), key=key))
        clinic.until(first, "completed")
        clinic.until(others, "completed")
    assert len(clinic.rows(instances)) == len(clinic.rows(studies)) == 2


def test_what_the_desk_does_not_take(clinic: Clinic) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"patient": patient(id="12345678-6")}, "validation"),
        ({"patient": patient(type="passport")}, "validation"),
        ({"patient": patient(id=" ")}, "patient-unidentified"),
        ({"patient": patient(id="unknown", type="chart")}, "patient-unidentified"),
        ({"patient": patient(id="0000", type="chart")}, "patient-unidentified"),
        ({"patient": patient(birth_date="19709901")}, "validation"),
        ({"patient": patient(name="a\\b")}, "validation"),
        ({"site": "hospital"}, "validation"),
        ({"site": "nowhere"}, "validation"),
        ({"body_site": "elbow-of-a-horse"}, "validation"),
        ({"laterality": "X"}, "validation"),
        ({"order": "x" * 17}, "validation"),
        ({"consent": "yes"}, "validation"),
        ({"impression": "melanoma"}, "validation"),
        ({"declared": "selfie"}, "validation"),
        ({"description": "x" * 2001}, "validation"),
        ({"description": "a\x00b"}, "validation"),
        ({"client_id": "a b"}, "validation"),
    ]
    for said, code in wrong:
        with pytest.raises(Refused) as refused:
            clinic.desk.accept(clinic.asked(**said))
        assert refused.value.refusal.code == code, said
    both = clinic.sara
    with pytest.raises(Refused):  # she has two sites and must say which
        clinic.desk.accept(clinic.asked(both))
    assert clinic.desk.accept(clinic.asked(both, site="hospital"))["site"] == "hospital"
    assert len(clinic.rows(analyses)) == 1


# -- private to the node


@pytest.mark.parametrize(("who", "code"), [(None, "private-study"), (patient(confirmed=False), "identity-unconfirmed")])
def test_without_a_confirmed_identity_nothing_leaves_whatever_the_route_says(
    clinic: Clinic, who: Any, code: str
) -> None:
    with clinic.open():
        row = clinic.desk.accept(clinic.asked(patient=who))
        result = clinic.until(row, "completed")
    assert clinic.rows(cases)[0]["publish"] == "all"
    assert result.is_private and result.malignant is not None
    assert clinic.delivered() == [] and clinic.rows(deliveries) == [] and clinic.rows(reports) == []
    (barred,) = clinic.events("publication.barred")
    assert HOLDS[code][1] in barred["detail"]["reasons"]
    assert passed(clinic) == (["private"], set())
    (instance,) = clinic.rows(instances)
    original = dcmread(clinic.settings.data.folder / instance["path"])
    assert (original.get("PatientIdentityRemoved") == "YES") == (who is None)
    if who is None:
        assert str(original.PatientID).startswith("ANON-") and str(original.PatientName) == ""
        assert row["pseudonym"] == original.PatientID and len(row["pseudonym"]) == 17


def test_a_photograph_of_somebody_else_is_published_beside_a_private_one(clinic: Clinic) -> None:
    with clinic.open():
        private = clinic.desk.accept(clinic.asked())
        named = clinic.desk.accept(clinic.asked(data=jpeg(drawn_lesion(seed=2)), patient=patient()))
        clinic.until(private, "completed")
        clinic.until(named, "completed")
    assert {str(d.PatientID) for d in clinic.delivered()} == {RUT}
    assert passed(clinic) == (["passed", "private"], {RUT})


# -- who sees what


def test_own_analyses_and_those_of_a_specialists_sites(clinic: Clinic) -> None:
    row = clinic.desk.accept(clinic.asked())
    public_id = row["public_id"]
    assert clinic.desk.of(clinic.ana, public_id) is not None
    assert clinic.desk.of(clinic.sara, public_id) is not None
    assert clinic.desk.own(clinic.sara, public_id) is None
    for stranger in (clinic.eva, clinic.olga, clinic.person("adam@a.example", "Adam", ["administrator"], [])):
        assert clinic.desk.of(stranger, public_id) is None
        assert clinic.desk.list_of(stranger, sites=True) == [] == clinic.desk.list_of(stranger)
    assert clinic.desk.of(clinic.ana, "0" * 32) is None
    assert [r["public_id"] for r in clinic.desk.list_of(clinic.sara, sites=True)] == [public_id]
    assert clinic.desk.list_of(clinic.sara) == []


def test_a_list_by_days_and_states(clinic: Clinic) -> None:
    first, second = (clinic.desk.accept(clinic.asked()) for _ in range(2))
    with clinic.database.write() as connection:
        changed = (
            update(analyses).where(analyses.c.id == first["id"]).values(created_at="2026-03-01T02:00:00.000000+00:00")
        )
        connection.execute(changed)
    ids = [row["public_id"] for row in clinic.desk.list_of(clinic.ana)]
    assert ids == [second["public_id"], first["public_id"]]
    assert [r["id"] for r in clinic.desk.list_of(clinic.ana, since="2026-03-01", until="2026-03-01")] == [first["id"]]
    assert clinic.desk.list_of(clinic.ana, until="2026-02-28") == []
    assert len(clinic.desk.list_of(clinic.ana, state="waiting")) == 2
    assert clinic.desk.list_of(clinic.ana, state="completed") == []
    with pytest.raises(Refused):
        clinic.desk.list_of(clinic.ana, since="yesterday")
    assert clinic.desk.last_patients(clinic.ana) == []


def test_last_patients_each_once_the_newest_first(clinic: Clinic) -> None:
    for number in (RUT, "5126663-3", RUT):
        clinic.desk.accept(clinic.asked(patient=patient(id=number)))
    assert [one["id"] for one in clinic.desk.last_patients(clinic.ana)] == [RUT, "5126663-3"]
    assert clinic.desk.last_patients(clinic.eva) == []


# -- pictures


def rotated(pixels: Any) -> bytes:
    """A phone held upright: pixels lie, EXIF says turn, and says where the photograph was taken."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "S"
    exif[0x010F] = "SECRET-CAMERA"
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92, exif=exif)
    return buffer.getvalue()


def test_the_picture_comes_back_upright_and_clean(clinic: Clinic) -> None:
    pixels = drawn_lesion()
    plain, turned = jpeg(pixels), rotated(pixels)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    with clinic.open():
        rows = [clinic.desk.accept(clinic.asked(data=data)) for data in (plain, turned, png.getvalue())]
        assert clinic.desk.photo(rows[0]) is None or True
        for row in rows:
            clinic.until(row, "completed", "refused")
        photos = [clinic.desk.photo(clinic.row(row["public_id"])) for row in rows]
        exact = clinic.desk.photo(clinic.row(rows[2]["public_id"]), is_exact=True)
    assert all(photo is not None and photo.media_type == "image/jpeg" for photo in photos)
    seen = [np.asarray(Image.open(io.BytesIO(photo.data)).convert("RGB")) for photo in photos if photo is not None]
    assert np.array_equal(seen[0], np.asarray(Image.open(io.BytesIO(plain))))
    assert seen[1].shape == (400, 300, 3)
    assert exact is not None and np.array_equal(np.asarray(Image.open(io.BytesIO(exact.data))), pixels)
    for photo in photos:
        assert photo is not None and b"SECRET-CAMERA" not in photo.data and b"Exif" not in photo.data


def test_looking_is_written_down(clinic: Clinic) -> None:
    row = clinic.desk.accept(clinic.asked())
    clinic.desk.reveal(clinic.sara, row)
    clinic.desk.saw_result(clinic.ana, row)
    first = clinic.row(row["public_id"])
    assert first["revealed_at"] and first["result_seen_at"]
    clinic.desk.reveal(clinic.ana, row)
    assert clinic.row(row["public_id"])["revealed_at"] == first["revealed_at"]
    told = [(entry["actor"], entry["action"]) for entry in clinic.rows(audit) if entry["action"].startswith("analysis")]
    assert told == [
        (clinic.ana.actor, "analysis-made"),
        (clinic.sara.actor, "analysis-revealed"),
        (clinic.ana.actor, "analysis-result-seen"),
        (clinic.ana.actor, "analysis-revealed"),
    ]


# -- refused, failed


def test_a_picture_that_is_refused_says_why_and_has_no_number(clinic: Clinic) -> None:
    whole = jpeg(drawn_lesion())
    with clinic.open():
        dark = clinic.desk.accept(clinic.asked(data=jpeg(drawn_lesion() // 6)))
        cut = clinic.desk.accept(clinic.asked(data=whole[: len(whole) // 2]))
        results = [clinic.until(row, "refused") for row in (dark, cut)]
    assert [result.refusal and result.refusal["code"] for result in results] == ["image-exposure", "image-truncated"]
    assert all(result.outputs == () for result in results)
    assert clinic.row(cut["public_id"])["photo_path"] is None
    assert clinic.row(cut["public_id"])["study_uid"] is None
    assert submitting.sweep_photos(clinic.tools) == 0  # young files stay: their row may be on its way


def test_a_door_that_is_away_is_tried_again_and_given_up_after_a_day(clinic: Clinic) -> None:
    row = clinic.desk.accept(clinic.asked())
    (first,) = submitting.submit(clinic.tools, row["id"], 0)
    assert first.delay_s == 1.0 and clinic.row(row["public_id"])["state"] == "received"
    (later,) = submitting.submit(clinic.tools, row["id"], 5)
    assert later.delay_s == 32.0 and later.key != first.key
    with clinic.open():
        clinic.put(later)
        clinic.until(row, "completed")
    clinic.desk._put = lambda _item: None  # the test itself says when it is tried
    other = clinic.desk.accept(clinic.asked(data=jpeg(drawn_lesion(seed=4))))
    with clinic.database.write() as connection:
        changed = update(analyses).where(analyses.c.id == other["id"])
        connection.execute(changed.values(created_at="2026-01-01T00:00:00.000000+00:00"))
    assert submitting.submit(clinic.tools, other["id"], 0) == []
    result = clinic.desk.result(clinic.row(other["public_id"]))
    assert result.state == "failed" and "24 hours" in result.error
    # nothing is lost: an operator sees it, and brings it again
    with clinic.open():
        with clinic.database.write() as connection:
            (job,) = (one for one in views.jobs(connection) if one["id"].startswith("analysis-"))
            assert (job["id"], job["state"]) == (f"analysis-{other['id']}", "failed") and "24 hours" in job["error"]
            assert clinic.row(other["public_id"])["photo_sha256"] in record.photos_in_use(connection)
            (put,) = actions.retry(connection, job["id"], "test", "the listener is mended")
            with pytest.raises(actions.UnknownItem):
                actions.retry(connection, job["id"], "test", "again")
        clinic.put(Put(*put))
        clinic.until(other, "completed")


# -- taken back


def test_a_withdrawn_result_is_taken_back_everywhere_and_has_no_numbers(clinic: Clinic) -> None:
    with clinic.open():
        row = clinic.desk.accept(clinic.asked(patient=patient()))
        clinic.until(row, "completed")
        clinic.settle()
        before = {str(d.SOPInstanceUID) for d in clinic.delivered()}
        taken = clinic.desk.withdraw(clinic.ana, clinic.row(row["public_id"]), "wrong patient: was Peter")
        assert taken["state"] == "withdrawn"
        clinic.settle()
    result = clinic.desk.result(taken)
    assert result.state == "withdrawn" and result.outputs == () and result.files == {"photo"}
    (rejection,) = [d for d in clinic.delivered() if d.Modality == "KO"]
    named = {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in rejection.ContentSequence
        if "ReferencedSOPSequence" in item
    }
    assert named == before
    (report,) = [r["resource"] for r in clinic.rows(reports) if r["resource"]["resourceType"] == "DiagnosticReport"
                 and r["is_current"]]  # fmt: skip
    assert report["status"] == "entered-in-error"
    assert passed(clinic) == (["private"], set())  # not passed on before, and not any more
    for told in [json.dumps(dict(e), default=str) for e in clinic.events("study.withdrawn")]:
        assert "Peter" not in told
    assert clinic.desk.withdraw(clinic.ana, taken, "again")["withdrawn_reason"] == "wrong patient: was Peter"
    with pytest.raises(Refused):
        clinic.desk.withdraw(clinic.ana, row, "  ")


def test_withdrawn_before_the_road_has_it(clinic: Clinic) -> None:
    row = clinic.desk.accept(clinic.asked(patient=patient()))
    clinic.desk.withdraw(clinic.ana, row, "a finger before the lens")
    with clinic.open():
        clinic.settle()
    assert clinic.rows(instances) == [] and clinic.engine.errors == {}
    assert clinic.desk.result(clinic.row(row["public_id"])).state == "withdrawn"
    assert submitting.unsubmitted_puts(clinic.tools, lambda key: False, "again") == []


@pytest.mark.parametrize("moment", ["before-the-door", "in-the-door"])
def test_withdrawn_while_the_object_is_on_its_way(clinic: Clinic, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    row = clinic.desk.accept(clinic.asked(patient=patient()))
    real = submitting.store

    def store(*args: Any) -> Any:
        if moment == "before-the-door":
            clinic.desk.withdraw(clinic.ana, clinic.row(row["public_id"]), "wrong patient")
        answer = real(*args)
        if moment == "in-the-door":
            clinic.desk.withdraw(clinic.ana, clinic.row(row["public_id"]), "wrong patient")
        return answer

    monkeypatch.setattr(submitting, "store", store)
    with clinic.open():
        clinic.settle(lambda: clinic.rows(studies) and clinic.rows(studies)[0]["cancelled"])
        clinic.settle()
    assert clinic.desk.result(clinic.row(row["public_id"])).state == "withdrawn"
    assert clinic.delivered() == [] and {r["state"] for r in clinic.rows(runs)} <= {"cancelled", "superseded"}
    assert submitting.unsubmitted_puts(clinic.tools, lambda key: False, "again") == []
    assert passed(clinic) == (["private"], set())


def test_withdrawn_while_the_door_does_not_answer_and_keeps_it_all_the_same(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = clinic.desk.accept(clinic.asked(patient=patient()))
    real, settle, sent = submitting.store, submitting._settle, list[Any]()

    def silent(*args: Any) -> Any:
        clinic.desk.withdraw(clinic.ana, clinic.row(row["public_id"]), "wrong patient")
        sent.append(args)
        raise PeerTrouble("no answer in time")

    def settled(*args: Any) -> Any:
        found = settle(*args)
        if sent:  # it had come so far, and is kept after somebody has looked for it in vain
            real(*sent.pop())
        return found

    monkeypatch.setattr(submitting, "store", silent)
    monkeypatch.setattr(submitting, "_settle", settled)
    with clinic.open():
        clinic.settle(lambda: clinic.rows(studies))
        clinic.settle(lambda: clinic.rows(studies)[0]["cancelled"])
        clinic.settle()
    assert clinic.desk.result(clinic.row(row["public_id"])).state == "withdrawn"
    assert clinic.delivered() == [] and {r["state"] for r in clinic.rows(runs)} <= {"cancelled", "superseded"}
    assert submitting.unsubmitted_puts(clinic.tools, lambda key: False, "again") == []
    assert passed(clinic) == (["private"], set())


def test_done_over_for_the_right_patient(clinic: Clinic) -> None:
    with clinic.open():
        row = clinic.desk.accept(clinic.asked(patient=patient(), description="grows"))
        clinic.until(row, "completed")
        asked = replace(clinic.asked(patient=patient(id="5126663-3", name="Roe^Mary"), description="grows"))
        made = clinic.desk.redo(clinic.ana, clinic.row(row["public_id"]), asked, "wrong patient")
        again = clinic.desk.redo(clinic.ana, clinic.row(row["public_id"]), asked, "wrong patient")
        assert made["public_id"] == again["public_id"] != row["public_id"]
        assert clinic.desk.replaced_by(made) == row["public_id"]
        new = clinic.until(made, "completed")
        clinic.settle()
    old = clinic.row(row["public_id"])
    assert old["state"] == "withdrawn" and clinic.desk.result(old).outputs == ()
    now = clinic.row(made["public_id"])
    assert now["study_uid"] != old["study_uid"] and now["patient"]["id"] == "5126663-3"
    assert new.malignant is not None
    current = [d for d in clinic.delivered() if str(d.StudyInstanceUID) == now["study_uid"]]
    assert {str(d.PatientID) for d in current} == {"5126663-3"}
    pictures = [clinic.desk.photo(one, is_exact=True) for one in (old, now)]
    assert pictures[0] == pictures[1]
    other = replace(asked, description="something else")
    with pytest.raises(Refused) as refused:
        clinic.desk.redo(clinic.ana, old, other, "wrong patient")
    assert refused.value.refusal.code == "idempotency-conflict"


# -- the door's own title


def test_nothing_else_comes_under_the_nodes_own_title(clinic: Clinic, tmp_path: Path) -> None:
    from dicom_node.demo.sending import DicomFile, Peer, send_files
    from dicom_node.words import PHOTOS_AE
    from tests.fixtures_photo import wrapped_lesion

    wrapped, path = wrapped_lesion(tmp_path)
    file = DicomFile(path, wrapped.sop_class_uid, wrapped.transfer_syntax_uid)
    peer = Peer(clinic.settings.node.ae_title, "127.0.0.1", clinic.port)
    with clinic.open(works=False):
        refused = send_files([file], peer, calling_ae_title=PHOTOS_AE)
        taken = send_files([file], peer, calling_ae_title="MODALITY")
    assert refused.failed == {"status 0124H": 1} and taken.stored == 1
    assert not list((clinic.settings.vault_folder).rglob("*.part"))


@pytest.mark.parametrize(
    ("peer", "own", "is_here"),
    [("127.0.0.1", "127.0.0.1", True), ("10.0.0.5", "10.0.0.5", True), ("10.0.0.6", "10.0.0.5", False)],
)
def test_nobody_elsewhere_uses_the_nodes_own_title(
    clinic: Clinic, monkeypatch: Any, peer: str, own: str, is_here: bool
) -> None:
    from dicom_node.door import server
    from dicom_node.words import PHOTOS_AE

    socket = SimpleNamespace(socket=SimpleNamespace(getsockname=lambda: (own, 104)))
    caller = SimpleNamespace(requestor=SimpleNamespace(address=peer), dul=SimpleNamespace(socket=socket))
    assert server._is_this_machine(caller) is is_here  # type: ignore[arg-type]
    monkeypatch.setattr(server, "_is_this_machine", lambda _assoc: is_here)
    entity = AE(ae_title=PHOTOS_AE)
    entity.add_requested_context("1.2.840.10008.1.1")
    with clinic.open(works=False):
        association = entity.associate("127.0.0.1", clinic.port, ae_title=clinic.settings.node.ae_title)
        assert association.is_established is is_here
        if is_here:
            association.release()
