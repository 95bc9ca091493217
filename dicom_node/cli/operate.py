"""Commands for the person on duty: studies, jobs, held, keys.  They work while the node runs, and while not."""

from __future__ import annotations

import dataclasses
import getpass
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table as Grid

from dicom_node.cli.common import JSON_OPTION, Exit, emit, out, settings, stop, whole
from dicom_node.record import Database, Schema, actions, keys, views
from dicom_node.settings import Settings

study_app = typer.Typer(no_args_is_help=True, help="One study's whole story.")
jobs_app = typer.Typer(no_args_is_help=True, help="What runs, waits or failed; retry or cancel it.")
held_app = typer.Typer(no_args_is_help=True, help="What waits for a person's decision.")
keys_app = typer.Typer(no_args_is_help=True, help="API keys of programs.")

NO_RECORDS = "the first `ai-node serve` makes them"
OTHER_VERSION = {
    Schema.OLDER: "written by an older version of the node: back them up, then `ai-node serve` brings them to this one",
    Schema.NEWER: "written by a newer version of the node: install that one, or restore a back-up",
}
"""Of the records: what was found, and what to do."""

REASON = typer.Option(..., "--reason", help="Why; goes to the audit log.")
ITEM = typer.Argument(..., help="The id that the list prints.")


@contextmanager
def record() -> Iterator[tuple[Settings, Database]]:
    """The record of this installation, or exit 5 where there is none, or one of another version of the node."""
    chosen = settings()
    database = Database(chosen.records_url)
    try:
        found = database.schema()
        if found is Schema.NONE:
            where = "data.records_url" if chosen.data.records_url else chosen.data.folder.absolute()
            stop(Exit.CONFIGURATION, f"no records in {where}: {NO_RECORDS}; or are they elsewhere (--config, folder)?")
        if found is not Schema.OURS:
            stop(Exit.CONFIGURATION, f"the records were {OTHER_VERSION[found]}")
        yield chosen, database
    finally:
        database.close()


def studies(limit: int = typer.Option(50, min=1, help="How many, newest first."), as_json: bool = JSON_OPTION) -> None:
    """The newest studies: state, and what was said, or would have been said where a route publishes nothing.

    Example: ai-node studies --limit 10
    """
    with record() as (chosen, database), database.read() as connection:
        rows = views.list_studies(connection, limit)
        for row in rows:
            for run in row["runs"]:
                run["says"] = views.says(connection, chosen.data.folder / "artefacts", int(run["id"]))
    if as_json:
        emit(rows)
        return
    grid = Grid(whole("study"), "state", "series", "last activity (UTC)", "result")
    for row in rows:
        said = [f"{r['result_family']}: {r['says'] or r['state']} [{r['publish']}]" for r in row["runs"]]
        refused = [f"refused: {r['code']}" for r in row["refusals"]]
        away = [f"waits for {name}, which is left alone for now" for name in row["waits_for"]]
        told = escape("\n".join([*(said or refused), *away]))
        grid.add_row(row["id"], row["state"], str(row["series"]), row["last_activity_at"][:19], told)
    out.print(grid)


@study_app.command("show")
def study_show(
    uid: str = typer.Argument(..., help="Study Instance UID, or the id that `studies` prints."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Everything that happened to one study, in order, and why.

    Example: ai-node study show 1.2.840.113619.2.55.3
    """
    with record() as (_, database), database.read() as connection:
        row = views.find_study(connection, uid)
        if row is None:
            stop(Exit.REFUSED, "no such study here: it has not arrived, or under another Study Instance UID")
        story = views.story(connection, row)
    if as_json:
        emit(story)
        return
    out.print(f"study {story['id']}: {story['state']}")
    for entry in story["series_rows"]:
        why = "; ".join(entry["role_reasons"] or [])
        role = f"role {entry['role'] or '-'} ({entry['role_confidence'] or '-'})"
        out.print(f"  series {entry['public_id']}: {role} {why}", markup=False, soft_wrap=True)
    for event in story["timeline"]:
        detail = ", ".join(f"{k}={v}" for k, v in event["detail"].items())
        out.print(f"  {event['at'][:23]}  {event['name']:<22} {detail}", markup=False, soft_wrap=True)


@jobs_app.command("list")
def jobs_list(as_json: bool = JSON_OPTION) -> None:
    """Runs, deliveries, requests by HTTP and their transfers that are not finished, failed ones first.

    Example: ai-node jobs list
    """
    with record() as (_, database), database.read() as connection:
        print_rows(views.jobs(connection), as_json)


@jobs_app.command("retry")
def jobs_retry(item: str = ITEM, reason: str = REASON, as_json: bool = JSON_OPTION) -> None:
    """Start a failed job again.

    Example: ai-node jobs retry run-7 --reason "model updated"
    """
    _act(actions.retry, item, reason, as_json)


@jobs_app.command("cancel")
def jobs_cancel(item: str = ITEM, reason: str = REASON, as_json: bool = JSON_OPTION) -> None:
    """Stop a job; what it has not yet done it will not do.

    Example: ai-node jobs cancel run-7 --reason "wrong patient"
    """
    _act(actions.cancel, item, reason, as_json)


@held_app.command("list")
def held_list(as_json: bool = JSON_OPTION) -> None:
    """What waits for a person.

    Example: ai-node held list
    """
    with record() as (_, database), database.read() as connection:
        print_rows(views.held(connection), as_json)


@held_app.command("show")
def held_show(item: str = ITEM) -> None:
    """One held item with its reason, as JSON.

    Example: ai-node held show delivery-3
    """
    with record() as (_, database), database.read() as connection:
        found = [row for row in views.held(connection) if row["id"] == item]
    if not found:
        stop(Exit.REFUSED, f"{item} is not held")
    emit(found[0])


@held_app.command("release")
def held_release(item: str = ITEM, reason: str = REASON, as_json: bool = JSON_OPTION) -> None:
    """Let a held item go on.

    Example: ai-node held release delivery-3 --reason "patient merged in the PACS, checked with radiology"
    """
    _act(actions.release, item, reason, as_json)


@held_app.command("reject")
def held_reject(item: str = ITEM, reason: str = REASON, as_json: bool = JSON_OPTION) -> None:
    """Decide that a held item goes no further.

    Example: ai-node held reject study-1f3c --reason "test phantom"
    """
    _act(actions.reject, item, reason, as_json)


@keys_app.command("create")
def keys_create(
    name: str = typer.Argument(..., help="Which program this key is for."),
    scope: list[str] = typer.Option(["fhir:read"], help="What it may do; may be given more than once."),
    account: str = typer.Option("", help="E-mail address of the account in whose name it acts, if in any."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Make an API key; it is shown this once and kept as a digest only.

    Example: ai-node keys create ehr --scope fhir:read
    """
    with record() as (_, database):
        try:
            token = keys.create(database, name, scope, actor=actor(), account=account)
        except keys.KeyRefused as refused:
            stop(Exit.USAGE, str(refused))
    if as_json:
        emit({"name": name, "key": token, "scopes": sorted(scope)})
    else:
        out.print(token, markup=False)


@keys_app.command("list")
def keys_list(as_json: bool = JSON_OPTION) -> None:
    """Keys by name and first characters.

    Example: ai-node keys list
    """
    with record() as (_, database):
        print_rows([dataclasses.asdict(row) for row in keys.rows(database)], as_json)


@keys_app.command("revoke")
def keys_revoke(name: str = typer.Argument(..., help="Name of the key.")) -> None:
    """Make a key worthless from now on.

    Example: ai-node keys revoke ehr
    """
    with record() as (_, database):
        try:
            keys.revoke(database, name, actor=actor())
        except keys.KeyRefused as refused:
            stop(Exit.REFUSED, str(refused))


def actor() -> str:
    """Who acts: the name of the account, or its number where it has none (a container)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def _act(action: Callable[[Any, str, str, str], list[actions.Job]], item: str, reason: str, as_json: bool) -> None:
    with record() as (chosen, database):
        try:
            with database.write() as connection:
                jobs = action(connection, item, actor(), reason)
        except actions.UnknownItem as unknown:
            stop(Exit.REFUSED, str(unknown.args[0]))
        put_jobs(chosen, jobs)
    if as_json:
        emit({"item": item, "jobs": len(jobs)})
    else:
        out.print(f"{item}: done", markup=False)


def put_jobs(chosen: Settings, jobs: Sequence[actions.Job]) -> None:
    """Hand the jobs that follow from an act to the road, which need not be running."""
    from dicom_node import durable

    if not jobs:
        return
    if not (chosen.data.folder / "engine.sqlite").exists():  # a back-up was brought back, and no node has started on it
        durable.migrate(chosen.engine_url)
    client = durable.connect(chosen.engine_url)
    for queue, job, key, args in jobs:
        client.put(durable.Put(queue, job, key, args))
    client.close()


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """A table of what is known of any row; where the terminal is too narrow for its words, one line for each value."""
    if as_json:
        emit(rows)
        return
    if not rows:
        out.print("none")
        return
    every = dict.fromkeys(key for row in rows for key in row if key != "study_uid")
    columns = [key for key in every if any(row.get(key) not in (None, "") for row in rows)]
    told = [[_words(row.get(key)) for key in columns] for row in rows]
    grid = Grid(whole(columns[0]), *columns[1:])
    for values in told:
        grid.add_row(*(escape(value) for value in values))
    if out.measure(grid).minimum <= out.width:
        out.print(grid)
        return
    for values in told:
        for number, (key, value) in enumerate(zip(columns, values, strict=True)):
            if value:
                out.print(f"{'  ' if number else ''}{key}: {value}", markup=False, soft_wrap=True)


def _words(value: Any) -> str:
    """A value of a row for people: of a refusal its code and what it says, with what was found."""
    if isinstance(value, dict) and "code" in value:
        return "; ".join(str(value[key]) for key in ("code", "message", "found") if value.get(key))
    return "" if value is None else str(value)
