"""The HTTP side: who may do what (I5), bounds (S13), errors (S24), headers (S11), health (I23), metrics (I4)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from peers.reports import report
from starlette.requests import Request

from dicom_node.metrics import Metrics
from dicom_node.record.keys import SCOPES, KeyIdentity
from dicom_node.refusals import RefusalCode, Refused
from fhir_bridge import bundle
from fhir_bridge.server import Access
from fhir_bridge.store import MemoryReportStore
from portal import CheckResult, PortalServices, PortalSettings, TicketOffice, ViewerSettings, create_app
from portal.gate import is_known, routes_of
from portal.shell import json_depth

pytestmark = pytest.mark.unit

KEYS = {
    "all": KeyIdentity("all", "00000001", frozenset(SCOPES)),
    "fhir-only": KeyIdentity("fhir-only", "00000002", frozenset({"fhir:read"})),
    "nothing": KeyIdentity("nothing", "00000003", frozenset()),
}


@dataclass
class Node:
    """An application and what it was given."""

    services: PortalServices
    seen: list[Access] = field(default_factory=list)
    extra: Callable[[Any], None] | None = None

    def client(self, *, local: bool = True, key: str = "", host: str = "127.0.0.1") -> TestClient:
        # The viewer's files lie behind all other routes, so a route that a test adds would never be reached.
        app = create_app(replace(self.services, viewer=None) if self.extra else self.services)
        if self.extra:
            self.extra(app)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        address = ("127.0.0.1", 40000) if local else ("192.0.2.7", 40000)
        return TestClient(app, base_url=f"http://{host}", headers=headers, client=address, follow_redirects=False)


@pytest.fixture
def node(tmp_path: Any) -> Node:
    store = MemoryReportStore()
    store.publish(bundle(report()))
    seen: list[Access] = []

    def note(_request: Request, access: Access) -> None:
        seen.append(access)

    (tmp_path / "ohif").mkdir()
    (tmp_path / "ohif" / "index.html").write_text('<html><head><script src="/app.js"></script></head></html>')
    viewer = ViewerSettings(tmp_path / "ohif", "http://127.0.0.1:9/dicom-web", TicketOffice(tmp_path / "tickets"))
    services = PortalServices(
        verify_key=KEYS.get,
        live={"accepting": lambda: CheckResult(True)},
        ready={"database": lambda: CheckResult(True), "disk": lambda: CheckResult(True)},
        reports=store,
        metrics=Metrics(),
        on_access=note,
        viewer=viewer,
        settings=PortalSettings(version="9.9.9", check_timeout_s=0.2),
    )
    return Node(services, seen)


def _example(path: str) -> str:
    for name, value in {
        "{kind}": "DiagnosticReport",
        "{resource_id}": "x",
        "{path:path}": "studies",
    }.items():
        path = path.replace(name, value)
    return path


def test_every_route_declares_a_permission_that_exists(node: Node) -> None:
    routes = routes_of(create_app(node.services))
    assert {"/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/fhir/{kind}", "/open"} <= {
        route.path for route in routes
    }
    assert [route.path for route in routes if not is_known(route.permission)] == []


def test_nobody_gets_anywhere_but_through_the_open_doors(node: Node) -> None:
    client = node.client(local=False)
    for route in routes_of(create_app(node.services)):
        for method in route.methods:
            status = client.request(method, _example(route.path)).status_code
            if route.permission == "open":
                assert status in (200, 303, 401), route
            else:
                assert status == 401, route


def test_a_key_without_the_scope_gets_nowhere_else(node: Node) -> None:
    client = node.client(local=False, key="nothing")
    for route in routes_of(create_app(node.services)):
        if route.permission != "open":
            for method in route.methods:
                assert client.request(method, _example(route.path)).status_code == 403, route


def test_a_route_that_says_nothing_is_closed_to_everybody(node: Node) -> None:
    def forgetful(app: Any) -> None:
        forgotten = APIRouter()
        forgotten.add_api_route("/forgotten", lambda: "secret", methods=["GET"])
        app.include_router(forgotten)

    node.extra = forgetful
    assert node.client().get("/forgotten").status_code == 401
    answer = node.client(key="all").get("/forgotten")
    assert answer.status_code == 403
    assert "secret" not in answer.text


def test_health_is_open_on_this_machine_only(node: Node) -> None:
    assert node.client().get("/livez").status_code == 200
    assert node.client(local=False).get("/livez").status_code == 401
    assert node.client().get("/metrics", headers={"X-Forwarded-For": "192.0.2.9"}).status_code == 401
    assert node.client(local=False, key="all").get("/metrics").status_code == 200


def test_either_header_carries_the_key(node: Node) -> None:
    assert node.client(key="fhir-only").get("/fhir/DiagnosticReport").status_code == 200
    assert node.client().get("/fhir/DiagnosticReport", headers={"X-API-Key": "fhir-only"}).status_code == 200
    assert node.client(key="unknown").get("/fhir/DiagnosticReport").status_code == 401
    rendered = node.services.metrics.render().decode()
    assert 'ainode_auth_failures_total{kind="unknown-key"} 1.0' in rendered


def test_ready_names_what_is_wrong_and_what_to_do(node: Node) -> None:
    hanging = threading.Event()

    def broken() -> CheckResult:
        raise RuntimeError("marker-PHI")

    def slow() -> CheckResult:
        hanging.wait(5)
        return CheckResult(True)

    checks = {
        "disk": lambda: CheckResult(False, "3 GB free, 5 GB needed", "Free space."),
        "broken": broken,
        "slow": slow,
    }
    node.services = PortalServices(KEYS.get, checks, metrics=Metrics(), settings=node.services.settings)
    answer = node.client().get("/readyz")
    hanging.set()
    assert answer.status_code == 503
    rows = {row["name"]: row for row in answer.json()["checks"]}
    assert rows["disk"] == {"name": "disk", "ok": False, "reason": "3 GB free, 5 GB needed", "advice": "Free space."}
    assert rows["broken"]["ok"] is False
    assert rows["slow"]["reason"] == "no answer within 0.2 s"
    assert "marker" not in answer.text


def test_every_answer_carries_the_security_headers(node: Node) -> None:
    client = node.client(key="all")
    for path in ("/livez", "/docs", "/fhir/metadata", "/nowhere", "/fhir/DiagnosticReport", "/ohif/"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert headers["cache-control"] in ("no-store", "private, no-cache"), path
        assert "server" not in headers
        assert len(headers["x-correlation-id"]) == 16
    assert client.get("/fhir/DiagnosticReport").headers["cache-control"] == "no-store"


def test_a_strange_host_name_is_turned_away(node: Node) -> None:
    assert node.client(host="evil.example").get("/livez").status_code == 421
    assert node.client(host="localhost:8080").get("/livez").status_code == 200


def test_a_fault_of_ours_shows_a_correlation_id_and_nothing_else(node: Node) -> None:
    def faulty(app: Any) -> None:
        def fault() -> None:
            raise RuntimeError("marker-PHI")

        def refusal() -> None:
            raise Refused(RefusalCode.TOO_BUSY, expected="marker-PHI", found="marker-PHI")

        made = APIRouter()
        made.add_api_route("/fault", fault, methods=["GET"], openapi_extra={"x-permission": "open"})
        made.add_api_route("/refusal", refusal, methods=["GET"], openapi_extra={"x-permission": "open"})
        app.include_router(made)

    node.extra = faulty
    client = node.client(key="all")
    answer = client.get("/fault")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == "urn:ainode:problem:fault"
    assert body["instance"] == f"urn:ainode:request:{answer.headers['x-correlation-id']}"
    refused = client.get("/refusal")
    assert refused.status_code == 429
    assert refused.json()["type"] == "urn:ainode:problem:too-busy"
    assert "marker" not in answer.text + refused.text


def test_bodies_are_bounded_before_anybody_reads_them(node: Node) -> None:
    client = node.client(key="all")
    path = "/fhir/DiagnosticReport/_search"
    assert client.post(path, content=b"x" * 1_000_001).status_code == 413

    def endless() -> Any:
        for _ in range(1_100):
            yield b"x" * 1_000

    assert client.post(path, content=endless()).status_code == 413
    deep = b'{"a":' * 40 + b"1" + b"}" * 40
    json = {"Content-Type": "application/json"}
    assert client.post(path, content=deep, headers=json).json()["type"].endswith("nesting-too-deep")
    assert client.post(path, content=b'{"a":1,"a":2}', headers=json).json()["type"].endswith("validation")
    assert client.post(path, content=b'{"a":', headers=json).status_code == 400
    many = {f"X-Number-{n}": "1" for n in range(120)}
    assert client.get("/livez", headers=many).status_code == 431


@pytest.mark.parametrize(
    ("raw", "depth"),
    [(b"1", 0), (b"[]", 1), (b'{"a":[1,{"b":2}]}', 3), (b'"[[[["', 0), (rb'"\"[["', 0), (b"[[],[]]", 2)],
)
def test_json_depth(raw: bytes, depth: int) -> None:
    assert json_depth(raw) == depth


def test_docs_and_openapi_are_behind_a_key_and_fetch_nothing(node: Node) -> None:
    client = node.client(key="all")
    page = client.get("/docs").text
    assert "/fhir/{kind}" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    document = client.get("/openapi.json").json()
    assert document["paths"]["/fhir/{kind}"]["get"]["x-permission"] == "fhir:read"


def test_reading_reports_is_told_to_the_audit_trail(node: Node) -> None:
    node.client(key="fhir-only").get("/fhir/DiagnosticReport")
    told = [(access.action, access.kind, len(access.ids)) for access in node.seen]
    assert told == [("search", "DiagnosticReport", 1)]


def test_an_unknown_method_is_a_problem_too(node: Node) -> None:
    answer = node.client(key="all").delete("/fhir/DiagnosticReport")
    assert answer.status_code == 405
    assert answer.json()["type"] == "urn:ainode:problem:method-not-allowed"
