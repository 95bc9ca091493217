"""The specialist's desk: cases of her sites, replies, outcomes.  Rows are `dicom_node.record`'s.

Whose cases they are is asked of every row: a case of another site is not there, as one that does not exist is not.  Who
asked about a picture is told to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection

from dicom_node.desks import outcome_table
from dicom_node.desks.analyses import Analyses
from dicom_node.desks.analysis_results import COMPLETED, AnalysisResult
from dicom_node.permissions import Person
from dicom_node.record import Database, analyses, audit, outcomes, reviews
from dicom_node.record.outcomes import Outcome, OutcomeRefused, Source

MOST_SHOWN = 500
"""Cases of one state on one page; the longest waiting ones."""

Row = Mapping[str, Any]


class Reviewer(Protocol):
    """Somebody who acts on cases: a person, or a service by the account of its key."""

    @property
    def user_id(self) -> int: ...
    @property
    def actor(self) -> str: ...
    @property
    def sites(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Case:
    """An analysis as a specialist has it before her.

    Attributes
    ----------
    replies
        Everything that was replied and decided, oldest first.
    outcome
        The one that counts, if there is one.
    """

    row: Row
    result: AnalysisResult
    replies: Sequence[Row]
    outcome: Row | None

    @property
    def state(self) -> str:
        return str(self.replies[-1]["state"]) if self.replies else reviews.OPEN

    @property
    def seen(self) -> int:
        """Id of the newest reply, 0 for none: what a new one must name."""
        return int(self.replies[-1]["id"]) if self.replies else 0

    @property
    def is_above(self) -> bool:
        return any(one.is_above for one in self.result.outputs)


@dataclass(frozen=True)
class Taken:
    """What came of a table: how many outcomes were new, or which lines are wrong (line, reason) and nothing written."""

    lines: int
    written: int
    wrong: tuple[tuple[int, str], ...] = ()


class Reviews:
    """Cases of this installation."""

    def __init__(self, database: Database, answers: Analyses) -> None:
        self._database = database
        self._answers = answers
        self.settings = answers.settings

    def cases(self, who: Reviewer, state: str) -> list[Case]:
        """Cases of her sites that stand so: above the threshold first, then the longest waiting.  Audited."""
        with self._database.write() as connection:
            audit.append(connection, who.actor, "cases-listed", None, state=state)
        with self._database.read() as connection:
            rows = [dict(row) for row in reviews.cases(connection, who.sites, state, MOST_SHOWN)]
            known = outcomes.latest(connection, [row["id"] for row in rows])
            replies = reviews.histories(connection, [row["id"] for row in rows])
        found = [
            Case(row, result, replies.get(row["id"], ()), known.get(row["id"]))
            for row, result in zip(rows, self._answers.results(rows), strict=True)
        ]
        return sorted(found, key=lambda case: (not case.is_above, case.row["id"]))

    def counts(self, who: Reviewer) -> dict[str, int]:
        """How many cases of her sites stand how."""
        with self._database.read() as connection:
            return reviews.count(connection, who.sites)

    def case(self, who: Reviewer, public_id: str) -> Case | None:
        """One case of her sites; None for everything else, also for one that is another site's."""
        with self._database.read() as connection:
            row = _of_sites(connection, who.sites, public_id)
            if row is None:
                return None
            replies = reviews.history(connection, row["id"])
            known = outcomes.latest(connection, [row["id"]])
        (result,) = self._answers.results([row])
        return Case(row, result, replies, known.get(row["id"]))

    def saw(self, who: Person, case: Case) -> None:
        """Write down that somebody has looked at the result of a case, where it has one."""
        if case.result.state == COMPLETED:
            self._answers.saw_result(who, case.row)

    def replies_of(self, analysis_id: int) -> list[Row]:
        """What was replied about an analysis, oldest first: for whoever may see that analysis."""
        with self._database.read() as connection:
            return list(reviews.history(connection, analysis_id))

    def recommended(self, analysis_ids: Collection[int]) -> dict[int, str]:
        """The action that was recommended last, of those analyses that a specialist has answered."""
        with self._database.read() as connection:
            said = reviews.histories(connection, analysis_ids)
        told = {number: [row["action"] for row in rows if row["action"]] for number, rows in said.items()}
        return {number: actions[-1] for number, actions in told.items() if actions}

    def write(self, who: Reviewer, row: Row, state: str, *, seen: int, reply: str = "", action: str = "") -> None:
        """Reply, close, or open again.

        Raises
        ------
        ReviewRefused
        """
        with self._database.write() as connection:
            said = {"reply": reply, "action": action}
            reviews.write(connection, row, state, user_id=who.user_id, actor=who.actor, seen=seen, **said)

    def tell(
        self, who: Reviewer, public_id: str, diagnosis: str, on_date: str, malignant: bool | None, source: Source
    ) -> bool | None:
        """Write what histology said; whether it was new, and None when there is no such analysis at her sites.

        Raises
        ------
        OutcomeRefused
        """
        with self._database.write() as connection:
            row = _standing(connection, who.sites, public_id)
            if row is None:
                return None
            outcome = outcomes.told(diagnosis, on_date, malignant, row["created_at"])
            return _written(connection, who, source)(row, outcome)

    def take_table(self, who: Reviewer, content: bytes) -> Taken:
        """Write the outcomes of a table: all of them, or none when one line is wrong.

        Raises
        ------
        TableRefused
        """
        lines = outcome_table.read_table(content)
        wrong: list[tuple[int, str]] = []
        told: list[tuple[Row, Outcome]] = []
        with self._database.write() as connection:
            for line in lines:
                row = None if line.problem else _standing(connection, who.sites, line.analysis)
                if row is None:
                    wrong.append((line.number, line.problem or "analysis-unknown"))
                    continue
                try:
                    told.append((row, outcomes.told(line.diagnosis, line.on_date, line.malignant, row["created_at"])))
                except OutcomeRefused as refused:
                    wrong.append((line.number, refused.reason))
            if wrong:
                return Taken(len(lines), 0, tuple(wrong))
            write = _written(connection, who, "csv")
            return Taken(len(lines), sum(write(row, outcome) for row, outcome in told))

    def table(self, who: Reviewer) -> str:
        """Analyses of her sites without an outcome, as a table to fill in.  Audited."""
        with self._database.read() as connection:
            rows = list(outcomes.without(connection, who.sites, outcome_table.MOST_ROWS))
        with self._database.write() as connection:
            audit.append(connection, who.actor, "cases-exported", None, rows=len(rows))
        return outcome_table.table_of(rows)


def _of_sites(connection: Connection, sites: Collection[str], public_id: str) -> Row | None:
    row = analyses.by_public_id(connection, public_id)
    return dict(row) if row is not None and row["site"] in sites else None


def _standing(connection: Connection, sites: Collection[str], public_id: str) -> Row | None:
    """One of which an outcome can be told: a withdrawn analysis says nothing about anybody any more."""
    row = _of_sites(connection, sites, public_id)
    return row if row is not None and not row["withdrawn_at"] else None


def _written(connection: Connection, who: Reviewer, source: Source) -> Callable[[Row, Outcome], bool]:
    def write(row: Row, outcome: Outcome) -> bool:
        return outcomes.write(connection, row, outcome, source=source, actor=who.actor, user_id=who.user_id)

    return write
