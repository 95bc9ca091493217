"""Where the node calls by HTTPS: servers that want its certificate, and plain HTTP that must not leave unsaid (S3)."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from dicom_node.cli.destinations import check_destinations
from dicom_node.delivery.web import Web
from dicom_node.gather.archive import ArchiveCounts
from dicom_node.identity.lookup import look_up
from dicom_node.refusals import PeerTrouble
from dicom_node.settings import FhirDestination, Settings
from dicom_node.stages.targets import context_for, target, webhook_target
from dicom_node.tls import CallingSide, Identity
from fhir_bridge.transport import Transport
from tests.support.certificates import Site, new_site

pytestmark = pytest.mark.component


class Peer:
    """A web server that answers everything with an empty list of matches, and keeps the names of who called."""

    def __init__(self, identity: Identity, *, asks: bool) -> None:
        self.callers: list[str] = []
        callers = self.callers

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                shown = self.connection.getpeercert() or {}  # type: ignore[attr-defined]
                names = [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]
                callers.append(names[0] if names else "")
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.dumps([] if "fhir" not in self.path else {"resourceType": "Bundle"}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_OPTIONS = _answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign,misc]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.certificate_file, identity.private_key_file)
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(identity.authority_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[Peer]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(10)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = new_site(tmp_path_factory.mktemp("site"))
    made.issue("node", stem="node")
    made.issue("peer")
    return made


def identity(site: Site, stem: str) -> Identity:
    return Identity(site.folder / f"{stem}.pem", site.folder / f"{stem}.key", site.authority)


@pytest.fixture
def peer(site: Site) -> Iterator[Peer]:
    with Peer(identity(site, "peer"), asks=True).running() as made:
        yield made


def settings_for(site: Site, url: str, folder: Path, *, shows: bool) -> Settings:
    secret = folder / "secret"
    secret.write_text("s" * 32)
    secret.chmod(0o600)
    common = {"url": url, "ca_file": site.authority, "client_certificate": shows, "timeout_s": 5}
    own = identity(site, "node")
    return Settings(
        data={"folder": folder},
        tls={
            "certificate_file": own.certificate_file,
            "private_key_file": own.private_key_file,
            "authority_file": own.authority_file,
        },
        orthanc={"url": url, "ca_file": site.authority, "client_certificate": shows},
        destinations={
            "pacs": {"kind": "stow", **common},
            "files": {"kind": "http", **common},
            "ehr": {"kind": "fhir", **common, "url": f"{url}/fhir"},
            "dimse": {
                "kind": "cstore", "host": "127.0.0.1", "port": 1, "ae_title": "PACS", "verify_url": url,
                "verify_ca_file": site.authority, "verify_client_certificate": shows,
            },
        },
        webhooks={"told": {**common, "secret_file": secret}},
    )  # fmt: skip


def calls(settings: Settings) -> dict[str, Any]:
    """Every way in which the node calls by HTTPS, once each."""

    def web(at: Any) -> Any:
        with Web(at) as opened:
            return opened.request("GET", "/", headers={}).status

    def counted() -> None:
        counts = ArchiveCounts(settings.orthanc, shown=settings.shown(settings.orthanc))
        with counts._client() as client:
            client.get("/system").raise_for_status()

    def fhir() -> None:
        ehr = settings.destinations["ehr"]
        assert isinstance(ehr, FhirDestination)
        Transport(ehr.url, context=context_for(settings, ehr), timeout_s=5).request("GET", "metadata")

    def looked_up() -> None:
        ehr = settings.destinations["ehr"]
        assert isinstance(ehr, FhirDestination)
        if look_up(ehr, "urn:x", "1", settings.shown(ehr)).state == "away":
            raise PeerTrouble("away")

    dimse: Any = target(settings, "dimse")
    return {
        "stow": lambda: web(target(settings, "pacs")),
        "http": lambda: web(target(settings, "files")),
        "verify_url": lambda: web(dimse.verify),
        "webhook": lambda: web(webhook_target(settings, "told")),
        "fhir": fhir,
        "patients": looked_up,
        "counts": counted,
    }


WAYS = ("stow", "http", "verify_url", "webhook", "fhir", "patients", "counts")


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_wants_to_know_us_knows_us(site: Site, peer: Peer, tmp_path: Path, way: str) -> None:
    calls(settings_for(site, peer.url, tmp_path, shows=True))[way]()
    assert set(peer.callers) == {"node"}


@pytest.mark.parametrize("way", WAYS)
def test_without_the_setting_it_is_not_called(site: Site, peer: Peer, tmp_path: Path, way: str) -> None:
    with pytest.raises((PeerTrouble, httpx.HTTPError)):
        calls(settings_for(site, peer.url, tmp_path, shows=False))[way]()
    assert peer.callers == []


@pytest.mark.parametrize("wrong", ["authority", "expired"])
def test_a_certificate_that_it_does_not_believe_opens_nothing(
    site: Site, peer: Peer, tmp_path: Path, wrong: str
) -> None:
    settings = settings_for(site, peer.url, tmp_path, shows=True)
    bad = new_site(tmp_path / "else").issue("node") if wrong == "authority" else site.expired("node")
    changed = settings.tls.model_copy(
        update={"certificate_file": bad.certificate_file, "private_key_file": bad.private_key_file}
    )
    with pytest.raises(PeerTrouble):
        calls(settings.model_copy(update={"tls": changed}))["stow"]()
    assert peer.callers == []


def test_a_renewed_certificate_counts_from_the_next_call_on(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    site.issue("peer")
    own = site.issue("node before", stem="node")
    with Peer(identity(site, "peer"), asks=True).running() as peer:
        settings = settings_for(site, peer.url, tmp_path, shows=True)
        side = CallingSide(site.authority, own)
        for name in ("node before", "node after"):
            if name == "node after":
                site.issue(name, stem="node")
            side.follow()
            with httpx.Client(verify=side.context, trust_env=False) as client:
                client.get(peer.url).raise_for_status()
            calls(settings)["stow"]()
        assert peer.callers == ["node before", "node before", "node after", "node after"]
        own.private_key_file.unlink()
        side.follow()
        with httpx.Client(verify=side.context, trust_env=False) as client:
            client.get(peer.url).raise_for_status()
        assert peer.callers[-1] == "node after", "what is in force stays"


def test_doctor_calls_as_the_road_does(site: Site, peer: Peer, tmp_path: Path) -> None:
    for shows, level in ((True, "ok"), (False, "bad")):
        found = {v.check: v.level for v in check_destinations(settings_for(site, peer.url, tmp_path, shows=shows))}
        assert {found[f"destination {name}"] for name in ("pacs", "ehr", "files")} == {level}


FAR = "http://far.example.org/x"


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"orthanc": {"url": FAR}}, "url"),
        ({"orthanc": {"dicom_host": "far.example.org"}}, "dicom_host"),
        ({"destinations": {"one": {"kind": "stow", "url": FAR}}}, "url"),
        ({"destinations": {"one": {"kind": "http", "url": FAR}}}, "url"),
        ({"destinations": {"one": {"kind": "fhir", "url": FAR}}}, "url"),
        ({"destinations": {"one": {
            "kind": "cstore", "host": "127.0.0.1", "port": 1, "ae_title": "A", "verify_url": FAR}}}, "verify_url"),
        ({"webhooks": {"one": {"url": FAR, "secret_file": "s"}}}, "url"),
        ({"audit": {"syslog_host": "far.example.org", "syslog_transport": "tcp"}}, "syslog_transport"),
        ({"audit": {"syslog_host": "far.example.org", "syslog_transport": "udp"}}, "syslog_transport"),
    ],
)  # fmt: skip
def test_plain_text_to_another_machine_needs_a_written_reason(section: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        Settings(**section)
    ((name, inside),) = section.items()
    with pytest.raises(ValidationError, match=key):
        Settings(**{name: _with(inside, insecure_ok_because="  ")})
    Settings(**{name: _with(inside, insecure_ok_because="isolated VLAN 12")})


def test_over_tls_no_reason_is_needed() -> None:
    https = FAR.replace("http:", "https:")
    Settings(orthanc={"url": https, "dicom_host": "far.example.org", "dicom_tls": True})
    Settings(destinations={"one": {"kind": "fhir", "url": https}}, audit={"syslog_host": "far.example.org"})


def _with(inside: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"one": {**inside["one"], **changes}} if "one" in inside else {**inside, **changes}
