"""Where the node calls by DICOM over TLS: real receivers that are believed, and receivers that are not (S3)."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_delivery_stow import make_object

from dicom_node.cli.destinations import check_destinations
from dicom_node.delivery import CStoreTarget, DimseTls, OutgoingObject, send
from dicom_node.delivery.dimse import store
from dicom_node.demo.site import free_ports
from dicom_node.orthanc import Modality, OrthancChild
from dicom_node.refusals import PeerTrouble, Refused
from dicom_node.settings import Settings
from dicom_node.tls import Identity, TlsRefused, client_context
from tests.support import slices
from tests.support.certificates import Site, new_site
from tests.support.listening import listening, settings_for, until

pytestmark = pytest.mark.component


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = new_site(tmp_path_factory.mktemp("site"))
    made.issue("localhost", stem="node")
    made.issue("PACS")
    return made


def own(site: Site) -> Identity:
    return Identity(site.folder / "node.pem", site.folder / "node.key", site.authority)


def outgoing(number: int) -> OutgoingObject:
    study = f"2.25.881100{number}"
    return make_object(
        number, StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1", SOPInstanceUID=f"{study}.1.{number}"
    )


@contextmanager
def storescp(folder: Path, who: Identity, *options: str) -> Iterator[int]:
    """DCMTK's storescp by TLS; it asks for a certificate unless told otherwise."""
    (port,) = free_ports(1)
    folder.mkdir(exist_ok=True)
    tls = ["+tls", str(who.private_key_file), str(who.certificate_file), "+cf", str(who.authority_file)]
    command = ["storescp", *tls, *options, "-od", str(folder), str(port)]
    with (folder / "storescp.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(lambda: _listens(port), 10, "storescp listens")
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def target(port: int, site: Site, name: str = "localhost", trust: Path | None = None) -> CStoreTarget:
    tls = DimseTls(trust or site.authority, own(site), name)
    return CStoreTarget("127.0.0.1", port, "PACS", timeout_s=10, tls=tls)


def test_storescp_that_asks_who_calls_gets_the_object(tmp_path: Path, site: Site) -> None:
    made = outgoing(1)
    with storescp(tmp_path / "in", own(site)) as port:
        status, _ = store(target(port, site), made)
    assert status == 0
    (kept,) = [p for p in (tmp_path / "in").iterdir() if p.suffix != ".log"]
    assert made.sop_instance_uid in kept.name


@pytest.mark.parametrize("wrong", ["name", "expired", "authority", "nobody"])
def test_a_receiver_that_cannot_be_believed_gets_nothing(tmp_path: Path, site: Site, wrong: str) -> None:
    who, trust, name = own(site), site.authority, "localhost"
    if wrong == "name":
        who = site.issue("other.example", ["other.example"], stem="other")
    elif wrong == "expired":
        who = site.expired("localhost")
    elif wrong == "authority":
        trust = new_site(tmp_path / "stranger").authority
    else:
        name = "pacs.example"
    # it would take the object from anybody: what refuses is the node
    with storescp(tmp_path / "in", who, "-ic") as port:
        with pytest.raises(PeerTrouble, match="certificate"):
            store(target(port, site, name, trust), outgoing(2))
        verdict = next(iter(check_destinations(_settings(tmp_path, site, port, name, trust))))
    assert verdict.level == "bad" and "no TLS with it" in verdict.found
    assert [p.suffix for p in (tmp_path / "in").iterdir()] == [".log"]


def test_a_receiver_that_speaks_no_tls_gets_nothing(tmp_path: Path, site: Site) -> None:
    (port,) = free_ports(1)
    (tmp_path / "in").mkdir()
    with subprocess.Popen(["storescp", "-od", str(tmp_path / "in"), str(port)]) as process:
        try:
            until(lambda: _listens(port), 10)
            with pytest.raises(PeerTrouble):
                store(target(port, site), outgoing(3))
        finally:
            process.terminate()
            process.wait(10)
    assert not list((tmp_path / "in").iterdir())


def test_beyond_loopback_tls_needs_no_reason_and_plain_text_does(site: Site) -> None:
    far = CStoreTarget("192.0.2.1", 104, "PACS", timeout_s=0.2)
    with pytest.raises(Refused, match="not-authorised"):
        store(far, outgoing(4))
    with pytest.raises(PeerTrouble):
        store(
            CStoreTarget("192.0.2.1", 104, "PACS", timeout_s=0.2, tls=DimseTls(site.authority, own(site))), outgoing(4)
        )


def test_the_caller_checks_always_and_speaks_nothing_old(site: Site) -> None:
    context = client_context(site.authority, own(site))
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(TlsRefused):
        client_context(site.folder / "absent.pem")


def _settings(folder: Path, site: Site, port: int, name: str, trust: Path) -> Settings:
    return Settings(
        data={"folder": folder / "data"},
        tls=_section(site),
        destinations={
            "pacs": {
                "kind": "cstore",
                "host": "127.0.0.1",
                "port": port,
                "ae_title": "PACS",
                "tls": True,
                "tls_name": name,
                "ca_file": trust,
            }
        },
    )


def _section(site: Site) -> dict[str, Path]:
    identity = own(site)
    return {
        "certificate_file": identity.certificate_file,
        "private_key_file": identity.private_key_file,
        "authority_file": identity.authority_file,
    }


# with Orthanc, whole: it sends to the node by TLS, and gets originals and results by TLS


def test_orthanc_and_the_node_talk_by_tls_both_ways(tmp_path: Path, site: Site) -> None:
    pacs, orthanc_own = site.issue("MODALITY"), site.issue("ORTHANC", ["localhost", "127.0.0.1"])
    http_port, dicom_port, node_port, tls_port = free_ports(4)
    child = OrthancChild(
        tmp_path / "orthanc",
        http_port,
        dicom_port,
        modalities={"modality": Modality("MODALITY", 104)},
        stable_age_s=1,
        options={
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(orthanc_own.certificate_file),
            "DicomTlsPrivateKey": str(orthanc_own.private_key_file),
            "DicomTlsTrustedCertificates": str(site.authority),
            "DicomModalities": {
                "ainode": {
                    "AET": "AINODE",
                    "Host": "127.0.0.1",
                    "Port": tls_port,
                    "UseDicomTls": True,
                    "AllowStore": True,
                    "AllowFind": True,
                    "AllowEcho": True,
                },
                "modality": {
                    "AET": "MODALITY",
                    "Host": "127.0.0.1",
                    "Port": 104,
                    "AllowStore": True,
                    "UseDicomTls": True,
                },
            },
        },
    )
    with child:
        settings = settings_for(
            tmp_path,
            tls=_section(site),
            door={"port": node_port, "tls_port": tls_port},
            orthanc={
                "url": child.url,
                "username": child.username,
                "password_file": child.password_file,
                "dicom_port": dicom_port,
                "dicom_tls": True,
                "dicom_tls_name": "localhost",
                "pass_originals": True,
            },
        )
        with listening(settings) as node, child.client() as http:
            # Orthanc gets a series and forwards it to the node's port for TLS
            first = slices.series(tmp_path / "a", 3)
            tls = ["+tls", str(pacs.private_key_file), str(pacs.certificate_file), "+cf", str(site.authority)]
            done = slices.storescu(dicom_port, first.files, calling="MODALITY", called="ORTHANC", options=tls)
            assert done.returncode == 0, done.stderr
            until(lambda: node.count("instances") == 3, 30, "Orthanc forwarded by TLS")
            assert {row["calling_ae"] for row in node.rows("arrivals")} == {"ORTHANC"}
            # a modality sends straight to the node, by TLS, and the node passes on to Orthanc, by TLS
            second = slices.series(tmp_path / "b", 3)
            done = slices.storescu(tls_port, second.files, calling="MODALITY", options=tls)
            assert done.returncode == 0, done.stderr
            query = {"Level": "Instance", "Query": {"SeriesInstanceUID": second.series_uid}}
            until(lambda: len(http.post("/tools/find", json=query).json()) == 3, 30, "originals passed on by TLS")
            # a result goes there by C-STORE, and is found by C-FIND, by TLS
            way = DimseTls(site.authority, own(site), "localhost")
            confirmed = send(outgoing(5), CStoreTarget("127.0.0.1", dicom_port, "ORTHANC", timeout_s=10, tls=way))
            assert confirmed.answer == "0000H"
            # without TLS Orthanc is no longer there for anybody
            assert slices.storescu(dicom_port, first.files, calling="MODALITY", called="ORTHANC").returncode != 0
