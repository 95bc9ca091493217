"""DICOM over TLS into the node: real senders with right certificates, and everybody else (S3, PS3.15 B.12)."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association

from dicom_node.authority import LOCAL_NAMES
from dicom_node.door import Disk, Door, Intake, Vault
from dicom_node.tls import Identity, TlsRefused, client_context, read_certificate
from tests.support import slices
from tests.support.certificates import Site, new_site
from tests.support.listening import Records, migrated, settings_for, until
from tests.support.peers_dimse import association, encode, store_raw

pytestmark = pytest.mark.component


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = new_site(tmp_path_factory.mktemp("site"))
    made.issue("localhost", stem="node")
    made.issue("MODALITY")
    return made


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = new_site(tmp_path_factory.mktemp("stranger"))
    made.issue("MODALITY")
    return made


class TlsDoor(Records):
    """A door with both ports."""

    def __init__(self, folder: Path, identity: Identity, **door: Any) -> None:
        self.settings = settings_for(
            folder,
            tls={
                "certificate_file": identity.certificate_file,
                "private_key_file": identity.private_key_file,
                "authority_file": identity.authority_file,
            },
            door={"tls_port": 0, **door},
        )
        self.database = migrated(self.settings)
        self.intake = Intake(Vault(self.settings.data.folder, Disk()), self.database)
        self.intake.recover()
        self.door = Door(self.settings, self.intake)

    @property
    def tls_port(self) -> int:
        assert self.door.tls_port
        return self.door.tls_port


@contextmanager
def opened(folder: Path, site: Site, **door: Any) -> Iterator[TlsDoor]:
    node = TlsDoor(folder, pem(site, "node"), **door)
    node.door.start()
    try:
        yield node
    finally:
        node.door.stop()
        node.database.close()


@pytest.fixture
def node(tmp_path: Path, site: Site) -> Iterator[TlsDoor]:
    with opened(tmp_path, site) as node:
        yield node


def pem(site: Site, stem: str) -> Identity:
    return Identity(site.folder / f"{stem}.pem", site.folder / f"{stem}.key", site.authority)


def call(
    port: int, who: Identity | None, *, trust: Path, calling: str = "MODALITY", context: ssl.SSLContext | None = None
) -> Association:
    """An association by TLS."""
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = 20
    entity.add_requested_context(slices.MR, ExplicitVRLittleEndian)
    return entity.associate(
        "127.0.0.1", port, ae_title="AINODE", tls_args=(context or client_context(trust, who), "localhost")
    )


def as_dcmtk(who: Identity, trust: Path) -> list[str]:
    return ["+tls", str(who.private_key_file), str(who.certificate_file), "+cf", str(trust)]


# who comes in


@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195", "--profile-bcp195-ex"])
def test_storescu_with_a_certificate_of_the_authority_stores(
    node: TlsDoor, site: Site, tmp_path: Path, profile: str
) -> None:
    made = slices.series(tmp_path / "in", 4, size=700)  # several TLS records to a PDU, several PDUs to an object
    options = [*as_dcmtk(pem(site, "modality"), site.authority), profile]
    done = slices.storescu(node.tls_port, made.files, calling="MODALITY", options=options)
    assert done.returncode == 0, done.stderr
    assert node.count("instances") == 4
    until(lambda: node.door.active() == 0, what="the association is over")


def test_both_versions_that_are_allowed_and_none_that_is_not(node: TlsDoor, site: Site) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = client_context(site.authority, pem(site, "modality"))
        context.minimum_version = context.maximum_version = version
        assoc = call(node.tls_port, None, trust=site.authority, context=context)
        assert assoc.is_established
        assoc.release()
    old = client_context(site.authority, pem(site, "modality"))
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", node.tls_port), timeout=10) as raw,
        pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|protocol version"),
    ):
        old.wrap_socket(raw, server_hostname="localhost")


def test_without_forward_secrecy_there_is_no_tls(node: TlsDoor, site: Site) -> None:
    context = client_context(site.authority, pem(site, "modality"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-GCM-SHA256:AES256-SHA")
    with socket.create_connection(("127.0.0.1", node.tls_port), timeout=10) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw, server_hostname="localhost")


def test_who_shows_no_certificate_or_a_wrong_one_is_not_let_in(node: TlsDoor, site: Site, stranger: Site) -> None:
    assert not call(node.tls_port, None, trust=site.authority).is_established
    assert not call(node.tls_port, site.expired("MODALITY"), trust=site.authority).is_established
    assert not call(node.tls_port, pem(stranger, "modality"), trust=site.authority).is_established
    assert node.count("arrivals") == 0
    good = call(node.tls_port, pem(site, "modality"), trust=site.authority)
    assert good.is_established
    good.release()


def test_a_certificate_speaks_for_its_own_title_only(node: TlsDoor, site: Site) -> None:
    """MODALITY and ORTHANC are both listed; MODALITY's certificate does not make it ORTHANC."""
    assoc = call(node.tls_port, pem(site, "modality"), trust=site.authority, calling="ORTHANC")
    assert assoc.is_rejected
    primitive = assoc.acceptor.primitive
    assert (primitive.result, primitive.result_source, primitive.diagnostic) == (1, 1, 3)
    assert node.door.refused == {"certificate": 1}


def test_a_sender_with_a_named_certificate_comes_by_tls_only(tmp_path: Path, site: Site) -> None:
    who = site.issue("mr1.example", ["mr1.example"], stem="mr1")
    sender = {"ae_title": "MR1", "certificate_name": "mr1.example"}
    with opened(tmp_path, site, senders=[sender, {"ae_title": "MODALITY"}]) as node:
        entity = AE(ae_title="MR1")
        entity.add_requested_context(slices.MR, ExplicitVRLittleEndian)
        assert entity.associate("127.0.0.1", node.door.port, ae_title="AINODE").is_rejected
        assoc = call(node.tls_port, who, trust=site.authority, calling="MR1")
        assert assoc.is_established
        assoc.release()
        assert call(node.tls_port, pem(site, "modality"), trust=site.authority, calling="MR1").is_rejected


def test_where_nothing_is_asked_for_nothing_has_to_be_shown(tmp_path: Path, site: Site) -> None:
    with opened(tmp_path, site, tls_mutual=False) as node:
        assoc = call(node.tls_port, None, trust=site.authority)
        assert assoc.is_established
        assoc.release()


def test_the_plain_port_stays_beside_it(node: TlsDoor) -> None:
    with association(node.door.port) as assoc:
        ds = slices.slice_of(str(generate_uid()), str(generate_uid()), 1)
        assert store_raw(assoc, encode(ds), ds.SOPClassUID, ds.SOPInstanceUID) == (0, "")


# who disturbs


def test_those_who_say_nothing_or_no_tls_stop_nobody_and_leave_nothing(tmp_path: Path, site: Site) -> None:
    with opened(tmp_path, site, acse_timeout_s=2.0) as node:
        first = call(node.tls_port, pem(site, "modality"), trust=site.authority)
        first.release()
        until(lambda: node.door.active() == 0)
        before = _descriptors()
        silent = [socket.create_connection(("127.0.0.1", node.tls_port)) for _ in range(40)]
        for one in silent[:20]:
            one.sendall(b"GET / HTTP/1.1\r\n\r\n" if one is silent[0] else b"\x16\x03\x01")
        assoc = call(node.tls_port, pem(site, "modality"), trust=site.authority)
        assert assoc.is_established
        assoc.release()
        # those that stay silent are sent away when their time is over, without a word from them
        until(lambda: node.door.active() == 0, 20.0, "silent connections are closed")
        for one in silent:
            one.close()
        until(lambda: _descriptors() <= before, what="no descriptor is left behind")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# files change


def test_a_renewed_certificate_counts_at_once_and_no_sender_notices(tmp_path: Path, site: Site) -> None:
    who = site.issue("localhost", stem="renewed")
    node = TlsDoor(tmp_path, who)
    node.door.start()
    ended, failures, stored = threading.Event(), list[str](), list[int]()

    def send() -> None:
        while not ended.is_set():
            assoc = call(node.tls_port, pem(site, "modality"), trust=site.authority)
            if not assoc.is_established:
                failures.append("no association")
                return
            ds = slices.slice_of(str(generate_uid()), str(generate_uid()), 1)
            status, comment = store_raw(assoc, encode(ds), ds.SOPClassUID, ds.SOPInstanceUID)
            if status != 0:
                failures.append(comment)
            stored.append(status)
            assoc.release()

    senders = [threading.Thread(target=send) for _ in range(3)]
    try:
        for one in senders:
            one.start()
        seen = {_shown(node.tls_port, site)}
        for number in range(3):
            until(lambda number=number: len(stored) >= 5 * (number + 1), what="senders send")
            expected = read_certificate(site.issue("localhost", stem="renewed").certificate_file).fingerprint
            until(lambda expected=expected: _shown(node.tls_port, site) == expected, what="the new certificate")
            seen.add(expected)
        assert len(seen) == 4
    finally:
        ended.set()
        for one in senders:
            one.join(60)
        node.door.stop()
    assert not failures
    assert node.count("instances") == len(stored)
    node.database.close()


def test_files_that_do_not_fit_together_are_not_taken(tmp_path: Path, site: Site) -> None:
    who = site.issue("localhost", stem="spoilt")
    node = TlsDoor(tmp_path, who)
    node.door.start()
    try:
        before = _shown(node.tls_port, site)
        key = who.private_key_file.read_bytes()
        who.private_key_file.write_bytes(pem(site, "modality").private_key_file.read_bytes())
        side = node.door._servers[1].side
        assert side is not None
        side._looked_at -= 10.0
        assert _shown(node.tls_port, site) == before
        who.private_key_file.write_bytes(key)
        side._looked_at -= 10.0
        assert _shown(node.tls_port, site) == before
    finally:
        node.door.stop()
        node.database.close()


def test_a_key_that_others_can_read_or_another_key_refuses_the_start(tmp_path: Path, site: Site) -> None:
    who = site.issue("localhost", LOCAL_NAMES, stem="open")
    who.private_key_file.chmod(0o644)
    with pytest.raises(TlsRefused, match="0644"):
        TlsDoor(tmp_path, who).door.start()
    with pytest.raises(TlsRefused, match="its own private key"):
        TlsDoor(
            tmp_path, Identity(who.certificate_file, pem(site, "modality").private_key_file, site.authority)
        ).door.start()


def _shown(port: int, site: Site) -> str:
    """SHA-256 of the certificate that the door shows now."""
    context = client_context(site.authority, pem(site, "modality"))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return hashlib.sha256(shown).digest().hex(":").upper()
