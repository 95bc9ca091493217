"""Deletions: written down before a file is touched, done, and written down as done (tables `removals`, `legal_holds`).

`begin` is one transaction: the rule is asked, the rows of everything that goes are marked with the time, and the paths
of their files stand in the removal.  From then on every reader says by name that it was deleted.  `take` gives the
files of a removal that nothing alive needs, inside the transaction in which they are unlinked; `end` closes it.  A
process may die between any two of these: whoever comes next finds the removal and goes on.

What is deleted never includes the audit log, the timeline, UIDs and digests: that there was something, what became of
it, and when and by which rule it was deleted, stays known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, func, insert, or_, select, update

from dicom_node.record import audit
from dicom_node.record.database import now
from dicom_node.record.identity_removal import forget_identity
from dicom_node.record.tables import (
    artefacts,
    copies,
    instances,
    legal_holds,
    removals,
    report_tokens,
    reports,
    retention_rounds,
    revisions,
    runs,
    studies,
    trials,
)
from dicom_node.record.timeline import note
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.retention import Part

BEGUN, DONE = "begun", "done"
CACHE = "cache/volumes"
"""Where volumes and pictures of revisions are cached, by the number of the revision."""
_ARTEFACTS = "artefacts"


def removed(at: str) -> Refused:
    """What everybody is told who asks for something that was deleted."""
    return Refused(RefusalCode.REMOVED, "something that is still kept", f"deleted on {at[:10]}")


def place(row: RowMapping | Mapping[str, Any]) -> tuple[str, str]:
    """Path and digest of an artefact, for `files.load`.

    Raises
    ------
    Refused
        ``removed``, with the day on which it was deleted.
    """
    if row["removed_at"]:
        raise removed(row["removed_at"])
    return str(row["path"]), str(row["sha256"])


# -- deleting


def begin(connection: Connection, study_uid: str, parts: Collection[Part], rule: str, actor: str, reason: str) -> int:
    """Write a deletion down and mark everything that goes; the number of the removal.  The rule was asked before.

    Parameters
    ----------
    reason
        A person's words, for the audit log; empty where a setting said so.
    """
    at = now()
    paths: list[str] = []
    if Part.IMAGES in parts:
        paths += _mark_images(connection, study_uid, at)
    if Part.RESULTS in parts:
        paths += _mark_results(connection, study_uid, at)
    if Part.IDENTITY in parts:
        forget_identity(connection, study_uid, at)
    names = [part.value for part in Part if part in parts]
    values = {"study_uid": study_uid, "parts": names, "rule": rule, "actor": actor, "state": BEGUN, "begun_at": at}
    added = connection.execute(
        insert(removals).values(**values, paths=paths, files=0, size_bytes=0).returning(removals.c.id)
    )
    number = int(added.scalar_one())
    told = {"reason": reason} if reason else {}
    audit.append(connection, actor, "study-removal-begun", study_uid, removal=number, parts=names, rule=rule,
                 files=len(paths), **told)  # fmt: skip
    return number


def _mark_images(connection: Connection, study_uid: str, at: str) -> list[str]:
    mine = (instances.c.study_uid == study_uid, instances.c.removed_at.is_(None))
    paths = [str(path) for path in connection.execute(select(instances.c.path).where(*mine)).scalars()]
    others = (
        select(copies.c.path)
        .join(instances, instances.c.uid == copies.c.uid)
        .where(instances.c.study_uid == study_uid, copies.c.verdict != "duplicate")
    )
    paths += [str(path) for path in connection.execute(others).scalars()]
    connection.execute(update(instances).where(*mine).values(removed_at=at))
    uids = select(instances.c.uid).where(instances.c.study_uid == study_uid)
    connection.execute(delete(copies).where(copies.c.uid.in_(uids)))
    numbers = connection.execute(select(revisions.c.id).where(revisions.c.study_uid == study_uid)).scalars()
    return paths + [f"{CACHE}/{number}" for number in numbers]


def _mark_results(connection: Connection, study_uid: str, at: str) -> list[str]:
    of_study = select(runs.c.id).where(runs.c.study_uid == study_uid)
    mine = (artefacts.c.run_id.in_(of_study), artefacts.c.removed_at.is_(None))
    paths = [str(path) for path in connection.execute(select(artefacts.c.path).where(*mine)).scalars()]
    connection.execute(update(artefacts).where(*mine).values(removed_at=at))
    paths += _mark_trials(connection, trials.c.run_id.in_(of_study))
    shown = (reports.c.study_uid == study_uid, reports.c.removed_at.is_(None))
    for row in connection.execute(select(reports.c.id, reports.c.resource_type, reports.c.resource_id).where(*shown)):
        connection.execute(delete(report_tokens).where(report_tokens.c.report_id == row.id))
        bare = {"resourceType": row.resource_type, "id": row.resource_id}
        values = {"resource": bare, "is_current": False, "removed_at": at}
        connection.execute(update(reports).where(reports.c.id == row.id).values(**values))
    return [f"{_ARTEFACTS}/{path}" for path in dict.fromkeys(paths)]


def _mark_trials(connection: Connection, mine: ColumnElement[bool]) -> list[str]:
    """What other versions drew; the numbers of the comparison stay."""
    paths: list[str] = []
    for row in connection.execute(select(trials).where(mine)).mappings().all():
        told = dict(row["comparison"] or {})
        kept = [path for path in (row["mask_path"], told.pop("picture", None)) if path]
        if kept:
            paths += kept
            values = {"mask_path": None, "mask_sha256": None, "comparison": {**told, "picture": None}}
            connection.execute(update(trials).where(trials.c.id == row["id"]).values(**values))
    return paths


def unfinished(connection: Connection) -> list[RowMapping]:
    """Removals whose files may not all be gone, the oldest first."""
    query = select(removals).where(removals.c.state == BEGUN).order_by(removals.c.id)
    return list(connection.execute(query).mappings())


def unneeded(connection: Connection, paths: Sequence[str]) -> list[str]:
    """Those of some paths that nothing alive has: the same bytes may have come again, or belong to another run too."""
    kept = set(
        connection.execute(
            select(instances.c.path).where(instances.c.path.in_(paths), instances.c.removed_at.is_(None))
        ).scalars()
    )
    kept |= set(connection.execute(select(copies.c.path).where(copies.c.path.in_(paths))).scalars())
    made = [path.removeprefix(f"{_ARTEFACTS}/") for path in paths]
    shared = select(artefacts.c.path).where(artefacts.c.path.in_(made), artefacts.c.removed_at.is_(None))
    masks = select(trials.c.mask_path).where(trials.c.mask_path.in_(made))
    kept |= {f"{_ARTEFACTS}/{path}" for query in (shared, masks) for path in connection.execute(query).scalars()}
    return [path for path in paths if path not in kept]


def count(connection: Connection, number: int, files: int, size_bytes: int) -> None:
    """How much goes with a removal, measured before the first file is touched."""
    mine = update(removals).where(removals.c.id == number, removals.c.state == BEGUN)
    connection.execute(mine.values(files=files, size_bytes=size_bytes))


def row(connection: Connection, number: int) -> RowMapping:
    """One removal."""
    return connection.execute(select(removals).where(removals.c.id == number)).mappings().one()


def end(connection: Connection, number: int) -> RowMapping | None:
    """Nothing of a removal is left; its row.  None when another process was first."""
    done = update(removals).where(removals.c.id == number, removals.c.state == BEGUN)
    if not connection.execute(done.values(state=DONE, done_at=now(), paths=None)).rowcount:
        return None
    ended = row(connection, number)
    told = {key: ended[key] for key in ("parts", "rule", "files", "size_bytes")}
    note(connection, "study.removed", ended["study_uid"], **told)
    audit.append(connection, ended["actor"], "study-removed", ended["study_uid"], removal=number, **told)
    return ended


def of_study(connection: Connection, study_uid: str) -> list[dict[str, Any]]:
    """What was deleted of a study, oldest first, without paths."""
    query = select(removals).where(removals.c.study_uid == study_uid).order_by(removals.c.id)
    rows = connection.execute(query).mappings()
    return [{key: value for key, value in row.items() if key != "paths"} for row in rows]


# -- legal holds


def hold(connection: Connection, study_uid: str, actor: str, reason: str) -> bool:
    """Nothing of this study is deleted from now on; False when that was so before."""
    if connection.execute(select(legal_holds).where(legal_holds.c.study_uid == study_uid)).first() is not None:
        return False
    connection.execute(insert(legal_holds).values(study_uid=study_uid, since=now(), actor=actor, reason=reason))
    note(connection, "study.legal-hold", study_uid)
    audit.append(connection, actor, "legal-hold-set", study_uid, reason=reason)
    return True


def release(connection: Connection, study_uid: str, actor: str, reason: str) -> bool:
    """The rule applies to this study again; False when nothing held it."""
    if not connection.execute(delete(legal_holds).where(legal_holds.c.study_uid == study_uid)).rowcount:
        return False
    note(connection, "study.legal-hold-lifted", study_uid)
    audit.append(connection, actor, "legal-hold-lifted", study_uid, reason=reason)
    return True


def holds(connection: Connection) -> list[dict[str, Any]]:
    """Every legal hold, oldest first, with the study's opaque id."""
    query = select(legal_holds, studies.c.public_id).join(studies, studies.c.uid == legal_holds.c.study_uid)
    return [dict(row) for row in connection.execute(query.order_by(legal_holds.c.since)).mappings()]


# -- rounds


def add_round(connection: Connection, actor: str, outcome: str, studies: int, files: int, size_bytes: int) -> None:
    """The node has looked what is due."""
    idle = (retention_rounds.c.studies == 0, retention_rounds.c.outcome == outcome)
    connection.execute(delete(retention_rounds).where(*idle))
    values = {"outcome": outcome, "studies": studies, "files": files, "size_bytes": size_bytes}
    connection.execute(insert(retention_rounds).values(at=now(), actor=actor, **values))


def last_round(connection: Connection) -> RowMapping | None:
    """The newest round; None before the first."""
    query = select(retention_rounds).order_by(retention_rounds.c.id.desc()).limit(1)
    return connection.execute(query).mappings().first()


def last_calm_round(connection: Connection) -> str | None:
    """When a round last came through, or deleted something; None before the first."""
    calm = or_(retention_rounds.c.outcome != "busy", retention_rounds.c.studies > 0)
    return connection.execute(select(func.max(retention_rounds.c.at)).where(calm)).scalar()
