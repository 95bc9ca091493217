"""What arrived: associations, instances, further copies (tables of the same names); and originals for the archive.

The door inserts, the indexer fills in (`indexing`), the gatherer closes series into revisions (`revisions`).  Each
function works in the caller's transaction, so that what belongs together stands or falls together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, RowMapping, insert, or_, select, update

from dicom_node.record.database import now
from dicom_node.record.indexing import known_place, revive
from dicom_node.record.tables import arrivals, copies, instances, site
from dicom_node.record.timeline import note

MISSING_FILES = "vault_missing_files"
"""Key in `site`: how many rows have no file; anything but 0 blocks readiness."""


class Kept(StrEnum):
    """What adding an instance did."""

    NEW = "new"
    SAME = "same"
    """The same bytes were there already: nothing changed."""
    AGAIN = "again"
    """What had been deleted has come again: a new receipt, under the row that knew it."""
    COPY = "copy"
    """Other bytes under a UID we hold: kept beside it until the indexer has compared the contents."""


@dataclass(frozen=True)
class Received:
    """One object whose bytes are durable in the vault, about to get its row."""

    uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_uid: str | None
    series_uid: str | None
    path: str
    """Relative to the data folder."""
    size_bytes: int
    bytes_sha256: str
    calling_ae: str
    pass_on: bool = False
    """Whether the original is to be passed on to the archive."""


# associations


def open_arrival(connection: Connection, calling_ae: str, peer: str) -> int:
    """A row for an association that has sent its first object; its id."""
    row = {"calling_ae": calling_ae, "peer": peer, "opened_at": now(), "instances": 0}
    return int(connection.execute(insert(arrivals).values(row).returning(arrivals.c.id)).scalar_one())


def close_arrival(connection: Connection, arrival_id: int, *, released: bool, kept: int) -> None:
    """Record how an association ended and how many objects it brought."""
    connection.execute(
        update(arrivals).where(arrivals.c.id == arrival_id).values(closed_at=now(), released=released, instances=kept)
    )


def close_lost_arrivals(connection: Connection) -> int:
    """At start: associations that were open when the process ended count as aborted; how many there were."""
    lost = update(arrivals).where(arrivals.c.closed_at.is_(None)).values(closed_at=now(), released=False)
    return int(connection.execute(lost).rowcount)


# instances


def holds(connection: Connection, uid: str, bytes_sha256: str) -> str | None:
    """Who sent exactly these bytes under this UID (its calling AE title, empty for a further copy); None: nobody."""
    sender = connection.execute(
        select(instances.c.calling_ae).where(
            instances.c.uid == uid, instances.c.bytes_sha256 == bytes_sha256, instances.c.removed_at.is_(None)
        )
    ).scalar_one_or_none()
    if sender is not None:
        return str(sender)
    copy = select(copies.c.id).where(copies.c.uid == uid, copies.c.bytes_sha256 == bytes_sha256)
    return None if connection.execute(copy).first() is None else ""


def stored_path(connection: Connection, uid: str) -> str | None:
    """Where the object of this UID is kept, relative to the data folder; None: it is not."""
    kept = select(instances.c.path).where(instances.c.uid == uid, instances.c.removed_at.is_(None))
    return connection.execute(kept).scalar_one_or_none()


def removed_at(connection: Connection, uid: str) -> str | None:
    """Since when the file of an object that the node had is deleted; None: it is not."""
    return connection.execute(select(instances.c.removed_at).where(instances.c.uid == uid)).scalar_one_or_none()


def claim_recovered(connection: Connection, uid: str, calling_ae: str, *, pass_on: bool) -> None:
    """The sender of an object that was adopted at start has sent it again."""
    connection.execute(
        update(instances)
        .where(instances.c.uid == uid)
        .values(calling_ae=calling_ae, pass_state="pending" if pass_on else None)
    )


def add_instance(connection: Connection, item: Received, arrival_id: int) -> Kept:
    """Insert the row that makes an object ours.  Repeating it changes nothing.

    Whoever gets `Kept.AGAIN` has to look, before the commit, whether the file is still there: the same bytes lie under
    the same name, and a deletion may have been about to take it.
    """
    known = connection.execute(
        select(instances.c.bytes_sha256, instances.c.removed_at).where(instances.c.uid == item.uid)
    ).one_or_none()
    if known is not None and known.bytes_sha256 == item.bytes_sha256:
        if known.removed_at is None:
            return Kept.SAME
        receive_again(connection, item, arrival_id)
        return Kept.AGAIN
    if known is None:
        connection.execute(
            insert(instances).values(
                uid=item.uid,
                sop_class_uid=item.sop_class_uid,
                transfer_syntax_uid=item.transfer_syntax_uid,
                study_uid=item.study_uid,
                series_uid=item.series_uid,
                path=item.path,
                size_bytes=item.size_bytes,
                bytes_sha256=item.bytes_sha256,
                arrival_id=arrival_id,
                received_at=now(),
                calling_ae=item.calling_ae,
                pass_state="pending" if item.pass_on else None,
            )
        )
        return Kept.NEW
    same = select(copies.c.id).where(copies.c.uid == item.uid, copies.c.bytes_sha256 == item.bytes_sha256)
    if connection.execute(same).first() is not None:
        return Kept.SAME
    connection.execute(
        insert(copies).values(
            uid=item.uid,
            path=item.path,
            bytes_sha256=item.bytes_sha256,
            arrival_id=arrival_id,
            received_at=now(),
        )
    )
    return Kept.COPY


def receive_again(connection: Connection, item: Received, arrival_id: int) -> None:
    """An object whose file had been deleted has one again.

    Its header is read again only where the identity had been deleted with it; what it holds is known by its digest.
    """
    values = {
        "path": item.path,
        "size_bytes": item.size_bytes,
        "bytes_sha256": item.bytes_sha256,
        "transfer_syntax_uid": item.transfer_syntax_uid,
        "arrival_id": arrival_id,
        "received_at": now(),
        "calling_ae": item.calling_ae,
        "pass_state": "pending" if item.pass_on else None,
    }
    revive(connection, item.uid, values)


def stored_paths(connection: Connection) -> Iterable[tuple[str, str]]:
    """(path, bytes_sha256) of every file a row promises; dropped duplicates, and what was deleted, are not."""
    for table, condition in (
        (instances, instances.c.removed_at.is_(None)),
        (copies, or_(copies.c.verdict.is_(None), copies.c.verdict != "duplicate")),
    ):
        for path, digest in connection.execute(select(table.c.path, table.c.bytes_sha256).where(condition)):
            yield str(path), str(digest)


def set_missing_files(connection: Connection, count: int) -> None:
    """Write how many rows have no file; read by the readiness check."""
    connection.execute(site.delete().where(site.c.key == MISSING_FILES))
    connection.execute(insert(site).values(key=MISSING_FILES, value=str(count)))


def missing_files(connection: Connection) -> int:
    """How many rows had no file when the door last looked."""
    value = connection.execute(select(site.c.value).where(site.c.key == MISSING_FILES)).scalar_one_or_none()
    return int(value or 0)


# originals for the archive


def pending_originals(connection: Connection, limit: int) -> Sequence[RowMapping]:
    """Objects that came straight from a modality and have not been passed on, indexed ones, oldest first."""
    query = (
        select(
            instances.c.id,
            instances.c.uid,
            instances.c.study_uid,
            instances.c.sop_class_uid,
            instances.c.transfer_syntax_uid,
            instances.c.path,
            instances.c.pass_attempts,
        )
        .where(
            instances.c.pass_state == "pending",
            instances.c.removed_at.is_(None),
            or_(instances.c.content_sha256.is_not(None), instances.c.refusal.is_not(None)),
        )
        .order_by(instances.c.id)
        .limit(limit)
    )
    return connection.execute(query).mappings().all()


def mark_passed(connection: Connection, instance_ids: Sequence[int]) -> None:
    """The archive has said that it holds them."""
    connection.execute(update(instances).where(instances.c.id.in_(instance_ids)).values(pass_state="passed"))


def mark_private(connection: Connection, instance_ids: Sequence[int]) -> None:
    """These stay in the node."""
    connection.execute(update(instances).where(instances.c.id.in_(instance_ids)).values(pass_state="private"))


def mark_not_passed(connection: Connection, instance_id: int, *, is_final: bool) -> None:
    """An attempt failed; `is_final` when the archive refused the object for good."""
    connection.execute(
        update(instances)
        .where(instances.c.id == instance_id)
        .values(pass_attempts=instances.c.pass_attempts + 1, **({"pass_state": "failed"} if is_final else {}))
    )
    if is_final:
        study_uid, series_uid = known_place(connection, instance_id)
        note(connection, "original.refused", study_uid, series_uid=series_uid)
