"""Where photographs wait for the road, and the job that brings one there: what web process and worker both know.

Photographs have a queue of their own, so that a study never waits behind a clinic's hundred, nor one of them behind a
volume that is read.  In it, what is nearly done goes first: written before read, read before brought to the door.  The
first doctor has her answer while the last one's photograph waits, instead of all of them at the end.
"""

from __future__ import annotations

from dicom_node.durable import Put
from dicom_node.record.analyses import Row
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from dicom_node.turns import ROUTINE, behind, place

QUEUE = "photos"


def photo_spool(settings: Settings) -> Spool:
    """Where photographs lie from the moment that their sender is answered until the vault has them."""
    return Spool(settings.data.folder / "photos")


def submit_put(row: Row, suffix: str = "", *, turn: int = 0, attempt: int = 0, delay_s: float = 0.0) -> Put:
    """The job of one photograph.

    Parameters
    ----------
    turn
        How many others of the same user wait before it: so nobody's hundred stand before somebody else's one.
    attempt
        How often in a row the door was not there.
    """
    args = (int(row["id"]), attempt)
    return Put(QUEUE, "submit", f"submit/{row['id']}{suffix}", args, behind(place(ROUTINE, turn)), delay_s)
