"""API keys: shown once, kept as a digest, ended at once, audited."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.record import Database, audit, keys, predictions, tables
from tests.support.rows import add_row

pytestmark = pytest.mark.component


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    made.migrate()
    yield made
    made.close()


def test_a_key_is_known_by_its_digest_only(database: Database, tmp_path: Path) -> None:
    token = keys.create(database, "ehr", ["fhir:read", "fhir:read"])
    identity = keys.verify(database, token)
    assert identity == keys.KeyIdentity("ehr", token.split("_")[1], frozenset({"fhir:read"}))
    database.close()
    secret = token.rpartition("_")[2] if token.count("_") == 2 else token.split("_", 2)[2]
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in kept
    assert len(secret) == 43


def test_wrong_keys_are_nobody(database: Database) -> None:
    token = keys.create(database, "ehr", ["fhir:read"])
    changed = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in ("", "x", token.upper(), token + "A", changed, token.replace("ain_", "ain-"), f"{token}\n"):
        assert keys.verify(database, wrong) is None


def test_a_revoked_key_is_nobody_at_once_and_its_name_is_free(database: Database) -> None:
    token = keys.create(database, "ehr", ["fhir:read"])
    with pytest.raises(keys.KeyRefused):
        keys.create(database, "ehr", ["fhir:read"])
    keys.revoke(database, "ehr", actor="tester")
    assert keys.verify(database, token) is None
    with pytest.raises(keys.KeyRefused):
        keys.revoke(database, "ehr")
    assert keys.verify(database, keys.create(database, "ehr", ["metrics:read"])) is not None
    assert [row.revoked_at is None for row in keys.rows(database)] == [False, True]
    with database.read() as connection:
        acts = [(row.actor, row.action) for row in connection.execute(select(tables.audit))]
        assert audit.verify(connection) is None
    assert acts == [("cli", "key-created"), ("tester", "key-revoked"), ("cli", "key-created")]


@pytest.mark.parametrize(("name", "scopes"), [("EHR", ["fhir:read"]), ("", ["fhir:read"]), ("a", []), ("a", ["root"])])
def test_a_key_without_a_proper_name_or_scope_is_not_made(database: Database, name: str, scopes: list[str]) -> None:
    with pytest.raises(keys.KeyRefused):
        keys.create(database, name, scopes)


def test_use_is_noted_but_not_with_every_request(database: Database) -> None:
    token = keys.create(database, "ehr", ["fhir:read"])
    assert keys.rows(database)[0].last_used_at is None
    keys.verify(database, token)
    first = keys.rows(database)[0].last_used_at
    keys.verify(database, token)
    assert first is not None
    assert keys.rows(database)[0].last_used_at == first


def test_requests_are_found_by_whoever_asked_alone(database: Database) -> None:
    """By id, by batch, by Idempotency-Key and in the list: the owner stands in every query (S12)."""
    with database.write() as connection:
        for owner in ("first", "second"):
            names = {"public_id": owner[0] * 32, "batch": "b" * 32, "idempotency_key": "again", "options": {}}
            add_row(connection, tables.predictions, owner=owner, created_at="2026-01-01", **names)
        for owner, other in (("first", "second"), ("second", "first")):
            found = (
                predictions.owned_batch(connection, owner, "b" * 32),
                predictions.with_idempotency_key(connection, owner, "again"),
                predictions.newest_of(connection, owner, 10),
            )
            assert [[row["owner"] for row in rows] for rows in found] == [[owner]] * 3
            assert predictions.owned(connection, owner, owner[0] * 32) is not None
            assert predictions.owned(connection, owner, other[0] * 32) is None
