"""``ai-node models``, what needs the records: which version is in force, and how another one compares."""

from __future__ import annotations

import time
from pathlib import Path

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ai_engine.packages import find_package, load_package
from dicom_node import durable
from dicom_node import registry as rules
from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, make_folder, out, stop
from dicom_node.cli.comparison import tell
from dicom_node.cli.models import app, self_test_passes
from dicom_node.cli.operate import actor, record
from dicom_node.record import Database, registry
from dicom_node.record.registry import STABLE, Choice
from dicom_node.routing.book import load_routes
from dicom_node.settings import Settings
from dicom_node.stages.trial import trial_put

REFERENCE = typer.Argument(..., help="The version, as NAME@VERSION.")
MODEL = typer.Argument(..., help="The model's name.")
REASON = typer.Option(..., "--reason", help="Why; goes to the audit log.")
HTML = typer.Option(None, "--html", dir_okay=False, help="Write the comparison with pictures to this file.")
POLL_S = 0.5


@app.command()
def aliases(as_json: bool = JSON_OPTION) -> None:
    """What `stable`, `candidate` and other aliases stand for, and which versions read along.

    Example: ai-node models aliases
    """
    with record() as (_, database), database.read() as connection:
        rows = [dict(row) for row in registry.aliases(connection)]
        along = [dict(row) for row in registry.active_shadows(connection)]
    if as_json:
        emit({"aliases": rows, "shadows": along})
        return
    table = Table("model", "alias", "stands for", "since (UTC)", "by")
    for row in rows:
        told = ", ".join(f"{c['version']} ({c['percent']} %)" for c in row["choices"])
        table.add_row(row["model"], row["alias"], told, row["changed_at"][:19], row["changed_by"])
    for row in along:
        table.add_row(row["model"], "(shadow)", row["version"], row["started_at"][:19], row["actor"])
    out.print(table)


@app.command()
def switch(
    reference: str = REFERENCE,
    alias: str = typer.Option(STABLE, "--alias", help="Which alias is to stand for it."),
    percent: int = typer.Option(100, "--percent", min=1, max=100, help="A/B: for how many of a hundred studies."),
    reason: str = REASON,
    accept_other_labels: bool = typer.Option(
        False, "--accept-other-labels", help="Also when its regions are other ones than those now in force."
    ),
    test: bool = typer.Option(True, "--test/--no-test", help="First run the case stored with the package, here."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Put a version in force, without a restart; what is being read is finished by the version it was decided for.

    The package is checked first: whole, reading the roles that routes give it, saying the same regions as before, and
    answering its stored case on this machine.  With --percent the rest of the studies keeps the version in force.

    Example: ai-node models switch brain-flair@1.1.1 --reason "better on our own cases, see the replay of 3 May"
    """
    name, version = _exact(reference)
    with record() as (chosen, database), answering(as_json=as_json):
        with database.read() as connection:
            now = registry.alias(connection, name, alias)
        others = [choice for choice in now if choice.version != version]
        keep = max(others, key=lambda choice: choice.percent, default=None)
        before = rules.implied(chosen.engine.models, name, version) if alias == STABLE and not now else None
        names = {f"{name}@{alias}", name if alias == STABLE else ""}
        routes = load_routes(chosen.routes).routes
        choice = rules.check_switch(
            chosen.engine.models,
            name,
            version,
            predecessor=keep.version if keep else before,
            role_sets={s for r in routes if r.enabled and r.model in names for s in r.role_sets},
            accept_other_labels=accept_other_labels,
        )
        package = load_package(find_package(chosen.engine.models, reference), pinned_sha256=choice.digest)
        if test and not self_test_passes(package, {}):
            stop(Exit.FAULT, f"{reference} answers its stored case otherwise on this machine: not switched")
        choices = _share(choice, percent, keep)
        with database.write() as connection:
            registry.set_alias(connection, name, alias, choices, actor(), reason)
    told = ", ".join(f"{entry.version} ({entry.percent} %)" for entry in choices)
    if as_json:
        emit(
            {"model": name, "alias": alias, "choices": [{"version": c.version, "percent": c.percent} for c in choices]}
        )
    else:
        out.print(f"{name}@{alias} stands for {told} from now on", markup=False)


@app.command()
def shadow(
    reference: str = typer.Argument(..., help="NAME@VERSION to start; NAME with --stop."),
    halt: bool = typer.Option(False, "--stop", help="End every shadow of the model."),
    reason: str = REASON,
    as_json: bool = JSON_OPTION,
) -> None:
    """Let a version read along with every new run of its model.  What it says is compared and never delivered.

    Example: ai-node models shadow brain-flair@1.1.1 --reason "before the switch"
    """
    with record() as (chosen, database), answering(as_json=as_json):
        if halt:
            with database.write() as connection:
                ended = registry.stop_shadows(connection, reference.partition("@")[0], actor(), reason)
            told = {"ended": ended}
        else:
            name, version = _exact(reference)
            choice = _candidate(chosen, database, name, version)
            with database.write() as connection:
                told = {"shadow": registry.start_shadow(connection, name, version, choice.digest, actor(), reason)}
    emit(told) if as_json else out.print(", ".join(f"{key}: {value}" for key, value in told.items()), markup=False)


@app.command()
def compare(
    model: str = MODEL,
    replay_number: int = typer.Option(0, "--replay", min=0, help="Only the parts of this replay."),
    html: Path | None = HTML,
    as_json: bool = JSON_OPTION,
) -> None:
    """What shadows and replays of a model found so far: Dice and volumes against the version in force.

    Example: ai-node models compare brain-flair --html comparison.html
    """
    with record() as (chosen, database), database.read() as connection:
        rows = registry.trials_of(connection, model=model, replay_id=replay_number or None)
    tell(rows, chosen, html, as_json, title=f"{model}: versions compared")


@app.command()
def replay(
    reference: str = REFERENCE,
    last: int = typer.Option(20, "--last", min=1, max=5000, help="How many past studies, newest first."),
    study: str | None = typer.Option(None, "--study", help="Only this Study Instance UID."),
    reason: str = REASON,
    html: Path | None = HTML,
    wait: bool = typer.Option(True, "--wait/--no-wait", help="Wait for the answers; else see `models compare`."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Read past studies again with another version and compare; nothing is delivered.  The node must be running.

    Example: ai-node models replay brain-flair@1.1.1 --last 50 --reason "before the switch" --html replay.html
    """
    name, version = _exact(reference)
    if html is not None:
        make_folder(html.parent)
    with record() as (chosen, database), answering(as_json=as_json):
        choice = _candidate(chosen, database, name, version)
        with database.write() as connection:
            runs = registry.past_runs(connection, name, last, study)
            if not runs:
                stop(Exit.REFUSED, f"no finished run of {name} is kept here: there is nothing to replay")
            number = registry.add_replay(connection, name, version, actor(), reason)
            added = [
                registry.add_trial(connection, int(run["id"]), f"{name}@{version}", choice.digest, replay_id=number)[0]
                for run in runs
            ]
        client = durable.connect(chosen.engine_url)
        try:
            for trial_id in added:
                client.put(trial_put(trial_id))
        finally:
            client.close()
        if not wait:
            if as_json:
                emit({"replay": number, "parts": len(added)})
            else:
                later = f"ai-node models compare {name} --replay {number}"
                out.print(f"replay {number}: {len(added)} parts are waiting; see: {later}", markup=False)
            return
        _watch(database, number, len(added))
        with database.read() as connection:
            rows = registry.trials_of(connection, replay_id=number)
    tell(rows, chosen, html, as_json, title=f"{name}: past studies read by {version}")


def _exact(reference: str) -> tuple[str, str]:
    name, _, version = reference.partition("@")
    if not version:
        stop(Exit.USAGE, f"NAME@VERSION expected, found {reference!r}; `ai-node models list` shows the versions")
    return name, version


def _candidate(chosen: Settings, database: Database, name: str, version: str) -> Choice:
    """A version that may be compared with the one in force: the same roles; other regions are told in the report."""
    routes = load_routes(chosen.routes).routes
    wanted = {s for r in routes if r.enabled and r.model.partition("@")[0] == name for s in r.role_sets}
    return rules.check_switch(chosen.engine.models, name, version, predecessor=None, role_sets=wanted)


def _share(choice: Choice, percent: int, keep: Choice | None) -> tuple[Choice, ...]:
    if percent == 100:
        return (choice,)
    if keep is None:
        stop(Exit.USAGE, "--percent needs another version that is in force now: put one in force first")
    return (
        Choice(keep.version, keep.digest, 100 - percent),
        Choice(choice.version, choice.digest, percent),
    )


def _watch(database: Database, number: int, total: int) -> None:
    """Show progress until every part of a replay has ended."""
    columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task("replay", total=total)
        while True:
            with database.read() as connection:
                rows = registry.trials_of(connection, replay_id=number)
            ended = sum(row["state"] != registry.QUEUED for row in rows)
            progress.update(task, completed=ended)
            if ended == total:
                return
            time.sleep(POLL_S)
