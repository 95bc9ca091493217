"""HTTP to a FHIR server that misbehaves: addresses, redirects, size, waits, errors (hardening 6.3, 6.4)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from peers.reports import report

from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from fhir_bridge import FhirClient, UnsafeAddress
from fhir_bridge.transport import (
    MAX_ANSWER_BYTES,
    MAX_RETRY_AFTER_S,
    OutcomeUnknown,
    Transport,
    check_address,
    filtered,
    read_token,
    retry_after,
)

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


@dataclass
class Stub:
    """A server that answers everything with one answer and remembers what it was asked."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def says(self, value: Any, status: int = 200) -> None:
        self.status, self.body = status, json.dumps(value).encode()


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
            self.send_response(made.status)
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(made.body)))
            self.end_headers()
            self.wfile.write(made.body)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}/fhir"
    yield made
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.parametrize(
    "address",
    ["https://ehr.example/fhir", "http://127.0.0.1:8090", "http://[::1]:8090/r4", "http://localhost/fhir/"],
)
def test_addresses_that_are_taken(address: str) -> None:
    assert check_address(address) == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    [
        "http://ehr.example/fhir",
        "http://127.0.0.1.example/fhir",
        "http://169.254.169.254/latest",
        "ftp://ehr.example",
        "file:///etc/passwd",
        "https://user:secret@ehr.example/fhir",
        "https://ehr.example/fhir?x=1",
        "https://ehr.example/fhir#x",
        "https://",
        "ehr.example",
    ],
)
def test_addresses_that_are_not(address: str) -> None:
    with pytest.raises(UnsafeAddress) as error:
        FhirClient(address)
    assert "secret" not in str(error.value)


def test_plain_text_to_another_machine_wants_a_written_reason() -> None:
    assert check_address("http://ehr.example/fhir", "isolated VLAN") == "http://ehr.example/fhir"


def test_redirects_are_not_followed(stub: Stub) -> None:
    stub.status, stub.headers = 307, {"Location": f"{stub.url}/elsewhere"}
    with pytest.raises(Refused) as error:
        Transport(stub.url).request("GET", "Patient")
    assert error.value.refusal.code is RefusalCode.PEER_REJECTED
    assert len(stub.asked) == 1


def test_an_answer_without_end_is_cut_off(stub: Stub) -> None:
    stub.body = b" " * (MAX_ANSWER_BYTES + 1)
    with pytest.raises(Refused):
        Transport(stub.url).request("GET", "Patient")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(stub: Stub, status: int) -> None:
    stub.status, stub.headers = status, {"Retry-After": "12"}
    with pytest.raises(PeerTrouble) as error:
        Transport(stub.url).request("GET", "Patient")
    assert error.value.retry_after_s == 12.0


def test_nobody_there_is_trouble() -> None:
    with pytest.raises(OutcomeUnknown):
        Transport("http://127.0.0.1:9", timeout_s=1).request("GET", "Patient")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("999999", MAX_RETRY_AFTER_S),
        ("Sun, 22 Nov 2026 10:01:30 GMT", 90.0),
        ("Sun, 22 Nov 2026 09:00:00 GMT", 0.0),
        ("Sun, 22 Nov 2027 09:00:00 GMT", MAX_RETRY_AFTER_S),
        ("soon", None),
        ("", None),
        ("-1", None),
    ],
)
def test_how_long_to_wait(value: str, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


def test_an_errors_text_is_not_passed_on(stub: Stub) -> None:
    issue = {
        "severity": "error",
        "code": "invalid",
        "diagnostics": "Marker^Mary is not a name",
        "details": {"text": "MR-0042"},
        "expression": ["DiagnosticReport.status", "Patient where name = 'Marker'"],
    }
    stub.says({"resourceType": "OperationOutcome", "issue": [issue, {"code": "Marker Mary"}]}, 422)
    with pytest.raises(Refused) as error:
        Transport(stub.url).request("POST", "", body={"secret": "MR-0042"})
    said = json.dumps(error.value.refusal.to_json()) + str(error.value)
    assert "status 422: invalid at DiagnosticReport.status" in said
    assert "Marker" not in said
    assert "0042" not in said
    assert filtered({"issue": "text"}) == ""


def test_a_server_that_ignores_the_question_is_not_believed(stub: Stub) -> None:
    other = {"resourceType": "Patient", "id": "1", "identifier": [{"system": "urn:s", "value": "other"}]}
    stub.says({"resourceType": "Bundle", "entry": [{"resource": other}]})
    with pytest.raises(Refused) as error:
        Transport(stub.url).search("Patient", "urn:s", "mine")
    assert error.value.refusal.code is RefusalCode.PEER_REJECTED


def test_a_server_of_another_version_is_not_written_to(stub: Stub) -> None:
    stub.says({"resourceType": "CapabilityStatement", "fhirVersion": "5.0.0"})
    with FhirClient(stub.url) as client, pytest.raises(Refused) as error:
        client.publish(report())
    assert error.value.refusal.code is RefusalCode.PEER_REJECTED
    assert [path for path, _ in stub.asked] == ["/fhir/metadata"]


def test_searches_are_strict_and_escape_what_they_look_for(stub: Stub) -> None:
    Transport(stub.url).search("Patient", "urn:s", "a|b,c&d=é +#")
    path, headers = stub.asked[0]
    assert headers["prefer"] == "handling=strict"
    assert path == "/fhir/Patient?identifier=urn:s|a%5C%7Cb%5C%2Cc%26d%3D%C3%A9%20%2B%23&_count=20"


def test_the_token_is_read_from_a_private_file_each_time(stub: Stub, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    path.chmod(0o600)
    transport = Transport(stub.url, token_file=path)
    transport.request("GET", "Patient")
    path.write_text("second")
    transport.request("GET", "Patient")
    assert [headers["authorization"] for _, headers in stub.asked] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(("content", "mode"), [("token", 0o640), ("", 0o600), ("a b", 0o600), (None, 0o600)])
def test_a_token_file_that_is_not_private_and_whole_is_refused(tmp_path: Path, content: str | None, mode: int) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(Refused) as error:
        read_token(path)
    assert error.value.refusal.code is RefusalCode.UNAUTHENTICATED


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b"\xff\xfe", b'{"resourceType":'])
def test_an_answer_that_is_no_json_is_an_empty_one(stub: Stub, body: bytes) -> None:
    stub.body = body
    assert dict(Transport(stub.url).request("GET", "Patient").body) == {}


def test_the_environments_proxy_is_not_used(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    assert Transport(stub.url).request("GET", "Patient").status == 200
