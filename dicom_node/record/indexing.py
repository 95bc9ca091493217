"""What the indexer fills in: headers and content digests, verdicts on copies; studies and series with their holds.

Each function works in the caller's transaction.  Here identities are compared: what contradicts is held, and
`ai-node held` lists it.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, or_, select, update

from dicom_node.record import sites
from dicom_node.record.database import now
from dicom_node.record.tables import arrivals, artefacts, copies, events, instances, series, studies
from dicom_node.record.timeline import note
from dicom_node.refusals import Refusal, RefusalCode

PATIENT_KEYWORDS = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")
"""A difference in any of them inside one study is a patient-conflict (hardening section 3)."""

IDENTITY_KEYWORDS = (
    *PATIENT_KEYWORDS,
    "PatientSex",
    "PatientAge",
    "SpecificCharacterSet",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "TimezoneOffsetFromUTC",
)


def unindexed(connection: Connection, limit: int, without: Collection[int] = ()) -> Sequence[RowMapping]:
    """Instances whose header nobody has read yet, oldest first, `without` some."""
    query = (
        select(instances.c.id, instances.c.uid, instances.c.sop_class_uid, instances.c.path, instances.c.calling_ae)
        .where(
            instances.c.content_sha256.is_(None),
            instances.c.refusal.is_(None),
            instances.c.removed_at.is_(None),
            instances.c.id.not_in(sorted(without)),
        )
        .order_by(instances.c.id)
        .limit(limit)
    )
    return connection.execute(query).mappings().all()


def unjudged_copies(connection: Connection, limit: int) -> Sequence[RowMapping]:
    """Copies without a verdict whose first instance is indexed (or refused)."""
    query = (
        select(
            copies.c.id,
            copies.c.uid,
            copies.c.path,
            instances.c.content_sha256.label("first_sha256"),
            instances.c.study_uid,
            instances.c.series_uid,
            instances.c.removed_at,
        )
        .join(instances, instances.c.uid == copies.c.uid)
        .where(
            copies.c.verdict.is_(None),
            or_(instances.c.content_sha256.is_not(None), instances.c.refusal.is_not(None)),
        )
        .order_by(copies.c.id)
        .limit(limit)
    )
    return connection.execute(query).mappings().all()


def is_known_result(connection: Connection, uid: str) -> bool:
    """Whether this SOP Instance UID is one the node gave to a result."""
    return connection.execute(select(artefacts.c.id).where(artefacts.c.sop_instance_uid == uid)).first() is not None


def index_instance(
    connection: Connection,
    instance_id: int,
    header: Mapping[str, Any],
    content_sha256: str,
    *,
    own_result: bool,
    is_input: bool,
    site: str | None = None,
) -> None:
    """Fill in what the header says; make or extend its study and series; hold them where identities disagree.

    `site`: whose studies its sender brings, where the settings say so.
    """
    study_uid, series_uid = str(header["StudyInstanceUID"]), str(header["SeriesInstanceUID"])
    connection.execute(
        update(instances)
        .where(instances.c.id == instance_id)
        .values(
            study_uid=study_uid,
            series_uid=series_uid,
            header=dict(header),
            content_sha256=content_sha256,
            own_result=own_result,
            **({"pass_state": None} if own_result else {}),
        )
    )
    if own_result:
        return  # of our making: neither identity nor evidence (I18)
    _join_study(
        connection, study_uid, {k: header[k] for k in IDENTITY_KEYWORDS if header.get(k) not in (None, "")}, site
    )
    _join_series(connection, series_uid, study_uid, is_input=is_input)


def refuse_instance(
    connection: Connection,
    instance_id: int,
    study_uid: str | None,
    series_uid: str | None,
    refusal: Refusal,
    *,
    is_input: bool,
) -> None:
    """Record that an object is kept but cannot be read; its series, where known, cannot be complete."""
    connection.execute(update(instances).where(instances.c.id == instance_id).values(refusal=refusal.to_json()))
    if study_uid and series_uid:
        _join_study(connection, study_uid, {})
        _join_series(connection, series_uid, study_uid, is_input=is_input)
        note(connection, "instance.refused", study_uid, series_uid=series_uid, code=refusal.code.value)


def known_place(connection: Connection, instance_id: int) -> tuple[str | None, str | None]:
    """Study and series UID as the door read them."""
    found = connection.execute(
        select(instances.c.study_uid, instances.c.series_uid).where(instances.c.id == instance_id)
    ).one()
    return found.study_uid, found.series_uid


def judge_copy(
    connection: Connection, copy_id: int, *, duplicate: bool, content_sha256: str | None, path: str | None = None
) -> None:
    """Write a copy's verdict; a conflict moves to `path` in the quarantine and holds the series."""
    verdict = "duplicate" if duplicate else "conflict"
    values: dict[str, Any] = {"verdict": verdict, "content_sha256": content_sha256}
    if path is not None:
        values["path"] = path
    connection.execute(update(copies).where(copies.c.id == copy_id).values(**values))
    first = connection.execute(
        select(instances.c.study_uid, instances.c.series_uid)
        .join(copies, copies.c.uid == instances.c.uid)
        .where(copies.c.id == copy_id)
    ).one()
    if duplicate:
        return
    note(connection, "instance.conflict", first.study_uid, series_uid=first.series_uid, code="uid-conflict")
    if first.series_uid:
        hold_series(
            connection, first.series_uid, Refusal(RefusalCode.UID_CONFLICT, "one content per UID", "two contents")
        )


def take_place(connection: Connection, copy_id: int) -> None:
    """The same object in other bytes has come after the first was deleted: it is the object from now on."""
    row = connection.execute(select(copies).where(copies.c.id == copy_id)).mappings().one()
    arrival = select(arrivals.c.calling_ae).where(arrivals.c.id == row["arrival_id"])
    values = {key: row[key] for key in ("path", "bytes_sha256", "arrival_id", "received_at")}
    values["calling_ae"] = connection.execute(arrival).scalar_one()
    connection.execute(copies.delete().where(copies.c.id == copy_id))
    revive(connection, row["uid"], values)


def revive(connection: Connection, uid: str, values: Mapping[str, Any]) -> None:
    """Give the row of a deleted object the file that has come; the timeline says so, once for many."""
    row = connection.execute(select(instances.c.study_uid, instances.c.header).where(instances.c.uid == uid)).one()
    again = {} if row.header is not None and row.header.get("PatientID") else {"content_sha256": None}
    changed = update(instances).where(instances.c.uid == uid)
    connection.execute(changed.values(**values, **again, removed_at=None))
    study_uid = row.study_uid
    if study_uid is None:
        return
    last = select(events.c.name).where(events.c.study_uid == study_uid).order_by(events.c.id.desc()).limit(1)
    if connection.execute(last).scalar() != "study.received-again":
        note(connection, "study.received-again", study_uid)


def _join_study(connection: Connection, study_uid: str, identity: dict[str, Any], of_sender: str | None = None) -> None:
    row = connection.execute(select(studies).where(studies.c.uid == study_uid)).mappings().one_or_none()
    if row is None:
        connection.execute(
            insert(studies).values(
                uid=study_uid,
                public_id=secrets.token_hex(8),
                identity=identity,
                first_seen_at=now(),
                last_activity_at=now(),
                site=sites.of_study(connection, study_uid, of_sender),
            )
        )
        note(connection, "study.seen", study_uid)
        return
    values: dict[str, Any] = {"last_activity_at": now()}
    if not row["identity"] and identity:
        values |= {"identity": identity, "identity_removed_at": None}
    elif identity:
        differing = [k for k in PATIENT_KEYWORDS if row["identity"].get(k) != identity.get(k)]
        if differing and row["held"] is None:
            refusal = Refusal(
                RefusalCode.PATIENT_CONFLICT, "one patient in a study", "differing " + ", ".join(differing)
            )
            values["held"] = refusal.to_json()
            note(connection, "study.held", study_uid, code=refusal.code.value, differing=differing)
    connection.execute(update(studies).where(studies.c.uid == study_uid).values(**values))


def _join_series(connection: Connection, series_uid: str, study_uid: str, *, is_input: bool) -> None:
    row = connection.execute(select(series).where(series.c.uid == series_uid)).mappings().one_or_none()
    if row is None:
        connection.execute(
            insert(series).values(
                uid=series_uid,
                study_uid=study_uid,
                public_id=secrets.token_hex(8),
                last_arrival_at=now(),
                is_open=is_input,
            )
        )
    else:
        connection.execute(
            update(series)
            .where(series.c.uid == series_uid)
            .values(last_arrival_at=now(), is_open=row["is_open"] or is_input)
        )
        if row["study_uid"] != study_uid:
            hold_series(
                connection, series_uid, Refusal(RefusalCode.UID_CONFLICT, "one study per series", "the series in two")
            )
    if is_input:
        connection.execute(update(studies).where(studies.c.uid == study_uid).values(quiet_at=None, quiet_put_at=None))


def hold_series(connection: Connection, series_uid: str, refusal: Refusal) -> None:
    """Hold a series, once; `ai-node held` lists it."""
    row = connection.execute(select(series.c.study_uid, series.c.held).where(series.c.uid == series_uid)).one_or_none()
    if row is None or row.held is not None:
        return
    connection.execute(update(series).where(series.c.uid == series_uid).values(held=refusal.to_json()))
    note(connection, "series.held", row.study_uid, series_uid=series_uid, code=refusal.code.value)
