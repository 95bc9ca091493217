"""Retention: what the site keeps no longer is deleted, a little at a time, and what a person erases at once.

Beside the road, and behind it: a round ends when there is work.  Each deletion is decided and written down in one
transaction (`record.removals`), its files are unlinked in small transactions that look again whether anything alive
has the same bytes, and then it is written down as done.  What a death leaves open, the next round ends first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection

from dicom_node import files
from dicom_node.failpoints import reach
from dicom_node.record import Database, audit, now, removals
from dicom_node.record import retention as rows
from dicom_node.record.identity_removal import forget_analysis
from dicom_node.retention import ERASE, PARTS, Facts, Kind, Needed, applies, erasure_kept_because, kept_because
from dicom_node.settings import Settings

DONE, MORE, BUSY = "done", "more", "busy"
_AT_ONCE = 20
"""Files that are unlinked while the record is locked."""
_LOOKED_AT = 2000
"""Studies of a class that a round looks at; the next one goes on behind them."""
_STARVED = timedelta(hours=24)
"""After so long without a round that came through, one study goes though the road has work."""


@dataclass(frozen=True)
class Due:
    """A class of things of a study whose days are over; `kept`: why it stays all the same, if it does."""

    kind: Kind
    facts: Facts
    kept: tuple[Needed, ...]


@dataclass
class Round:
    """What one round did."""

    outcome: str = DONE
    studies: int = 0
    files: int = 0
    size_bytes: int = 0


@dataclass
class Retention:
    """Deletes by the rules of one installation."""

    settings: Settings
    database: Database
    _after: dict[Kind, tuple[str, str]] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    """Studies of which something went in this round."""

    # -- by the rule

    def due(self, kind: Kind, after: tuple[str, str] | None = None) -> Iterator[Due]:
        """Everything of a class whose days are over, the oldest first; nothing where no days are set."""
        before = self._line(kind)
        if before is None:
            return
        while True:
            with self.database.read() as connection:
                found = rows.old_studies(connection, kind, before, after)
                known = [rows.facts(connection, str(row["uid"])) for row in found]
            for row, one in zip(found, known, strict=True):
                if applies(kind, one) and one.last_at < before:
                    yield Due(kind, one, self._kept(kind, one))
                self._after[kind] = after = (str(row["last_activity_at"]), str(row["uid"]))
            if not found:
                self._after.pop(kind, None)
                return

    def _kept(self, kind: Kind, facts: Facts) -> tuple[Needed, ...]:
        return kept_because(kind, facts, keep_unanswered=self.settings.retention.keep_unanswered)

    def _line(self, kind: Kind) -> str | None:
        """The moment before which nothing may have happened to what goes."""
        days = self.settings.retention.days(kind)
        if days is None:
            return None
        return (datetime.fromisoformat(now()) - timedelta(days=days)).isoformat(timespec="microseconds")

    def run(self, actor: str, is_over: Callable[[], bool] = lambda: False, *, waits: bool = False) -> Round:
        """One round: end what was begun, then delete what is due, at most `retention.studies_per_round` studies.

        Parameters
        ----------
        is_over
            Asked between studies: the process was told to stop.
        waits
            Whether the road goes first.
        """
        made = Round()
        self._gone.clear()
        for number in self._unfinished():
            self._finish(number, made)
        most = self.settings.retention.studies_per_round
        for kind in Kind:
            for looked, one in enumerate(self.due(kind, self._after.get(kind))):
                if looked >= _LOOKED_AT or made.studies >= most:
                    made.outcome = MORE
                    break
                if waits and self._is_busy(made):
                    made.outcome = BUSY
                if is_over() or made.outcome == BUSY:
                    return self._ended(actor, made)
                if not one.kept:
                    self._remove(one.facts.study_uid, kind, actor, made)
        self._forget_lone(actor)
        return self._ended(actor, made)

    def _is_busy(self, made: Round) -> bool:
        with self.database.read() as connection:
            if not rows.is_busy(connection):
                return False
            last = removals.last_calm_round(connection)
        waited = last is None or datetime.fromisoformat(now()) - datetime.fromisoformat(last) < _STARVED
        return waited or made.studies > 0

    def _remove(self, study_uid: str, kind: Kind, actor: str, made: Round) -> None:
        rule = f"retention.{kind.value}_days"
        with self.database.write() as connection:
            facts = rows.facts(connection, study_uid)  # as it is now that nobody else writes
            line = self._line(kind)
            if line is None or facts.last_at >= line or not applies(kind, facts) or self._kept(kind, facts):
                return
            number = removals.begin(connection, study_uid, facts.there & set(PARTS[kind]), rule, actor, "")
        self._gone.add(study_uid)
        made.studies = len(self._gone)
        reach("R1")
        self._finish(number, made)

    def _forget_lone(self, actor: str) -> None:
        """Identities of analyses that never became a study: refused, failed or taken back before."""
        line = self._line(Kind.IDENTITY)
        if line is None:
            return
        with self.database.write() as connection:
            for row in rows.lone_analyses(connection, line):
                forget_analysis(connection, int(row["id"]), row["patient"], now())
                told = {"ids": [row["public_id"]], "rule": f"retention.{Kind.IDENTITY.value}_days"}
                audit.append(connection, actor, "analysis-identity-removed", None, **told)

    def _ended(self, actor: str, made: Round) -> Round:
        with self.database.write() as connection:
            removals.add_round(connection, actor, made.outcome, made.studies, made.files, made.size_bytes)
        return made

    # -- by hand

    def erase(self, study_uid: str, actor: str, reason: str) -> Round | tuple[Needed, ...]:
        """Delete everything of a study now, whatever its age; or why that cannot be done now."""
        made = Round()
        with self.database.write() as connection:
            facts = rows.facts(connection, study_uid)
            kept = erasure_kept_because(facts)
            if kept:
                return kept
            if not facts.there:
                return made
            number = removals.begin(connection, study_uid, facts.there, ERASE, actor, reason)
        made.studies = 1
        reach("R1")
        self._finish(number, made)
        return made

    # -- files

    def _unfinished(self) -> list[int]:
        with self.database.read() as connection:
            return [int(row["id"]) for row in removals.unfinished(connection)]

    def _finish(self, number: int, made: Round) -> None:
        """Unlink what a removal names; doing it again does no harm."""
        with self.database.read() as connection:
            row = removals.row(connection, number)
        paths = [str(path) for path in row["paths"] or ()]
        if not row["files"]:
            self._measure(number, paths)
        for start in range(0, len(paths), _AT_ONCE):
            with self.database.write() as connection:
                self._unlink(connection, paths[start : start + _AT_ONCE])
            reach("R2")
        with self.database.write() as connection:
            ended = removals.end(connection, number)
        reach("R3")
        if ended is not None:
            made.files += int(ended["files"])
            made.size_bytes += int(ended["size_bytes"])
        self.database.forget()

    def _measure(self, number: int, paths: list[str]) -> None:
        sizes = [size for path in paths for one in self._files(path) if (size := _size(one)) is not None]
        with self.database.write() as connection:
            removals.count(connection, number, len(sizes), sum(sizes))

    def _unlink(self, connection: Connection, paths: list[str]) -> None:
        """Nothing else can be written down meanwhile: whoever brings the same bytes again is before this, or after."""
        touched = set()
        for path in removals.unneeded(connection, paths):
            for target in self._files(path):
                if files.destroy(target) is not None:
                    touched.add(target.parent)
        for folder in touched:
            files.sync_folder(folder)

    def _files(self, path: str) -> list[Path]:
        """The file of a path, and of a revision's cache what stands beside it under the same number."""
        target = self._inside(path)
        beside = target.parent.glob(f"{target.name}[!0-9]*") if path.startswith(removals.CACHE) else ()
        return [target, *beside]

    def _inside(self, path: str) -> Path:
        """A file of the data folder, whatever a row says (I9)."""
        root = self.settings.data.folder.resolve()
        target = (root / path).resolve()
        if not target.is_relative_to(root) or target == root:
            raise ValueError("a removal names a file outside the data folder")
        return target


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return None
