"""Commands for the audit log: verify the chain, read it, take a copy, sign."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import typer
from sqlalchemy import Connection

from dicom_node import auditing
from dicom_node.auditing.heads import of_record
from dicom_node.cli.common import JSON_OPTION, Exit, emit, out, stop
from dicom_node.cli.operate import actor, record
from dicom_node.desks.administration import Administration
from dicom_node.desks.people import People
from dicom_node.record import Database, audit, audit_heads, audit_search
from dicom_node.record.audit_search import Wanted
from dicom_node.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The audit log: who did what to which study, and when.")

ACTOR = typer.Option("", "--actor", help="Who, as the log has it: user:…, key:NAME, or the name of an account here.")
ACTION = typer.Option("", "--action", help="What, as the log has it, such as sign-in.")
STUDY = typer.Option(
    "", "--study", help="Study Instance UID, the id that `studies` prints, or the number of an analysis."
)
SINCE = typer.Option("", "--since", help="First day, YYYY-MM-DD (UTC).")
UNTIL = typer.Option("", "--until", help="Last day, YYYY-MM-DD (UTC).")
_HEAD = re.compile(r"^(\d+):([0-9a-f]{64})$")


@app.command("verify")
def verify(
    head: str = typer.Option("", "--head", help="NUMBER:SHA256 that was kept elsewhere: shows a cut tail."),
    heads: Path | None = typer.Option(
        None, "--heads", help="File or folder of signed heads that were kept elsewhere: shows a log that was rewritten."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Walk the hash chain and check the signed heads; say where something does not fit.

    Heads on this machine can be changed with the log: bring those that were kept elsewhere (docs/how-to).

    Example: ai-node audit verify --heads /mnt/audit
    """
    kept = _kept(head)
    with record() as (chosen, database), database.read() as connection:
        broken = audit.verify(connection, kept)
        count, newest = audit.head(connection)
        outside = [] if heads is None else _outside(heads, database)
        problems = [] if broken is None else [broken]
        problems += audit_problems(chosen, database, connection, outside)
        signed = audit_heads.newest(connection)
    if as_json:
        told = {"entries": count, "head_sha256": newest, "signed_entries": signed["entries"] if signed else 0}
        emit({**told, "heads_compared": len(outside), "broken": problems[0] if problems else None, "found": problems})
    elif problems:
        for problem in problems:
            out.print(f"broken: {problem}", soft_wrap=True, markup=False)
    else:
        fit = f"; {len(outside)} heads kept elsewhere fit" if heads else ""
        out.print(f"{count} entries, head {count}:{newest}{fit}", soft_wrap=True)
    if problems:
        raise typer.Exit(int(Exit.FAULT))


def audit_problems(
    chosen: Settings, database: Database, connection: Connection, outside: Sequence[auditing.Head] = ()
) -> list[str]:
    """What signed heads, those of the record and those from outside, find out about the log."""
    keys = auditing.AuditKeys(chosen.data.folder / auditing.KEY_FILE)
    log = database.site_fact("node_instance")
    try:
        return auditing.compare(connection, log, keys, [*of_record(connection, log), *outside])
    except auditing.AuditKeysRefused as refused:
        return [str(refused)]


def _outside(place: Path, database: Database) -> list[auditing.Head]:
    try:
        found = auditing.read_heads(place)
    except auditing.HeadsUnreadable as refused:
        stop(Exit.USAGE, f"--heads: {refused}")
    log = database.site_fact("node_instance")
    ours = [head for head in found if head.log == log]
    if not ours:
        stop(Exit.USAGE, f"--heads: expected signed heads of this log ({log}), found {len(found)} of others")
    return ours


@app.command("rotate-key")
def rotate_key() -> None:
    """Sign heads with a new key from now on; the old one verifies what it signed, and can sign nothing any more.

    Example: ai-node audit rotate-key
    """
    with record() as (chosen, database):
        new = auditing.AuditKeys(chosen.data.folder / auditing.KEY_FILE).rotate()
        with database.write() as connection:
            audit.append(connection, actor(), "audit-key-rotated", key=new.key_id)
    out.print(f"heads are signed by {new.key_id} from now on", markup=False)


@app.command("sign")
def sign() -> None:
    """Sign a head now and print it: to be kept elsewhere.

    Example: ai-node audit sign
    """
    with record() as (chosen, database):
        head = auditing.AuditOut(chosen, database).sign(audit.START)
    if head is None:
        stop(Exit.FAULT, "not signed: the chain is broken, or the key file cannot be used; `ai-node audit verify`")
    out.print(head.line(), markup=False, soft_wrap=True, highlight=False)


@app.command("list")
def listing(
    who: str = ACTOR,
    what: str = ACTION,
    study: str = STUDY,
    since: str = SINCE,
    until: str = UNTIL,
    limit: int = typer.Option(100, min=1, help="How many, newest first."),
    as_json: bool = JSON_OPTION,
) -> None:
    """The newest entries that fit; studies by their opaque ids.

    Example: ai-node audit list --action sign-in-refused --since 2026-01-01
    """
    wanted = _wanted(who, what, study, since, until)
    with record() as (_, database), database.read() as connection:
        found = audit_search.page(connection, wanted, limit=limit)
    if as_json:
        emit([{key: value for key, value in row.items() if key != "study_uid"} for row in found])
        return
    if not found:
        out.print("none")
    for row in found:
        detail = ", ".join(f"{key}={value}" for key, value in row["detail"].items())
        study_id = f" study {row['study']}" if row["study"] else ""
        line = f"{row['id']:>6}  {row['at'][:19]}  {row['actor']}  {row['action']}{study_id}  {detail}"
        out.print(line, markup=False, soft_wrap=True)


@app.command("export")
def export(
    target: Path = typer.Argument(..., help="File to write; must not be there yet."),
    reason: str = typer.Option(..., "--reason", help="Why; goes to the audit log before the first line is written."),
    who: str = ACTOR,
    what: str = ACTION,
    study: str = STUDY,
    since: str = SINCE,
    until: str = UNTIL,
) -> None:
    """Every entry that fits, oldest first, as CSV with the digests of the chain.

    Example: ai-node audit export audit.csv --reason "yearly review" --since 2026-01-01
    """
    wanted = _wanted(who, what, study, since, until)
    with record() as (chosen, database):
        try:
            file = open(target, "x", encoding="utf-8", newline="", opener=_private)  # noqa: SIM115 - closed below
        except OSError as error:
            stop(Exit.USAGE, f"{target}: {error.strerror}")
        desk = Administration(chosen, database, People(chosen.people, database))
        with file:
            file.writelines(desk.audit_export(actor(), wanted, reason))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _kept(head: str) -> tuple[int, str] | None:
    if not head:
        return None
    found = _HEAD.fullmatch(head)
    if found is None:
        stop(Exit.USAGE, "--head: expected NUMBER:SHA256 as `ai-node audit verify` prints it")
    return int(found[1]), found[2]


def _wanted(who: str, what: str, study: str, since: str, until: str) -> Wanted:
    last = _day("--until", until)
    return Wanted(who, what, study, _written(_day("--since", since)), _written(last and last + timedelta(days=1)))


def _day(option: str, text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        stop(Exit.USAGE, f"{option}: expected a day as YYYY-MM-DD")


def _written(day: date | None) -> str:
    """The beginning of a day as the record writes times."""
    return "" if day is None else datetime.combine(day, time(), UTC).isoformat(timespec="microseconds")
