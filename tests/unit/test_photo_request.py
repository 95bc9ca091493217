"""The parts of the service for photographs: strict base64, languages, signatures, names of systems."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from dicom_node.delivery import OutgoingCall
from dicom_node.delivery.webhook import key_bytes, signature
from dicom_node.refusals import WORDS, Refused
from dicom_node.refusals_es import SPANISH, told
from dicom_node.settings import Settings
from dicom_node.stages.callback import finished_call
from dicom_node.stages.prediction_facts import issuer_of, local_time, occasion_of, patient_of
from portal.api.photo_answers import photo_answer
from portal.api.photo_body import decoded
from portal.languages import negotiated

pytestmark = pytest.mark.unit

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize("data", [b"a", b"ab", b"abc", b"abcd", bytes(range(256))])
def test_base64_as_it_should_be_is_read(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert decoded(text) == ("", data)
    assert decoded(f"data:image/png;base64,{text}") == ("image/png", data)


@pytest.mark.parametrize(
    "text",
    ["YWI", "YWI==", "YW=I", "Y===", "=YWI", "YW Jj", "YWJj\n", "YW-_", "YWJjZA==YWJj", "YWJ jZA==", "YWJjé", "YWI=\0",
     "YQ==YQ==", "YR==", "data:image/png,YWJj", "data:text/html;base64,YWJj", "data:image/png;charset=x;base64,YWJj",
     "data:image/png;base64,data:image/png;base64,YWJj", "DATA:;base64,YWJj"],
)  # fmt: skip
def test_base64_that_can_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        decoded(text)
    assert refused.value.refusal.code.value == "base64-invalid"


@pytest.mark.parametrize(
    ("header", "language"),
    [(None, "en"), ("", "en"), ("es", "es"), ("es-CL", "es"), ("fr", "en"), ("fr, es;q=0.2", "es"), ("es;q=0", "en"),
     ("en;q=0.4, es;q=0.5", "es"), ("en, es", "en"), ("es;q=x", "en"), ("," * 5000 + "es", "en")],
)  # fmt: skip
def test_the_language_is_the_best_of_ours(header: str | None, language: str) -> None:
    assert negotiated(header, "en") == language


def test_the_signature_is_that_of_standard_webhooks() -> None:
    key, body = key_bytes(SECRET), b'{"a":1}'
    assert key == bytes(range(32))
    expected = base64.b64encode(hmac.new(bytes(range(32)), b"evt_1.1700000000." + body, hashlib.sha256).digest())
    assert signature(key, "evt_1", 1_700_000_000, body) == "v1," + expected.decode()


@pytest.mark.parametrize("secret", ["short", "whsec_!!!!", "whsec_" + base64.b64encode(bytes(8)).decode()])
def test_a_secret_that_keeps_nothing_is_refused(secret: str) -> None:
    with pytest.raises(Refused):
        key_bytes(secret)


def row(state: str, **changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "public_id": "ab" * 16, "finished_at": "2026-11-22T10:00:00+00:00", "state": state, "refusal": None,
        "options": {"photo": {}, "callback": "clinic"}, "transfers": None, "seconds": {}, "warnings": [],
        "files": None, "model": "skin-lesion@1.0.0", "answer": None,
    }  # fmt: skip
    return {**known, **changes}


def test_a_call_says_ids_and_a_state_and_nothing_else() -> None:
    refusal = {"code": "image-too-blurred", "message": "", "expected": "", "found": "", "advice": ""}
    call = finished_call(row("refused", refusal=refusal))
    said = json.loads(call.body)
    assert said["data"] == {"id": "ab" * 16, "status": "refused", "code": "image-too-blurred",
                            "result": f"/api/v1/results/{'ab' * 16}"}  # fmt: skip
    assert call.id == finished_call(row("refused", refusal=refusal)).id
    assert call.id != finished_call(row("refused", finished_at="2026-11-22T11:00:00+00:00")).id
    assert isinstance(call, OutgoingCall)


@pytest.mark.parametrize("state", ["waiting", "running", "failed", "cancelled", "refused"])
def test_without_an_answer_there_is_no_number(state: str) -> None:
    answered = {"outputs": [{"value": 97.0}]}
    told_ = photo_answer(row("queued" if state == "waiting" else state, answer=answered), state, "/r", "en")
    assert told_["probability"] is told_["score"] is told_["threshold"] is None and told_["outputs"] == []
    assert "97" not in json.dumps(told_)


def test_a_score_is_no_probability() -> None:
    output = {"key": "m", "name": "n", "value": 0.4, "threshold": 0.5, "is_percent": False, "category": "AI-OP-BELOW"}
    answer = {"outputs": [output], "quality": {}, "device": "CPU", "precision": "f32", "notes": []}
    told_ = photo_answer(row("built", answer=answer, files={}), "completed", "/r", "es")
    assert told_["probability"] is None and told_["score"] == 0.4 and "NO excluye" in told_["meaning"]


def test_refusals_in_spanish_say_as_much_as_in_english() -> None:
    for code, (message, advice) in SPANISH.items():
        assert message and advice and told(code, "es") == (message, advice) != WORDS[code]
    assert set(told(code, "en") for code in SPANISH) == {WORDS[code] for code in SPANISH}


def test_a_system_is_the_issuer_that_the_site_maps_to_it() -> None:
    issuers = {"CLINIC": "https://clinic.example/patients", "": "https://default.example"}
    assert issuer_of("https://clinic.example/patients", issuers) == "CLINIC"
    assert issuer_of("urn:oid:1.2.3", issuers) == "urn:oid:1.2.3"
    assert issuer_of("https://default.example", issuers) == "https://default.example"
    for wrong in ("clinic", "http: //x", ""):
        with pytest.raises(Refused):
            issuer_of(wrong, issuers)


def test_what_no_identifier_can_be_is_refused_before_anything_is_promised() -> None:
    with pytest.raises(Refused):
        patient_of({"patient": {"id": "A\\B", "issuer": "X"}}, "")
    with pytest.raises(Refused):
        occasion_of({"body_site": "", "laterality": "", "declared": "", "order": "x" * 17}, "2026-01-01T00:00:00+00:00")
    said = {"body_site": "moon", "laterality": "", "declared": "", "order": ""}
    with pytest.raises(Refused):
        occasion_of(said, "2026-01-01T00:00:00+00:00")


def test_the_time_of_a_photograph_is_the_sites(tmp_path: Path) -> None:
    node = Settings(node={"timezone_offset": "-03:00"}).node
    assert local_time(node, "2026-11-22T01:00:00.000000+00:00") == "2026-11-21T22:00:00.000000-03:00"
    zone = Settings(node={"timezone": "America/Santiago"}).node
    assert local_time(zone, "2026-07-01T12:00:00.000000+00:00") == "2026-07-01T08:00:00.000000-04:00"


def hook(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {"clinic": {"url": "https://clinic.example/hooks", "secret_file": tmp_path / "secret", **changes}}


def test_a_webhook_is_one_that_an_administrator_may_name(tmp_path: Path) -> None:
    assert Settings(webhooks=hook(tmp_path)).peer("hook-clinic") is not None
    for url in ("http://clinic.example/hooks", "https://u:p@clinic.example/", "https://c.example/?x=1", "ftp://c"):
        with pytest.raises(ValueError, match="url"):
            Settings(webhooks=hook(tmp_path, url=url))
    folder = {"kind": "folder", "path": tmp_path}
    with pytest.raises(ValueError, match="belongs to the webhook"):
        Settings(webhooks=hook(tmp_path), destinations={"hook-clinic": folder})
