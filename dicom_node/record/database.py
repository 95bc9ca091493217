"""Open, check and migrate the database of records.

SQLite: WAL, synchronous FULL, foreign keys on, secure delete, writes in BEGIN IMMEDIATE; every pragma is read back at
start (hardening 2.2).  The same code runs on PostgreSQL by URL.  A transaction that only reads uses `Database.read`;
one that writes uses `Database.write`, which takes the write lock at its first statement.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError

from dicom_node.record.tables import site

MIGRATIONS = Path(__file__).parent / "migrations"

_PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}


class DatabaseRefused(Exception):
    """The database is not as it must be: a pragma did not take, or its schema is not this program's."""


class Schema(StrEnum):
    """How the schema of a database stands to this program's."""

    NONE = "none"
    OLDER = "older"
    OURS = "ours"
    NEWER = "newer"


def now() -> str:
    """The present time in the one representation of the record: aware UTC, microseconds, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Database:
    """The record's connection pool.

    Parameters
    ----------
    url
        SQLAlchemy URL, ``sqlite:////absolute/path`` or ``postgresql+psycopg://…``.

    Attributes
    ----------
    file
        SQLite's file; None for a server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.file = Path(parsed.database) if self.is_sqlite and parsed.database else None
        if self.is_sqlite:
            # autocommit at the driver: SQLAlchemy's BEGIN is written by the listeners below, so that BEGIN IMMEDIATE
            # is possible (pysqlite would otherwise open a deferred transaction behind our back)
            self.engine = create_engine(url, connect_args={"timeout": 30.0, "isolation_level": None})
            event.listen(self.engine, "connect", _set_pragmas)
            event.listen(self.engine, "begin", _begin)
        else:
            self.engine = create_engine(url, pool_pre_ping=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: commits at the end, rolls back on an exception."""
        with self.engine.connect().execution_options(ainode_immediate=True) as connection, connection.begin():
            yield connection

    def migrate(self) -> None:
        """Bring the schema to this program's version; made once before any process of the node starts.

        Raises
        ------
        DatabaseRefused
            If the schema is newer than this program.
        """
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.schema() is Schema.NEWER:
            raise DatabaseRefused(
                "the records were written by a newer version of the node: install that version or restore a back-up"
            )
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
        self._write_site_facts()

    def schema(self) -> Schema:
        """Which schema is there; asking makes neither a file nor a folder."""
        if self.file is not None and not self.file.exists():
            return Schema.NONE
        with self.engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        if current is None:
            return Schema.NONE
        if current == _head():
            return Schema.OURS
        known = {script.revision for script in _scripts().walk_revisions()}
        return Schema.OLDER if current in known else Schema.NEWER

    def is_migrated(self) -> bool:
        """Whether the schema is exactly this program's."""
        return self.schema() is Schema.OURS

    def check(self) -> None:
        """Read every pragma back and write one row.

        Raises
        ------
        DatabaseRefused
            If a pragma did not take.
        """
        if self.is_sqlite:
            with self.engine.connect() as connection:
                for name, wanted in _PRAGMAS.items():
                    found = connection.execute(text(f"PRAGMA {name}")).scalar_one()
                    if str(found).lower() != str(wanted):
                        raise DatabaseRefused(f"SQLite pragma {name}: expected {wanted}, found {found}")
        with self.write() as connection:
            connection.execute(site.delete().where(site.c.key == "last_check"))
            connection.execute(insert(site).values(key="last_check", value=now()))

    def site_fact(self, key: str) -> str:
        """A fact of the installation: ``site_namespace`` or ``node_instance``."""
        with self.read() as connection:
            return str(connection.execute(select(site.c.value).where(site.c.key == key)).scalar_one())

    def forget(self) -> None:
        """Bring what was overwritten out of SQLite's log: deleted words are in no file of the database any more.

        Where somebody reads just now, the next one who asks does it.
        """
        if self.is_sqlite:
            with self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    def _write_site_facts(self) -> None:
        for key, value in (("site_namespace", str(uuid.uuid4())), ("node_instance", secrets.token_hex(8))):
            try:
                with self.write() as connection:
                    if connection.execute(select(site.c.value).where(site.c.key == key)).first() is None:
                        connection.execute(insert(site).values(key=key, value=value))
            except IntegrityError:  # another process was first, which is as good
                continue


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return ScriptDirectory.from_config(config)


def _head() -> str | None:
    return _scripts().get_current_head()


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    for name, value in _PRAGMAS.items():
        cursor.execute(f"PRAGMA {name}={value}")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("ainode_immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
