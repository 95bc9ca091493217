"""Addresses name no patient (S23): browsers, proxies and histories keep them.

Every word that a route of ours takes in its path or query stands in a list here, so that a new one is thought about.
The searches of FHIR and DICOMweb carry identifiers by their standards: what we write down of them does not.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi.routing import iter_route_contexts

from dicom_node.cli import web
from dicom_node.demo.site import free_ports
from dicom_node.desks.people import PORTAL, People
from dicom_node.permissions import Role
from dicom_node.record import Database, keys
from dicom_node.settings import Settings
from tests.support.listening import until
from tests.support.people import make_sites, make_user

pytestmark = pytest.mark.component

MARKER = "PHIMARKER17"
KNOWN = frozenset(
    {
        # ids of ours, each without a meaning of its own; UIDs of studies in /administration/audit and /open
        "id", "public_id", "number", "draft_id", "item", "study", "resource_id",
        # names of the configuration, of files of results, and of what is done
        "name", "model", "kind", "verb", "actor", "action",
        # what of a list is shown, and how
        "since", "until", "state", "seen", "before", "limit", "sites", "all", "check", "wait", "hidden", "kept",
        # of signing in: where to, in which language, one-time secrets
        "next", "language", "said", "ticket", "token",
        # of files of the viewer, and of DICOMweb, below
        "path",
    }
)  # fmt: skip


class Archive(BaseHTTPRequestHandler):
    """Finds nothing, whatever is asked, and fails for a modality that there is none of."""

    def do_GET(self) -> None:
        self.send_response(500 if "Modality=XX" in self.path else 200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: what is searched is what the node prints."""


@pytest.fixture
def archive() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Archive)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def made(folder: Path, archive: str) -> tuple[Settings, Database, Any]:
    (folder / "ohif").mkdir()
    (folder / "ohif" / "index.html").write_text("<html></html>", encoding="utf-8")
    settings = Settings(
        data={"folder": folder},
        web={"viewer_folder": folder / "ohif"},
        orthanc={"url": archive},
        routes=Path(__file__).resolve().parents[2] / "config" / "routes.yaml",
    )
    database = Database(settings.records_url)
    database.migrate()
    return settings, database, web.make_app(settings, database, put=lambda job: None)


def test_no_route_takes_a_patient_in_its_address(tmp_path: Path) -> None:
    _, database, app = made(tmp_path, "http://127.0.0.1:9")
    database.close()
    found: dict[str, set[str]] = {}
    for route in iter_route_contexts(app.routes):
        asked = getattr(route, "dependant", None) or route.original_route.dependant  # type: ignore[union-attr]
        found[str(route.path)] = {one.name for one in (*asked.query_params, *asked.path_params)}
    assert len(found) > 100 and found["/api/v1/analyses"] >= {"since", "until"}
    strange = {path: names - KNOWN for path, names in found.items() if names - KNOWN}
    assert not strange, "say in KNOWN what this is; a patient's identifier, name or order goes into a body"
    assert "/api/v1/patients" not in found and not found["/api/v1/patients/look-up"]


@pytest.fixture
def served(tmp_path: Path, archive: str) -> Iterator[tuple[str, Database, Path]]:
    """A node's own web process: its address, its record, and what it prints."""
    settings, database, _ = made(tmp_path, archive)
    make_sites(database)
    (port,) = free_ports(1)
    told = settings.model_dump(mode="json", include={"data": {"folder"}, "web": {"viewer_folder"}, "routes": True})
    told["orthanc"], told["web"]["port"] = {"url": archive}, port
    config, printed = tmp_path / "node.yaml", tmp_path / "printed"
    config.write_text(yaml.safe_dump(told), encoding="utf-8")
    command = [sys.executable, "-m", "dicom_node.cli", "--config", str(config), "web"]
    with open(printed, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _answers(url), 60, "the web process")
        yield url, database, printed
    finally:
        process.terminate()
        process.wait(30)
        database.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False


def test_searches_of_the_standards_leave_no_identifier_behind(
    served: tuple[str, Database, Path], tmp_path: Path
) -> None:
    url, database, printed = served
    token = keys.create(database, "reader", ["fhir:read", "viewer:read"])
    user = make_user(database, "eva", [Role.SPECIALIST])
    _, secret = People(Settings().people, database).open_session(user, PORTAL)
    key, session = {"X-API-Key": token}, {"Cookie": f"session={secret}"}
    asked = [
        ("GET", f"/fhir/DiagnosticReport?patient.identifier={MARKER}", key, 200),
        ("GET", f"/fhir/ImagingStudy?identifier=urn:x|{MARKER}&{MARKER}=1", key, None),
        ("GET", f"/fhir/Patient?name={MARKER}", key, None),
        ("GET", f"/fhir/DiagnosticReport?patient.identifier={MARKER}", {}, 401),
        ("GET", f"/dicom-web/studies?PatientID={MARKER}&00100010={MARKER}", key, 200),
        ("GET", f"/dicom-web/studies?PatientID={MARKER}&AccessionNumber={MARKER}", session, 200),
        ("GET", f"/dicom-web/studies?PatientID={MARKER}", {}, 401),
        ("GET", f"/dicom-web/studies?PatientID={MARKER}&Modality=XX", key, 502),
        ("GET", f"/api/v1/patients?site=osorno&type=rut&id={MARKER}", session, 404),
        ("POST", f"/api/v1/patients/look-up?id={MARKER}", session, None),
        ("GET", f"/{MARKER}?{MARKER}={MARKER}", session, None),
    ]
    for method, path, headers, status in asked:
        answer = httpx.request(method, f"{url}{path}", headers=headers)
        assert status in (None, answer.status_code) and answer.status_code != 500, (path, answer.status_code)
    assert "peer-trouble" in printed.read_text(encoding="utf-8"), "what is printed is searched too"
    kept = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not [name for name, data in kept.items() if MARKER.encode() in data]
    assert any(b"search-DiagnosticReport" in data for data in kept.values()), (
        "the audit log says that somebody searched"
    )
