"""``ai-node destinations``: where results go, how each fares, and leaving one alone for a while."""

from __future__ import annotations

from typing import Any

import typer

from dicom_node.cli.common import JSON_OPTION, Exit, emit, out, stop
from dicom_node.cli.operate import REASON, actor, print_rows, put_jobs, record
from dicom_node.record import actions, pauses
from dicom_node.settings import Settings
from dicom_node.stages.peers import peers, standing

app = typer.Typer(no_args_is_help=True, help="Where results go; leave one alone for a while.")

NAME = typer.Argument(..., help="The destination's name in the settings; a webhook with hook- before it.")


@app.command("list")
def listing(as_json: bool = JSON_OPTION) -> None:
    """Every destination: whether it is tried, and what waits for it.

    Example: ai-node destinations list
    """
    with record() as (chosen, database), database.read() as connection:
        print_rows([one.to_json() for one in standing(chosen, connection)], as_json)


@app.command()
def pause(name: str = NAME, reason: str = REASON, as_json: bool = JSON_OPTION) -> None:
    """Leave a destination alone until it is resumed: results wait, and nothing of them grows too old.

    Example: ai-node destinations pause pacs --reason "archive migrates tonight"
    """
    with record() as (chosen, database):
        _known(chosen, name)
        try:
            with database.write() as connection:
                pauses.pause(connection, name, actor(), reason)
        except actions.UnknownItem as unknown:
            stop(Exit.REFUSED, str(unknown.args[0]))
    _done({"destination": name, "paused": True}, as_json)


@app.command()
def resume(name: str = NAME, reason: str = REASON, as_json: bool = JSON_OPTION) -> None:
    """Send to a paused destination again, what waited first.

    Example: ai-node destinations resume pacs --reason "migration is over"
    """
    with record() as (chosen, database):
        try:
            with database.write() as connection:
                jobs = pauses.resume(connection, name, actor(), reason)
        except actions.UnknownItem as unknown:
            stop(Exit.REFUSED, str(unknown.args[0]))
        put_jobs(chosen, jobs)
    _done({"destination": name, "paused": False, "jobs": len(jobs)}, as_json)


def _known(chosen: Settings, name: str) -> None:
    if name not in peers(chosen):
        stop(Exit.USAGE, f"{name}: expected one of {', '.join(peers(chosen))}")


def _done(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(told)
    else:
        out.print(f"{told['destination']}: {'paused' if told['paused'] else 'goes on'}", markup=False)
