"""Signed heads of the audit log (I21, S19): who rules the machine cannot cut or rewrite the log unseen."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from sqlalchemy import delete, update
from typer.testing import CliRunner

from dicom_node.auditing import KEY_FILE, AuditKeys, AuditKeysRefused, AuditOut, Head, compare, read_heads
from dicom_node.auditing.heads import of_record, parse, sign
from dicom_node.auditing.signing import AuditKey
from dicom_node.cli import app
from dicom_node.cli.readiness import Readiness
from dicom_node.record import Database, audit, audit_heads, tables
from dicom_node.settings import Settings
from tests.support.listening import migrated

pytestmark = pytest.mark.component
LOG, HEADS = tables.audit, tables.audit_heads


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Settings, Database, Path]]:
    outside = tmp_path / "share"
    outside.mkdir()
    settings = Settings(data={"folder": tmp_path / "data"}, audit={"heads_folder": outside, "head_entries": 10})
    database = migrated(settings)
    yield settings, database, outside
    database.close()


def append(database: Database, count: int, actor: str = "ana") -> None:
    with database.write() as connection:
        for number in range(count):
            audit.append(connection, actor, "look", None, number=number)


def found(settings: Settings, database: Database, outside: Path) -> list[str]:
    log = database.site_fact("node_instance")
    with database.read() as connection:
        assert audit.verify(connection) is None, "the chain is whole in itself"
        heads = [*of_record(connection, log), *read_heads(outside)]
        return compare(connection, log, AuditKeys(settings.data.folder / KEY_FILE), heads)


def test_a_head_is_made_when_the_log_has_grown_and_not_twice(site: tuple[Settings, Database, Path]) -> None:
    settings, database, outside = site
    clock = [datetime.now(UTC)]
    out = AuditOut(settings, database, lambda: clock[0])
    out.turn()
    assert read_heads(outside) == [], "nothing to sign"
    append(database, 3)
    out.turn()
    assert [head.entries for head in read_heads(outside)] == [3]
    append(database, 2)
    out.turn()
    assert len(read_heads(outside)) == 1, "not yet five minutes, not yet ten entries"
    clock[0] += timedelta(minutes=5, seconds=1)
    out.turn()
    assert [head.entries for head in read_heads(outside)] == [3, 5]
    append(database, 10)
    out.turn()
    out.turn()
    assert [head.entries for head in read_heads(outside)] == [3, 5, 15]
    assert found(settings, database, outside) == []
    assert stat.S_IMODE((settings.data.folder / KEY_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", ["cut", "emptied", "rewritten", "rewritten longer", "cut with its heads"])
def test_what_the_chain_cannot_tell_the_heads_outside_tell(site: tuple[Settings, Database, Path], damage: str) -> None:
    settings, database, outside = site
    append(database, 5)
    AuditOut(settings, database).turn()
    with database.write() as connection:
        connection.execute(delete(LOG).where(LOG.c.id > (3 if damage.startswith("cut") else 0)))
        if "with its heads" in damage or "rewritten" in damage:
            connection.execute(delete(HEADS))
    if "rewritten" in damage:
        append(database, 9 if "longer" in damage else 5, "eva")
        if "longer" in damage:
            AuditOut(settings, database).sign(audit.START)  # whoever has the machine has the key too
    (told,) = found(settings, database, outside)
    if "rewritten" in damage:
        assert told.startswith("entry 5 was changed since the head made at ")
    else:
        assert told.startswith(f"the log has {0 if damage == 'emptied' else 3} entries; the head made at ")
        assert told.endswith(" says 5")


def test_a_head_that_is_not_ours_or_was_changed_shows(site: tuple[Settings, Database, Path]) -> None:
    settings, database, outside = site
    append(database, 5)
    AuditOut(settings, database).turn()
    keys, log = AuditKeys(settings.data.folder / KEY_FILE), database.site_fact("node_instance")
    (head,) = read_heads(outside)
    stranger = AuditOut(settings.model_copy(update={"data": settings.data.model_copy(
        update={"folder": settings.data.folder / "other"})}), database).sign(audit.START)  # fmt: skip
    assert stranger is not None and stranger.key != head.key
    with database.read() as connection:
        for one, word in (
            (replace(head, entries=4), "signature"),
            (replace(head, sha256="0" * 64), "signature"),
            (replace(head, made_at="2020-01-01T00:00:00.000000+00:00"), "signature"),
            (replace(head, signature="!"), "signature"),
            (replace(head, log="another"), "signature"),
            # an installation that was copied, key file and all, says nothing about this log
            (sign(keys, "another", (head.entries, head.sha256), head.made_at), "signature"),
            (stranger, "key"),
        ):
            (told,) = compare(connection, log, keys, [one])
            assert word in told
        assert compare(connection, log, keys, [head]) == []


def test_old_keys_verify_and_sign_nothing_any_more(site: tuple[Settings, Database, Path]) -> None:
    settings, database, outside = site
    path = settings.data.folder / KEY_FILE
    keys = AuditKeys(path)
    append(database, 1)
    AuditOut(settings, database).turn()
    (old,) = keys.known()
    new = keys.rotate()
    append(database, 10)
    AuditOut(settings, database).turn()
    assert [head.key for head in read_heads(outside)] == [old.key_id, new.key_id]
    assert found(settings, database, outside) == []
    kept = keys.known()
    assert [(key.key_id, key.private is None) for key in kept] == [(old.key_id, True), (new.key_id, False)]
    assert old.private is not None and old.private.private_bytes_raw().hex() not in path.read_text()
    path.chmod(0o640)
    with pytest.raises(AuditKeysRefused, match="0640"):
        keys.known()


def test_a_log_that_does_not_continue_is_not_signed(site: tuple[Settings, Database, Path]) -> None:
    settings, database, outside = site
    append(database, 5)
    out = AuditOut(settings, database)
    out.turn()
    with database.write() as connection:
        connection.execute(update(LOG).where(LOG.c.id == 5).values(actor="eva"))
    append(database, 20)
    with database.write() as connection:  # the entry that was changed is before what the signer follows from
        connection.execute(update(LOG).where(LOG.c.id == 8).values(actor="eva"))
    out.turn()
    assert [head.entries for head in read_heads(outside)] == [5]


def test_a_folder_that_is_away_gets_everything_when_it_is_back(site: tuple[Settings, Database, Path]) -> None:
    settings, database, outside = site
    outside.rmdir()
    append(database, 10)
    out = AuditOut(settings, database)
    out.turn()
    append(database, 10)
    later = datetime.now(UTC) + timedelta(hours=2)
    AuditOut(settings, database, lambda: later).turn()
    told = Readiness(settings.model_copy(update={"audit": settings.audit.model_copy(
        update={"late_min": 0.0001})}), database)  # fmt: skip
    with database.write() as connection:
        connection.execute(update(HEADS).where(HEADS.c.id == 1).values(made_at="2026-01-01T00:00:00.000000+00:00"))
    assert told.audit().ok and "2 heads of the audit log wait to leave this machine" in told.audit().reason
    outside.mkdir()
    AuditOut(settings, database).turn()
    assert [head.entries for head in read_heads(outside)] == [10, 20]
    assert told.audit().reason == ""


def test_a_line_of_a_syslog_file_holds_its_head() -> None:
    head = Head("log", 3, "0" * 64, "2026-01-01T00:00:00+00:00", "k", "s")
    assert parse(f"Jan  1 00:00:00 host ainode[7]: {head.line()}\n") == head
    for line in ("", "{}", '{"entries": 3}', head.line().replace("3", '"3"', 1), head.line()[:-3]):
        assert parse(line) is None


def test_the_command_compares_with_what_was_kept_elsewhere(site: tuple[Settings, Database, Path]) -> None:
    settings, database, outside = site
    config = settings.data.folder / "node.yaml"
    config.write_text(yaml.safe_dump({"data": {"folder": str(settings.data.folder)}}))

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["--config", str(config), "audit", *words])
        return done.exit_code, done.output

    append(database, 4)
    code, line = run("sign")
    assert code == 0 and parse(line) is not None
    (outside / "kept.jsonl").write_text(line)
    assert run("rotate-key")[0] == 0
    assert run("verify", "--heads", str(outside / "kept.jsonl"))[0] == 0
    assert run("verify", "--heads", str(outside / "absent"))[0] == 2
    (outside / "empty").write_text("nothing\n")
    assert run("verify", "--heads", str(outside / "empty"))[0] == 2
    with database.write() as connection:
        connection.execute(delete(LOG).where(LOG.c.id > 2))
        connection.execute(delete(HEADS))
    assert run("verify")[0] == 0, "without what was kept elsewhere nobody can tell"
    code, told = run("verify", "--heads", str(outside), "--json")
    assert code == 1 and json.loads(told)["broken"].startswith("the log has 2 entries; ")


def test_the_record_knows_how_far_each_way_has_come(site: tuple[Settings, Database, Path]) -> None:
    _, database, _ = site
    append(database, 3)
    with database.write() as connection:
        assert audit_heads.waiting(connection, audit_heads.SYSLOG)[0] == 3
        audit_heads.mark_sent(connection, audit_heads.SYSLOG, 2)
        assert audit_heads.waiting(connection, audit_heads.SYSLOG)[0] == 1
        audit_heads.mark_sent(connection, audit_heads.SYSLOG, 3)
        assert audit_heads.waiting(connection, audit_heads.SYSLOG) == (0, None)
        assert audit_heads.sent(connection, audit_heads.FOLDER) == 0


def test_a_key_is_never_printed() -> None:
    key = AuditKey.__dataclass_fields__["private"]
    assert not key.repr
