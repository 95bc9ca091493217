"""HTTPS: what is negotiated, who is asked for a certificate, and files that change while requests run (S1, S3)."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from dicom_node.cli import web
from dicom_node.record import Database
from dicom_node.settings import Settings
from dicom_node.tls import Identity, ServerSide, client_context, read_certificate
from portal.serving import Listen, ListenRefused, configure
from tests.support.certificates import Site, new_site
from tests.support.listening import until

pytestmark = pytest.mark.component


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = new_site(tmp_path_factory.mktemp("site"))
    made.issue("ainode.example", ["ainode.example", "localhost", "127.0.0.1"], stem="node")
    made.issue("gateway")
    return made


def pem(site: Site, stem: str = "node") -> Identity:
    return Identity(site.folder / f"{stem}.pem", site.folder / f"{stem}.key", site.authority)


@pytest.fixture
def settings(tmp_path: Path, site: Site) -> Settings:
    identity = pem(site)
    return Settings(
        data={"folder": tmp_path / "data", "min_free_gb": 0, "min_free_share": 0},
        tls={
            "certificate_file": identity.certificate_file,
            "private_key_file": identity.private_key_file,
            "authority_file": identity.authority_file,
        },
        web={"tls": True, "allowed_hosts": ["ainode.example"]},
        node={"organisation": "Hospital"},
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    settings.data.folder.mkdir(parents=True)
    made = Database(settings.records_url)
    made.migrate()
    yield made
    made.close()


@contextmanager
def serving(settings: Settings, database: Database, identity: Identity, *, is_mutual: bool = False) -> Iterator[int]:
    """The portal behind uvicorn, as `ai-node web` runs it."""
    side = ServerSide(identity, is_mutual=is_mutual)
    server = uvicorn.Server(configure(web.make_app(settings, database), Listen(port=0, tls=side)))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, 20, "the portal serves")
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)


def shown(port: int, context: ssl.SSLContext) -> str:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        found = secured.getpeercert(binary_form=True)
    assert found
    return hashlib.sha256(found).digest().hex(":").upper()


def test_https_by_both_versions_for_its_names_only(settings: Settings, database: Database, site: Site) -> None:
    with serving(settings, database, pem(site)) as port:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = client_context(site.authority)
            context.minimum_version = context.maximum_version = version
            answer = httpx.get(f"https://localhost:{port}/livez", verify=context, trust_env=False)
            assert answer.status_code == 200
            assert "strict-transport-security" not in answer.headers, "a device could then never reach /trust"
        old = client_context(site.authority)
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw, pytest.raises(ssl.SSLError):
            old.wrap_socket(raw, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw, pytest.raises(ssl.SSLError):
            client_context(site.authority).wrap_socket(raw, server_hostname="elsewhere.example")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://localhost:{port}/livez", trust_env=False)


def test_mutual_means_every_caller(settings: Settings, database: Database, site: Site, tmp_path: Path) -> None:
    with serving(settings, database, pem(site), is_mutual=True) as port:
        address = f"https://localhost:{port}/livez"
        known = client_context(site.authority, pem(site, "gateway"))
        assert httpx.get(address, verify=known, trust_env=False).status_code == 200
        stranger = new_site(tmp_path / "stranger").issue("gateway")
        for wrong in (
            client_context(site.authority),
            client_context(site.authority, stranger),
            client_context(site.authority, site.expired("gateway")),
        ):
            with pytest.raises(httpx.TransportError):
                httpx.get(address, verify=wrong, trust_env=False)


def test_a_renewed_certificate_is_shown_while_requests_run(settings: Settings, database: Database, site: Site) -> None:
    who = site.issue("localhost", stem="web")
    ended, failures, answered = threading.Event(), list[str](), list[int]()
    with serving(settings, database, who) as port:

        def ask() -> None:
            while not ended.is_set():
                try:
                    with httpx.Client(verify=client_context(site.authority), trust_env=False) as client:
                        answered.append(client.get(f"https://localhost:{port}/livez").status_code)
                except httpx.HTTPError as error:
                    failures.append(type(error).__name__)

        callers = [threading.Thread(target=ask) for _ in range(3)]
        for one in callers:
            one.start()
        try:
            with httpx.Client(verify=client_context(site.authority), trust_env=False) as kept:
                assert kept.get(f"https://localhost:{port}/livez").status_code == 200
                for number in range(2):
                    until(lambda number=number: len(answered) > 5 * number, what="requests run")
                    new = read_certificate(site.issue("localhost", stem="web").certificate_file).fingerprint
                    until(lambda new=new: shown(port, client_context(site.authority)) == new, what="the new one")
                # a connection that was open before goes on
                assert kept.get(f"https://localhost:{port}/livez").status_code == 200
        finally:
            ended.set()
            for one in callers:
                one.join(30)
    assert not failures and set(answered) == {200}


def test_plain_text_beyond_loopback_needs_tls_or_a_reason(settings: Settings, database: Database, site: Site) -> None:
    app = web.make_app(settings, database)
    with pytest.raises(ListenRefused, match=r"web\.tls"):
        configure(app, Listen(host="0.0.0.0"))
    side = ServerSide(pem(site), is_mutual=False)
    assert configure(app, Listen(host="0.0.0.0", tls=side)).host == "0.0.0.0"


@pytest.mark.parametrize(("language", "words"), [("en", "Trust this node"), ("es", "Confiar en este nodo")])
def test_the_trust_page_tells_everybody_what_to_compare(
    settings: Settings, database: Database, site: Site, language: str, words: str
) -> None:
    with TestClient(
        web.make_app(settings, database), base_url="https://ainode.example", client=("192.0.2.7", 4000)
    ) as client:
        page = client.get("/trust", headers={"Accept": "text/html", "Accept-Language": language})
        assert page.status_code == 200 and words in page.text
        facts = read_certificate(site.authority)
        assert facts.fingerprint.replace(":", ": ") in page.text
        assert "PRIVATE" not in page.text
        for name, kind in (
            ("authority.crt", "application/x-x509-ca-cert"),
            ("authority.pem", "application/x-pem-file"),
        ):
            file = client.get(f"/trust/{name}")
            assert file.headers["content-type"].startswith(kind) and file.content == site.authority.read_bytes()


def test_without_tls_there_is_nothing_to_trust(tmp_path: Path) -> None:
    plain = Settings(data={"folder": tmp_path / "data", "min_free_gb": 0, "min_free_share": 0})
    plain.data.folder.mkdir()
    database = Database(plain.records_url)
    database.migrate()
    try:
        with TestClient(web.make_app(plain, database), base_url="http://127.0.0.1", client=("127.0.0.1", 4)) as client:
            assert client.get("/trust").status_code in (401, 404)
            assert "certificates" not in {row["name"] for row in client.get("/readyz").json()["checks"]}
    finally:
        database.close()


def test_days_to_the_end_are_told_and_an_end_is_no_readiness(
    settings: Settings, database: Database, site: Site, tmp_path: Path
) -> None:
    def check(chosen: Settings) -> dict[str, object]:
        with TestClient(
            web.make_app(chosen, database), base_url="https://127.0.0.1", client=("127.0.0.1", 4000)
        ) as client:
            rows = {row["name"]: row for row in client.get("/readyz").json()["checks"]}
            metrics = client.get("/metrics").text
        assert 'ainode_cert_expiry_timestamp{name="node"}' in metrics
        return dict(rows["certificates"])

    good = check(settings)
    assert good["ok"] and "node's certificate ends in 39" in str(good["reason"])
    ended = site.expired("localhost")
    gone = settings.model_copy(
        update={"tls": settings.tls.model_copy(update={"certificate_file": ended.certificate_file})}
    )
    bad = check(gone)
    assert not bad["ok"] and "has ended" in str(bad["reason"]) and "tls renew" in str(bad["advice"])
