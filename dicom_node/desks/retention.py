"""The desk of retention: what the settings say, what is due and what stays all the same, legal holds, erasing by hand.

Studies go by their opaque ids; nothing here says whose they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from dicom_node.record import Database, audit, removals, studies, views
from dicom_node.retention import PARTS, Kind, Needed
from dicom_node.settings import Settings
from dicom_node.stages.retention import Due, Retention, Round

LOOKED_AT = 2000
"""Studies of a class at most that a question about what is due looks at."""
SHOWN = 20
MOST_LETTERS = 500


class RetentionRefused(ValueError):
    """It cannot be done; `reason` is ``study-unknown``, ``reason-missing``, ``held-already``, ``not-held`` or ``kept``.

    `kept`: what keeps a study from being erased now.
    """

    def __init__(self, reason: str, kept: tuple[Needed, ...] = ()) -> None:
        self.reason = reason
        self.kept = kept
        super().__init__(", ".join((reason, *kept)))


@dataclass(frozen=True)
class Rule:
    """One class: its setting, its days (None: kept for ever), what there is that is past them.

    Attributes
    ----------
    going
        How many studies would lose it, at most `LOOKED_AT` looked at.
    kept
        How many stay all the same, by why; a study may count under several.
    next
        The first of those that would go, then of those that stay: `study`, `last_at`, `parts`, `kept`.
    """

    kind: Kind
    days: float | None
    going: int = 0
    kept: Mapping[str, int] = field(default_factory=dict)
    next: tuple[Mapping[str, Any], ...] = ()

    @property
    def setting(self) -> str:
        return f"retention.{self.kind.value}_days"


class RetentionDesk:
    """Retention of this installation."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._retention = Retention(settings, database)

    # -- looking

    def rules(self) -> list[Rule]:
        """Every class with what is due."""
        return [self._rule(kind) for kind in Kind]

    def _rule(self, kind: Kind) -> Rule:
        found = list(islice(self._retention.due(kind), LOOKED_AT))
        going = [one for one in found if not one.kept]
        staying = [one for one in found if one.kept]
        why = Counter(reason.value for one in staying for reason in one.kept)
        shown = tuple(self._told(one) for one in (*going[:SHOWN], *staying[:SHOWN]))
        return Rule(kind, self._settings.retention.days(kind), len(going), dict(why), shown)

    def _told(self, one: Due) -> dict[str, Any]:
        parts = [part.value for part in PARTS[one.kind] if part in one.facts.there]
        study = self._public_id(one.facts.study_uid)
        return {"study": study, "last_at": one.facts.last_at, "parts": parts, "kept": [why.value for why in one.kept]}

    def _public_id(self, study_uid: str) -> str:
        with self._database.read() as connection:
            return str(studies.study_row(connection, study_uid)["public_id"])

    @property
    def keeps_unanswered(self) -> bool:
        return self._settings.retention.keep_unanswered

    def last(self) -> dict[str, Any] | None:
        """The last round: `at`, `actor`, `outcome`, `studies`, `files`, `size_bytes`; None before the first."""
        with self._database.read() as connection:
            row = removals.last_round(connection)
        return None if row is None else {key: value for key, value in row.items() if key != "id"}

    def holds(self) -> list[dict[str, Any]]:
        """Legal holds: `study`, `since`, `actor`, `reason`."""
        with self._database.read() as connection:
            rows = removals.holds(connection)
        return [{"study": row["public_id"], **{key: row[key] for key in ("since", "actor", "reason")}} for row in rows]

    # -- acting

    def run(self, actor: str) -> Round:
        """One round now, though the road may have work; audited."""
        with self._database.write() as connection:
            audit.append(connection, actor, "retention-run")
        return self._retention.run(actor)

    def hold(self, actor: str, study: str, reason: str) -> None:
        """Nothing of this study is deleted until somebody lifts it.

        Raises
        ------
        RetentionRefused
        """
        uid, words = self._meant(study, reason)
        with self._database.write() as connection:
            if not removals.hold(connection, uid, actor, words):
                raise RetentionRefused("held-already")

    def release(self, actor: str, study: str, reason: str) -> None:
        """The rules apply to this study again.

        Raises
        ------
        RetentionRefused
        """
        uid, words = self._meant(study, reason)
        with self._database.write() as connection:
            if not removals.release(connection, uid, actor, words):
                raise RetentionRefused("not-held")

    def erase(self, actor: str, study: str, reason: str) -> Round:
        """Delete everything of a study now: images, results, and who the patient is.

        Raises
        ------
        RetentionRefused
        """
        uid, words = self._meant(study, reason)
        made = self._retention.erase(uid, actor, words)
        if not isinstance(made, Round):
            raise RetentionRefused("kept", made)
        return made

    def _meant(self, study: str, reason: str) -> tuple[str, str]:
        words = " ".join(reason.split())[:MOST_LETTERS]
        with self._database.read() as connection:
            row = views.find_study(connection, study.strip())
        if row is None:
            raise RetentionRefused("study-unknown")
        if not words:
            raise RetentionRefused("reason-missing")
        return str(row["uid"]), words
