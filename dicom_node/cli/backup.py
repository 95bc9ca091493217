"""`ai-node backup`: the data folder of a node, running or not, in another folder that can be put in its place.

Files are copied first, then the records, then the files that have come meanwhile: every row of the copy has its file,
for what is stored is written before its row, and what was deleted in between was copied before.  Files are copied as
they lie there, so what is sealed stays sealed.  The engine's own file is left out: without it everything that is
unfinished is submitted again (docs/architecture.md).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from dicom_node.cli.common import JSON_OPTION, Exit, chosen_config, emit, err, make_folder, out, stop
from dicom_node.cli.operate import actor, record
from dicom_node.record import Database, audit
from dicom_node.settings import Settings

RECORDS = "records.sqlite"
_MADE_ANEW = ("cache", "reseal")
"""Folders of the data folder that nobody misses."""
_UNFINISHED = (".part", ".new", ".lock")


def backup(
    target: Path = typer.Argument(..., help="Folder for the copy; one of before is brought up to date."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Copy the data folder, while the node runs: records, images, results, keys; with it a node starts again.

    The same folder again takes only what is new, and loses what was deleted here. What is not in it is printed:
    settings, routes, secrets, certificates, models. How to bring it back: docs/runbook.md.

    Example: ai-node backup /mnt/backup/ainode
    """
    with record() as (chosen, database):
        source = chosen.data.folder.resolve()
        if database.file is None:
            stop(Exit.CONFIGURATION, "data.records_url: the records are on a server: its own back-up has to take them")
        _check_target(database, source, target)
        with database.write() as connection:
            audit.append(connection, actor(), "backed-up")
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_folder(target)
        with Progress(SpinnerColumn(), TextColumn("{task.completed:.0f} files"), console=err) as progress:
            task = progress.add_task("", total=None)
            kept, copied = set(), 0
            for is_second in (False, True):
                for name in _stored(source):
                    copied += _bring(source / name, target / name)
                    kept.add(name)
                    progress.advance(task)
                if not is_second:
                    _bring_records(database.file, target / RECORDS)
        gone = [name for name in _stored(target) if name not in kept]
        for name in gone:
            (target / name).unlink()
        os.sync()
        elsewhere = _elsewhere(chosen)
    if as_json:
        emit({"files": len(kept), "copied": copied, "deleted": len(gone), "not_in_it": elsewhere})
        return
    out.print(f"{target}: records, and {len(kept)} files, of them {copied} new; {len(gone)} deleted", markup=False)
    out.print("not in it, to be kept by themselves:", markup=False)
    for line in elsewhere:
        out.print(f"  {line}", markup=False, soft_wrap=True)


def _check_target(database: Database, source: Path, target: Path) -> None:
    """Only an empty folder, or a copy of this very node, is written into."""
    there = target.resolve()
    if there == source or source in there.parents or there in source.parents:
        stop(Exit.USAGE, f"{target}: expected a folder outside the data folder {source}, on another disk if it can be")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if _whose(there / RECORDS) != database.site_fact("node_instance"):
        stop(Exit.USAGE, f"{target}: expected an empty folder, or a back-up of this node; found other files")


def _whose(records: Path) -> str | None:
    """Which node's records these are; they are read and not touched."""
    try:
        with closing(sqlite3.connect(f"{records.as_uri()}?mode=ro", uri=True)) as copy:
            found = copy.execute("SELECT value FROM site WHERE key = 'node_instance'").fetchone()
    except sqlite3.Error:
        return None
    return None if found is None else str(found[0])


def _stored(folder: Path) -> Iterator[str]:
    """Names, relative to the folder, of all its files but databases, caches and what is still being written."""
    for base, folders, files in os.walk(folder):
        is_top = Path(base) == folder
        folders[:] = sorted(name for name in folders if not (is_top and name in _MADE_ANEW))
        for name in sorted(files):
            path = Path(base) / name
            is_database = is_top and ".sqlite" in name
            if not (is_database or name.endswith(_UNFINISHED) or path.is_symlink()):
                yield str(path.relative_to(folder))


def _bring(source: Path, target: Path) -> bool:
    """Copy a file unless it is there; whether it was copied.  One that goes meanwhile is not missed."""
    try:
        now, there = source.stat(), target.stat() if target.exists() else None
        if there is not None and (now.st_size, now.st_mtime_ns) == (there.st_size, there.st_mtime_ns):
            return False
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = target.with_name(f".{target.name}.part")
        shutil.copy2(source, part)
        part.replace(target)
    except FileNotFoundError:
        if source.exists():
            raise
        return False
    return True


def _bring_records(source: Path, target: Path) -> None:
    """A copy of the database as it is at one moment, whoever writes into it; checked before it takes its place."""
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(part)) as copy:
        os.chmod(part, 0o600)
        live.backup(copy)
        copy.execute("PRAGMA journal_mode=delete")  # one file, nothing beside it
        found = copy.execute("PRAGMA integrity_check").fetchone()[0]
    if found != "ok":
        stop(Exit.FAULT, "the records are damaged: keep this back-up's last records, and see docs/runbook.md, Restore")
    part.replace(target)


def _elsewhere(chosen: Settings) -> list[str]:
    """What a node needs besides its data folder."""
    config = chosen_config()
    found = [
        f"settings {config.absolute() if config else 'config/node.yaml'}, and the secrets that they name (…_file)",
        f"routes {chosen.routes.absolute()}",
        f"models {chosen.engine.models.absolute()}",
    ]
    if chosen.data.key_file is not None:
        found.append(f"master keys {chosen.data.key_file.absolute()}, which shall not lie beside this back-up")
    if chosen.uses_tls:
        found.append(f"certificates {chosen.tls.certificate_file.absolute().parent}")
    return found
