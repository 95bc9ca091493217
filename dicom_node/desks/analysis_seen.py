"""Who was told the results of analyses in a list: written down before she is told, and not with every look again.

A client that waits for a result asks for its list every few seconds; what the same person was told within ten minutes
stands in the audit log once.
"""

from __future__ import annotations

from collections.abc import Iterable

from dicom_node.lately import Lately
from dicom_node.record import Database, audit

AGAIN_S = 600.0


class Seen:
    """What was told to whom of late."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._told = Lately(AGAIN_S)

    def note(self, actor: str, public_ids: Iterable[str]) -> None:
        """Write down that somebody is told these results."""
        new = [public_id for public_id in public_ids if (actor, public_id) not in self._told]
        if not new:
            return
        with self._database.write() as connection:
            audit.append(connection, actor, "analysis-results-listed", None, ids=new)
        # after it is written: who could not be written down is not told
        self._told.add((actor, public_id) for public_id in new)
