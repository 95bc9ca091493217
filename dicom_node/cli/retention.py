"""Commands for retention: what is kept how long, what is due, legal holds, erasing one study."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table as Grid

from dicom_node.cli.common import JSON_OPTION, Exit, emit, out, stop
from dicom_node.cli.operate import REASON, actor, record
from dicom_node.desks.retention import RetentionDesk, RetentionRefused, Rule
from dicom_node.stages.retention import Round

app = typer.Typer(no_args_is_help=True, help="How long things are kept; what is deleted, and what is kept from it.")

STUDY = typer.Argument(..., help="Study Instance UID, or the id that `studies` prints.")
_REFUSED = {
    "study-unknown": "no such study here: expected a Study Instance UID, or an id that `ai-node studies` prints",
    "reason-missing": "--reason: expected words",
    "held-already": "there is a legal hold on this study already: `ai-node retention show`",
    "not-held": "there is no legal hold on this study: `ai-node retention show` lists them",
}
WHY = {
    "legal-hold": "a legal hold: `ai-node retention release` lifts it",
    "gathers": "something of it is arriving or undecided: wait, or see `ai-node study show`",
    "held": "it waits for a person: `ai-node held list`",
    "running": "a run or trial waits or works: wait, or `ai-node jobs cancel`",
    "on-its-way": "a delivery is open, held or failed, or an original is still to be passed on: `ai-node jobs list`",
    "run-failed": "its run failed: `ai-node jobs retry`, or erase it",
    "unconfirmed": "its result was not seen at every destination: `ai-node jobs list`, or erase it",
    "not-archived": "the archive refused an original, so this is the only copy: archive it, or erase it",
    "unanswered": "no specialist has answered the case (retention.keep_unanswered)",
    "files-left": "images or results are still here, and say whose they are",
}


@contextmanager
def _desk() -> Iterator[RetentionDesk]:
    with record() as (chosen, database):
        try:
            yield RetentionDesk(chosen, database)
        except RetentionRefused as refused:
            told = _REFUSED.get(refused.reason) or "kept: " + "; ".join(WHY[why] for why in refused.kept)
            stop(Exit.REFUSED, told)


@app.command("show")
def show(as_json: bool = JSON_OPTION) -> None:
    """What the settings say, what is due now and what is kept all the same and why, the last round, legal holds.

    Example: ai-node retention show
    """
    with _desk() as desk:
        rules, last, holds = desk.rules(), desk.last(), desk.holds()
        keeps_unanswered = desk.keeps_unanswered
    if as_json:
        told = {"rules": [_told(rule) for rule in rules], "last": last, "holds": holds}
        emit({**told, "keep_unanswered": keeps_unanswered})
        return
    grid = Grid("class", "kept for", "due: would go", "due: stays because of")
    for rule in rules:
        days = "ever" if rule.days is None else f"{rule.days:g} days"
        why = ", ".join(f"{reason} {number}" for reason, number in rule.kept.items())
        grid.add_row(rule.kind.value, days, str(rule.going), why)
    out.print(grid)
    if last is None:
        out.print("no round yet")
    else:
        line = f"last round {last['at'][:19]} by {last['actor']}: {last['outcome']}"
        out.print(f"{line}, {last['studies']} studies, {last['files']} files", markup=False, soft_wrap=True)
    for hold in holds:
        line = f"legal hold on {hold['study']} since {hold['since'][:10]} by {hold['actor']}: {hold['reason']}"
        out.print(line, markup=False, soft_wrap=True)


@app.command("run")
def run(
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would go, and what stays and why."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Delete what is due, one round: what the worker does by itself every ten minutes while the road is free.

    Example: ai-node retention run --dry-run
    """
    with _desk() as desk:
        if not dry_run:
            _done(desk.run(actor()), as_json)
            return
        rules = desk.rules()
    if as_json:
        emit({"rules": [_told(rule) for rule in rules]})
        return
    grid = Grid("class", "study", "last activity (UTC)", "what", "stays because of")
    for rule in rules:
        for one in rule.next:
            parts, kept = ", ".join(one["parts"]), ", ".join(one["kept"])
            grid.add_row(rule.kind.value, one["study"], one["last_at"][:19], parts, escape(kept))
    out.print(grid)
    going = ", ".join(f"{rule.kind.value} of {rule.going}" for rule in rules if rule.going)
    out.print(f"would go: {going or 'nothing'}; nothing was deleted")


@app.command("hold")
def hold(study: str = STUDY, reason: str = REASON, as_json: bool = JSON_OPTION) -> None:
    """Put a legal hold on a study: nothing of it is deleted until it is lifted, by no rule and no person.

    Example: ai-node retention hold 1f0c2a9be81d4c55 --reason "court file 12/2026"
    """
    with _desk() as desk:
        desk.hold(actor(), study, reason)
    _said({"study": study, "held": True}, "held: nothing of this study is deleted", as_json)


@app.command("release")
def release(study: str = STUDY, reason: str = REASON, as_json: bool = JSON_OPTION) -> None:
    """Lift a legal hold: the rules apply to the study again.

    Example: ai-node retention release 1f0c2a9be81d4c55 --reason "court file closed"
    """
    with _desk() as desk:
        desk.release(actor(), study, reason)
    _said({"study": study, "held": False}, "lifted: the rules of retention apply to this study again", as_json)


@app.command("erase")
def erase(
    study: str = STUDY,
    reason: str = REASON,
    yes: bool = typer.Option(False, "--yes", help="Do not ask again: for scripts."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Delete everything of one study now: images, results, and who the patient is. The archive's copy is its own.

    Example: ai-node retention erase 1f0c2a9be81d4c55 --reason "patient's request 4711"
    """
    if not yes and not _confirmed("This cannot be undone. Delete images, results and identity?"):
        stop(Exit.USAGE, "nothing was deleted: it has to be confirmed; --yes does that in a script")
    with _desk() as desk:
        _done(desk.erase(actor(), study, reason), as_json)


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C, or nobody is there to answer
        return False


def _done(made: Round, as_json: bool) -> None:
    size = f"{made.size_bytes / 1e6:.1f} MB"
    text = f"{made.outcome}: {made.studies} studies, {made.files} files, {size} deleted"
    _said(asdict(made), text, as_json)


def _said(value: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        emit(value)
    else:
        out.print(text, markup=False)


def _told(rule: Rule) -> dict[str, Any]:
    return {
        "class": rule.kind.value,
        "setting": rule.setting,
        "days": rule.days,
        "going": rule.going,
        "kept": dict(rule.kept),
        "next": [dict(one) for one in rule.next],
    }
