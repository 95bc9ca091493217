"""Audit messages to a repository: DICOM PS3.15 A.5 by syslog over TLS, spooled while it is away (S18)."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from dicom_node.audit_codes import AUDIT_LOG_USED
from dicom_node.auditing import AuditOut, backlog, concerns
from dicom_node.auditing.heads import parse
from dicom_node.auditing.message import MAX_BYTES, Source, StudyFacts, audit_message
from dicom_node.auditing.out import repository
from dicom_node.auditing.syslog import Line, SyslogTrouble, send, written
from dicom_node.cli.doctor import _repository
from dicom_node.record import Database, audit
from dicom_node.settings import Settings
from tests.support.certificates import Site, new_site
from tests.support.listening import migrated, until
from tests.support.repositories import Receiver, Rsyslog

pytestmark = pytest.mark.component
SCHEMA = etree.RelaxNG(etree.parse(Path(__file__).parents[1] / "support" / "audit_message.rng"))
SOURCE = Source("AINODE", "AINODE", "node.example.org", "0123", "HOSPITAL")
STUDY = "1.2.826.0.1.3680043.9.1.1"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = new_site(tmp_path_factory.mktemp("site"))
    made.issue("localhost", stem="node")
    made.issue("repository", ["127.0.0.1", "localhost"])
    made.issue("other", ["elsewhere.example.org"])
    return made


def settings_of(tmp_path: Path, port: int, site: Site, **changes: Any) -> Settings:
    node = {"certificate_file": site.folder / "node.pem", "private_key_file": site.folder / "node.key"}
    return Settings(
        data={"folder": tmp_path / "data"},
        tls={**node, "authority_file": site.authority},
        audit={"syslog_host": "127.0.0.1", "syslog_port": port, "ca_file": site.authority, "timeout_s": 5, **changes},
    )


def plain_of(tmp_path: Path, port: int, transport: str) -> Settings:
    audit_section = {"syslog_host": "127.0.0.1", "syslog_port": port, "syslog_transport": transport, "timeout_s": 5}
    return Settings(data={"folder": tmp_path / "data"}, audit=audit_section)


@pytest.fixture
def opened() -> Iterator[list[Database]]:
    made: list[Database] = []
    yield made
    for database in made:
        database.close()


def node(settings: Settings, opened: list[Database], entries: int) -> tuple[AuditOut, Database]:
    database = migrated(settings)
    opened.append(database)
    append(database, entries)
    return AuditOut(settings, database), database


def append(database: Database, count: int) -> None:
    with database.write() as connection:
        for number in range(count):
            audit.append(connection, "user:ana", "read-DiagnosticReport", STUDY, ids=[f"r{number}"])


def entry(action: str, study_uid: str | None = None, **detail: Any) -> dict[str, Any]:
    told = {"id": 7, "at": "2026-11-22T10:00:00.123456+00:00", "actor": "user:ana", "action": action}
    return {**told, "study_uid": study_uid, "detail": detail, "sha256": "a" * 64}


def valid(message: bytes) -> Any:
    root = etree.fromstring(message)
    assert SCHEMA.validate(root), SCHEMA.error_log
    return root


# -- the message


@pytest.mark.parametrize(
    ("action", "code", "kind", "does", "outcome"),
    [
        ("sign-in", "110114", "110122", "E", "0"),
        ("sign-in-refused", "110114", "110122", "E", "4"),
        ("session-ended", "110114", "110123", "E", "0"),
        ("user-roles-changed", "110113", "110137", "U", "0"),
        ("audit-key-rotated", "110113", "110129", "U", "0"),
        ("audit-exported", "110101", None, "R", "0"),
        ("dicomweb-Study", "110103", None, "R", "0"),
        ("patient-looked-up", "110112", None, "E", "0"),
        ("read-DiagnosticReport", "110110", None, "R", "0"),
        ("held.released", "110110", None, "U", "0"),
    ],
)
def test_a_message_says_what_the_entry_says(action: str, code: str, kind: str | None, does: str, outcome: str) -> None:
    root = valid(audit_message(entry(action, STUDY, ids=["one", "two"], user="u1", reason="PRIVATE"), SOURCE))
    event = root.find("EventIdentification")
    assert (event.get("EventActionCode"), event.get("EventOutcomeIndicator")) == (does, outcome)
    assert event.get("EventDateTime") == "2026-11-22T10:00:00.123456+00:00"
    assert event.find("EventID").get("csd-code") == code
    codes = [one.get("csd-code") for one in event.findall("EventTypeCode")]
    assert codes == [*filter(None, [kind]), action]
    who = root.findall("ActiveParticipant")
    assert [(one.get("UserID"), one.get("UserIsRequestor")) for one in who] == [
        ("user:ana", "true"),
        ("AINODE", "false"),
    ]
    origin = root.find("AuditSourceIdentification")
    assert (origin.get("AuditSourceID"), origin.get("AuditEnterpriseSiteID")) == ("AINODE", "HOSPITAL")
    ids = [one.get("ParticipantObjectID") for one in root.findall("ParticipantObjectIdentification")]
    log = ["urn:ainode:audit:0123"] if code == AUDIT_LOG_USED.value else []
    assert ids == [*log, STUDY, "one", "two", "user:u1", f"7:{'a' * 64}"]
    assert b"PRIVATE" not in etree.tostring(root)


def test_whoever_called_has_the_address_of_the_call() -> None:
    for detail, told in (
        ({}, (None, None)),
        ({"address": "2001:db8::7"}, ("2001:db8::7", "2")),
        ({"address": "203.0.113.9"}, ("203.0.113.9", "2")),
    ):
        who, node = valid(audit_message(entry("sign-in", None, **detail), SOURCE)).findall("ActiveParticipant")
        assert (who.get("NetworkAccessPointID"), who.get("NetworkAccessPointTypeCode")) == told
        assert (node.get("NetworkAccessPointID"), node.get("NetworkAccessPointTypeCode")) == ("node.example.org", "1")


def test_kinds_of_objects_and_the_patient_where_the_site_wants_it() -> None:
    facts = StudyFacts({"1.2.840.10008.5.1.4.1.1.4": 20}, "77-7^^^HOSPITAL")
    root = valid(audit_message(entry("dicomweb-Study", STUDY), SOURCE, facts))
    kind = root.find(".//ParticipantObjectDescription/SOPClass")
    assert (kind.get("UID"), kind.get("NumberOfInstances")) == ("1.2.840.10008.5.1.4.1.1.4", "20")
    (patient,) = root.xpath("//ParticipantObjectIdentification[@ParticipantObjectTypeCodeRole='1']")
    assert patient.get("ParticipantObjectID") == "77-7^^^HOSPITAL"


def test_what_is_no_xml_and_what_is_too_long_is_still_a_message() -> None:
    strange = valid(audit_message(entry("look", None, ids=['a\0b<&>"é']), SOURCE))
    assert strange.xpath("//@ParticipantObjectID")[0] == 'a\N{REPLACEMENT CHARACTER}b<&>"é'
    many = audit_message(entry("look", STUDY, ids=[f"{number:064d}" for number in range(500)]), SOURCE)
    ids = valid(many).xpath("//@ParticipantObjectID")
    assert len(many) <= MAX_BYTES and len(ids) > 40 and ids[-1].startswith("7:")


def test_the_schema_knows_a_wrong_message() -> None:
    right = audit_message(entry("look", STUDY), SOURCE)
    for wrong in (
        right.replace(b' UserIsRequestor="true"', b""),
        right.replace(b'EventOutcomeIndicator="0"', b'EventOutcomeIndicator="1"'),
        right.replace(b"<ParticipantObjectName>study</ParticipantObjectName>", b""),
        right.replace(b' originalText="Study Instance UID"', b""),
    ):
        assert wrong != right and not SCHEMA.validate(etree.fromstring(wrong))


def test_the_frame_is_that_of_rfc_5424() -> None:
    line = written(Line(7, "2026-11-22T10:00:00.123456+00:00", "DICOM+RFC3881", b"<AuditMessage/>"), "host")
    pattern = (
        rb"<85>1 2026-11-22T10:00:00\.123456Z host ainode \d+ DICOM\+RFC3881 "
        rb'\[meta sequenceId="7"\] \xef\xbb\xbf<AuditMessage/>'
    )
    assert re.fullmatch(pattern, line)


# -- the way


def test_rsyslog_gets_every_entry_in_order_and_as_it_is(tmp_path: Path, site: Site, opened: list[Database]) -> None:
    pair = site.issue("repository", ["127.0.0.1", "localhost"], stem="repository")
    with Rsyslog(tmp_path / "rsyslog", pair) as there:
        settings = settings_of(tmp_path, there.port, site)
        out, database = node(settings, opened, 250)
        with database.read() as connection:
            assert backlog(settings, connection) == 250
        out.turn()
        until(lambda: len(there.numbers()) >= 250, 20, "every message is there")
        assert there.numbers() == list(range(1, 251))
        for line in there.lines()[:3]:
            valid(line[line.index("<?xml") :].encode())
        until(lambda: there.numbers("AINODE-AUDIT-HEAD") == [1], 20, "the head is there")
        head = next(filter(None, map(parse, there.lines())))
        assert head.entries == 250
        out.turn()
        with database.read() as connection:
            assert backlog(settings, connection) == 0
        assert len(there.numbers()) == 250, "nothing twice"
        assert [verdict.level for verdict in _repository(settings)] == ["ok"]


def test_what_comes_while_the_repository_is_away_comes_later(
    tmp_path: Path, site: Site, opened: list[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.auditing.out.FIRST_PAUSE_S", 0.0)
    pair = site.issue("repository", ["127.0.0.1", "localhost"], stem="repository")
    there = Rsyslog(tmp_path / "rsyslog", pair, permitted="localhost")
    there.start()
    try:
        settings = settings_of(tmp_path, there.port, site, client_certificate=True, late_min=0.0001)
        out, database = node(settings, opened, 5)
        out.turn()
        until(lambda: len(there.numbers()) >= 5, 20, "the first are there")
        there.stop(signal.SIGKILL)
        append(database, 120)
        out.turn()
        out.turn()
        with database.read() as connection:
            assert backlog(settings, connection) == 120
            (told,) = [one.found for one in concerns(settings, connection)]
        assert told.startswith("120 entries of the audit log wait to leave this machine")
        assert [verdict.level for verdict in _repository(settings)] == ["bad"]
        there.start()
        out.turn()
        until(lambda: len(there.numbers()) >= 125, 20, "the rest is there")
        assert there.numbers() == list(range(1, 126))
    finally:
        there.stop()


@pytest.mark.parametrize("says_goodbye", [True, False])
@pytest.mark.parametrize("is_tls", [True, False])
@pytest.mark.parametrize("break_after", [1, 500, 20_000])
def test_a_line_that_drops_in_the_middle_loses_nothing(
    tmp_path: Path, site: Site, opened: list[Database], monkeypatch: pytest.MonkeyPatch,
    break_after: int, is_tls: bool, says_goodbye: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr("dicom_node.auditing.out.FIRST_PAUSE_S", 0.0)
    pair = site.issue("repository", ["127.0.0.1", "localhost"], stem="repository")
    with Receiver(pair if is_tls else None, break_after=break_after, says_goodbye=says_goodbye) as there:
        settings = settings_of(tmp_path, there.port, site) if is_tls else plain_of(tmp_path, there.port, "tcp")
        out, database = node(settings, opened, 60)
        out.turn()
        with database.read() as connection:
            assert backlog(settings, connection) == 60, "nobody knows what arrived"
        out.turn()
        with database.read() as connection:
            assert backlog(settings, connection) == 0
        found = [int(re.search(rb'sequenceId="(\d+)"', frame)[1]) for frame in there.frames if b"DICOM" in frame]  # type: ignore[index]
        assert found[-60:] == list(range(1, 61)) and found[:-60] == list(range(1, len(found) - 59))


def test_datagrams(tmp_path: Path, opened: list[Database]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        there.settimeout(10)
        out, _ = node(plain_of(tmp_path, there.getsockname()[1], "udp"), opened, 3)
        out.turn()
        found = [there.recv(65536) for _ in range(4)]
    assert [b"DICOM+RFC3881" in one for one in found] == [True, True, True, False]


@pytest.mark.parametrize("wrong", ["another name", "another authority", "expired", "no TLS"])
def test_a_repository_that_is_not_believed_is_told_nothing(
    tmp_path: Path, site: Site, opened: list[Database], wrong: str
) -> None:
    stranger = new_site(tmp_path / "stranger").issue("repository", ["127.0.0.1"])
    pair = {
        "another name": site.issue("other", ["elsewhere.example.org"], stem="other"),
        "another authority": stranger,
        "expired": site.expired("repository"),
        "no TLS": None,
    }[wrong]
    with Receiver(pair) as there:
        settings = settings_of(tmp_path, there.port, site, timeout_s=1)
        out, database = node(settings, opened, 3)
        out.turn()
        with database.read() as connection:
            assert backlog(settings, connection) == 3
        place = repository(settings)
        assert place is not None
        with pytest.raises(SyslogTrouble):
            send([b"x"], place)
        assert there.frames == []


def test_rsyslog_that_wants_a_certificate_and_gets_none_has_taken_nothing(
    tmp_path: Path, site: Site, opened: list[Database]
) -> None:
    pair = site.issue("repository", ["127.0.0.1", "localhost"], stem="repository")
    with Rsyslog(tmp_path / "rsyslog", pair, permitted="localhost") as there:
        settings = settings_of(tmp_path, there.port, site)
        out, database = node(settings, opened, 3)
        out.turn()
        with database.read() as connection:
            assert backlog(settings, connection) == 3
        assert there.lines() == []
