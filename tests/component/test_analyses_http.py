"""``/api/v1/analyses`` as a client sees it: two ways of sending, whose is what, files, taking back, and looking up."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from dicom_node.record import keys
from dicom_node.record.tables import analyses, audit, instances
from portal.api.analysis_bodies import AnalysisAnswer, AnalysisList
from tests.fixtures_classifier import make_tiny_classifier
from tests.fixtures_photo import drawn_lesion, jpeg
from tests.peers.fhir_peer import FhirPeer
from tests.support.clinic import RUT, SYSTEM, Clinic, Warm, patient

pytestmark = pytest.mark.component

URL = "/api/v1/analyses"
PATIENT = {"id": "12.345.678-5", "type": "rut", "name": "Doe^Jane", "birth_date": "1970-01-01", "sex": "F",
           "confirmed": True}  # fmt: skip


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


def until(client: TestClient, public_id: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60.0
    while True:
        told = client.get(f"{URL}/{public_id}").raise_for_status().json()
        AnalysisAnswer.model_validate(told)
        if told["state"] in states:
            return dict(told)
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


def test_one_meaning_by_form_and_by_json_and_the_whole_way(clinic: Clinic) -> None:
    app, data = clinic.app(), jpeg(drawn_lesion())
    ana, eva, sara, olga = (clinic.client(app, who) for who in (clinic.ana, clinic.eva, clinic.sara, clinic.olga))
    said = {"kind": "dermoscopic", "order": "A-1", "bodySite": "back", "laterality": "L", "description": "wächst, ñ",
            "consent": "care", "impression": "suspicious"}  # fmt: skip
    with clinic.open():
        form = ana.post(
            URL,
            files={"image": ("x.jpg", data)},
            data={**said, "patient": json.dumps(PATIENT)},
            headers={"Idempotency-Key": "one"},
        )
        assert form.status_code == 202, form.text
        as_json = {**said, "patient": PATIENT, "image": base64.b64encode(data).decode()}
        again = ana.post(URL, json=as_json, headers={"Idempotency-Key": "one"})
        assert again.status_code == 202 and again.json()["id"] == form.json()["id"]
        assert form.headers["Location"] == f"{URL}/{form.json()['id']}"
        other = ana.post(URL, json={**as_json, "order": "A-2"}, headers={"Idempotency-Key": "one"})
        assert other.status_code == 409 and other.json()["code"] == "idempotency-conflict"
        public_id = form.json()["id"]
        told = until(ana, public_id, "completed")
    assert told["patient"]["id"] == RUT and told["patient"]["birth_date"] == "1970-01-01"
    assert told["patient"]["confirmed"] == "user" and not told["private"]
    assert told["malignant"]["threshold"] == {"percent": 50.0, "fraction": 0.5}
    assert told["malignant"]["probability"]["percent"] == pytest.approx(
        100 * told["malignant"]["probability"]["fraction"]
    )
    assert told["contradicted"] == (not told["malignant"]["at_or_above_threshold"])
    assert told["meaning"] and "not a diagnosis" in told["disclaimer"] and told["limits"]
    spanish = ana.get(f"{URL}/{public_id}", headers={"Accept-Language": "es-CL"}).json()
    assert "no es un diagnóstico" in spanish["disclaimer"] and spanish["message"] != told["message"]

    photo = ana.get(told["links"]["photo"])
    assert photo.headers["content-type"] == "image/jpeg" and photo.headers["cache-control"] == "no-store"
    assert Image.open(io.BytesIO(photo.content)).size == (400, 300)
    assert ana.get(told["links"]["heat_map"]).content.startswith(b"\x89PNG")
    assert ana.get(told["links"]["pdf"]).content.startswith(b"%PDF")
    assert ana.get(f"{URL}/{public_id}/files/findings").status_code == 404

    for stranger in (eva, olga):
        for path in ("", "/photo", "/files/report.pdf"):
            assert stranger.get(f"{URL}/{public_id}{path}").status_code == 404
        for act, body in (("withdraw", {"reason": "x"}), ("redo", {"reason": "x", "analysis": {}})):
            assert stranger.post(f"{URL}/{public_id}/{act}", json=body).status_code == 404
        assert stranger.get(URL).json() == {"analyses": []}
    seen = sara.get(f"{URL}/{public_id}")
    assert seen.status_code == 200
    for secret in (clinic.ana.name, clinic.ana.email, clinic.ana.public_id):
        assert secret not in seen.text
    assert sara.post(f"{URL}/{public_id}/withdraw", json={"reason": "x"}).status_code == 404
    assert [a["id"] for a in sara.get(f"{URL}?sites=true").json()["analyses"]] == [public_id]
    assert eva.get(f"{URL}?sites=true").status_code == 403
    narrow = clinic.client(app, clinic.sara, ("analysis:own",))
    assert narrow.get(f"{URL}/{public_id}").status_code == 404
    AnalysisList.model_validate(ana.get(URL).json())
    actions = {(entry["actor"], entry["action"]) for entry in clinic.rows(audit)}
    assert {(clinic.ana.actor, "analysis-revealed"), (clinic.sara.actor, "analysis-result-seen")} <= actions


def test_taken_back_and_done_over(clinic: Clinic) -> None:
    app = clinic.app()
    ana = clinic.client(app, clinic.ana)
    body = {"image": base64.b64encode(jpeg(drawn_lesion())).decode(), "patient": PATIENT, "kind": "dermoscopic"}
    with clinic.open():
        first = ana.post(URL, json=body).json()["id"]
        until(ana, first, "completed")
        facts = {"patient": {**PATIENT, "id": "5126663-3", "name": "Roe^Mary"}, "kind": "dermoscopic"}
        assert ana.post(f"{URL}/{first}/redo", json={"analysis": facts}).status_code == 400
        again = ana.post(f"{URL}/{first}/redo", json={"reason": "wrong patient", "analysis": facts})
        assert again.status_code == 202, again.text
        second = again.json()["id"]
        assert until(ana, second, "completed")["replaces"] == first
    told = ana.get(f"{URL}/{first}").json()
    assert told["state"] == "withdrawn" and told["withdrawn"]["reason"] == "wrong patient"
    assert told["malignant"] is None and told["links"]["pdf"] is None
    gone = ana.post(f"{URL}/{second}/withdraw", json={"reason": "not hers either"})
    assert gone.status_code == 200 and gone.json()["state"] == "withdrawn"


def test_what_is_refused_at_the_door(clinic: Clinic) -> None:
    app = clinic.app()
    ana, image = clinic.client(app, clinic.ana), base64.b64encode(jpeg(drawn_lesion())).decode()
    for body, status, code in (
        ({"image": image, "patient": {**PATIENT, "id": "12345678-6"}}, 400, "validation"),
        ({"image": image, "patient": {"id": "1", "type": "rut", "mother": "x"}}, 400, "validation"),
        ({"image": image, "bodySite": "elbow-of-a-horse"}, 400, "validation"),
        ({"image": image, "consent": "maybe"}, 400, "validation"),
        ({"image": image, "site": "hospital"}, 400, "validation"),
        ({"image": "####"}, 422, "base64-invalid"),
        ({"image": base64.b64encode(b"GIF89a" + b"0" * 200).decode()}, 415, "image-type-unsupported"),
        ({}, 400, "validation"),
    ):
        answer = ana.post(URL, json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), body
        assert answer.headers["content-type"] == "application/problem+json"
    assert ana.post(URL, content=b"x", headers={"Content-Type": "text/plain"}).json()["code"] == "validation"
    assert ana.post(URL, data={"kind": "plain"}, files={"other": ("x", b"1")}).status_code == 400
    assert ana.get(f"{URL}?since=yesterday").status_code == 400
    assert ana.get(f"{URL}/nothing").status_code == 400 and ana.get(f"{URL}/{'0' * 32}").status_code == 404
    assert clinic.rows(analyses) == []
    bare = keys.create(clinic.database, "bare", ["predict:run"])
    plain = TestClient(app, base_url="http://127.0.0.1", headers={"X-API-Key": bare})
    assert plain.get(URL).status_code == 403 and plain.post(URL, json={}).status_code == 403
    assert TestClient(app, base_url="http://127.0.0.1").post(URL, json={}).status_code == 401
    reader = clinic.client(app, clinic.ana, ("analysis:own",))
    assert reader.post(URL, json={"image": image}).status_code == 403


def test_a_refusal_is_said_in_the_persons_language(clinic: Clinic) -> None:
    app = clinic.app()
    ana = clinic.client(app, clinic.ana)
    with clinic.open():
        dark = jpeg(drawn_lesion() // 6)
        sent = ana.post(URL, files={"image": ("x.jpg", dark)}, data={"kind": "dermoscopic"}).json()["id"]
        told = until(ana, sent, "refused")
        assert told["refusal"]["code"] == "image-exposure" and told["malignant"] is None
        spanish = ana.get(f"{URL}/{sent}", headers={"Accept-Language": "es"}).json()
    assert spanish["refusal"]["advice"] != told["refusal"]["advice"] and "Repítala" in spanish["refusal"]["advice"]
    assert spanish["message"] == spanish["refusal"]["message"]


def person(identifier: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "identifier": [{"system": SYSTEM, "value": identifier}], **more}


def test_who_has_an_identifier_is_answered_truthfully(tmp_path: Path, warm: Warm) -> None:
    with FhirPeer() as peer:
        named = {"name": [{"family": "Roe", "given": ["Mary", "Ann"], "use": "official"}, {"text": "x", "use": "old"}]}
        peer.create(person(RUT, birthDate="1980-02-03", gender="female", **named))
        peer.create(person("5126663-3"))
        peer.create(person("5126663-3"))
        peer.create(person("10000013-K", active=False))
        his = {"kind": "fhir", "url": peer.url}
        clinic = Clinic(
            tmp_path / "node", warm, destinations={"archive": {"kind": "folder", "path": tmp_path}, "his": his}
        )
        try:
            ana = clinic.client(clinic.app(), clinic.ana)

            def ask(identifier: str, kind: str = "rut", site: str = "post") -> Any:
                return ana.post("/api/v1/patients/look-up", json={"site": site, "type": kind, "id": identifier})

            assert ana.get("/api/v1/patients", params={"id": RUT}).status_code == 404, "in no address"
            assert ask("12.345.678-5").json() == {
                "state": "found", "id": RUT, "name": "Roe^Mary Ann", "birth_date": "19800203", "sex": "F"
            }  # fmt: skip
            assert ask("5126663-3").json()["state"] == "several"
            assert ask("10000013-k").json()["state"] == "not-found"
            assert ask("9999999-3").json()["state"] == "not-found"
            assert ask("12345678-6").status_code == 400 and RUT[:8] not in ask("12345678-6").text
            assert ask("A-1", "chart").json()["state"] == "not-configured"
            assert ask(RUT, site="hospital").status_code == 400
            # what the server showed and a person confirmed goes before what was typed
            row = clinic.desk.accept(clinic.asked(patient=patient(name="Typed^Wrong")))
            assert row["patient"]["confirmed"] == "user"  # the desk of this test has not asked; that of the portal has
            body = {
                "image": base64.b64encode(jpeg(drawn_lesion())).decode(),
                "patient": {**PATIENT, "name": "Typed^Wrong"},
            }
            told = ana.post(URL, json=body).json()
            assert told["patient"]["confirmed"] == "fhir" and told["patient"]["name"] == "Roe^Mary Ann"
            assert told["patient"]["birth_date"] == "1980-02-03"
            found = [e["detail"]["found"] for e in clinic.rows(audit) if e["action"] == "patient-looked-up"]
            assert found[:3] == ["found", "several", "not-found"]
            assert not any(RUT in json.dumps(e["detail"]) for e in clinic.rows(audit))
        finally:
            clinic.close()
    away = Clinic(tmp_path / "away", warm, destinations={"his": his}, routes=_HERE)
    try:
        assert away.desk.look_up(away.ana, "post", "rut", RUT).state == "away"
    finally:
        away.close()


_HERE = "schema_version: 1\nroutes: []\n"


def test_a_private_photograph_says_so(clinic: Clinic) -> None:
    ana = clinic.client(clinic.app(), clinic.ana)
    image = base64.b64encode(jpeg(drawn_lesion())).decode()
    bare = ana.post(URL, json={"image": image}).json()
    assert bare["private"] and bare["patient"] is None and bare["pseudonym"].startswith("ANON-")
    unsure = ana.post(URL, json={"image": image, "patient": {**PATIENT, "confirmed": False}}).json()
    assert unsure["private"] and unsure["patient"]["confirmed"] == ""
    assert clinic.rows(instances) == []
