"""Analyses: photographs that somebody asked about, from the moment they are durable (table `analyses`).

A row is *received* when its photograph is durable and its sender was answered, *submitted* when the node's own door has
taken the object, *failed* when no object could be made of it, *withdrawn* when a person took it back.  What came of it
is read from the runs of its study; its timeline is the study's.  The UIDs stand in the row before the object is sent
anywhere, so whatever asks "is this study private?" finds the answer no later than the study.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from dicom_node.record.database import canonical_json, now
from dicom_node.record.tables import analyses, users

RECEIVED, SUBMITTED, FAILED, WITHDRAWN = "received", "submitted", "failed", "withdrawn"
CONFIRMATIONS = ("fhir", "user")
"""Who said that the patient is this one: the site's FHIR server, looked up and confirmed by a person, or a person."""


_IS_KEPT_FAILURE = and_(analyses.c.state == FAILED, analyses.c.photo_path.is_not(None))

Row = RowMapping | Mapping[str, Any]


class Known(Exception):
    """This user has used this `client_id` before; nothing was inserted."""


@dataclass(frozen=True)
class NewAnalysis:
    """What stands in a new row.

    Attributes
    ----------
    patient
        ``{id, type, system, issuer, name, birth_date, sex, confirmed}``; None without an identity, where `pseudonym`
        stands for it.
    photo_path, photo_sha256
        The upload, relative to the data folder, and the digest of its bytes.
    declared
        ``{"kind": "dermoscopic" | "plain" | "", "claimed": media type or ""}``: what the sender says of the picture.
    """

    user_id: int
    site: str
    photo_path: str
    photo_sha256: str
    declared: Mapping[str, str]
    patient: Mapping[str, str] | None = None
    pseudonym: str | None = None
    order_id: str | None = None
    body_site: str | None = None
    laterality: str | None = None
    description: str = ""
    consent: str = "not-recorded"
    impression: str = ""
    client_id: str | None = None
    replaces_id: int | None = None

    def is_told_by(self, row: RowMapping) -> bool:
        """Whether a row says the same, but for what the node made up itself."""
        mine = {key: value for key, value in asdict(self).items() if key not in ("pseudonym", "photo_path")}
        told = {key: row[key] for key in mine}
        # what the server said of the patient may have changed between two sendings of one upload
        for one in (mine, told):
            one["patient"] = None if one["patient"] is None else (one["patient"]["type"], one["patient"]["id"])
        return mine == told


def add(connection: Connection, new: NewAnalysis) -> RowMapping:
    """Insert an analysis; its row.

    Raises
    ------
    Known
        See `of_client`.
    """
    values = {
        **asdict(new),
        "public_id": secrets.token_hex(16),
        "state": RECEIVED,
        "is_identified": new.patient is not None,
        "created_at": now(),
    }
    try:
        number = connection.execute(insert(analyses).values(**values).returning(analyses.c.id)).scalar_one()
    except IntegrityError as error:
        raise Known from error
    return by_id(connection, int(number))


def by_id(connection: Connection, number: int) -> RowMapping:
    """One analysis by its internal number."""
    return connection.execute(select(analyses).where(analyses.c.id == number)).mappings().one()


def by_public_id(connection: Connection, public_id: str) -> RowMapping | None:
    """One analysis by the id that its user was given; who may see it is the caller's to ask."""
    return connection.execute(select(analyses).where(analyses.c.public_id == public_id)).mappings().first()


def of_client(connection: Connection, user_id: int, client_id: str) -> RowMapping | None:
    """What a user's device has sent under its own name of the upload before."""
    query = select(analyses).where(analyses.c.user_id == user_id, analyses.c.client_id == client_id)
    return connection.execute(query).mappings().first()


def of_study(connection: Connection, study_uid: str) -> RowMapping | None:
    """The analysis whose photograph is this study; None for studies that came another way."""
    query = select(analyses).where(analyses.c.study_uid == study_uid).order_by(analyses.c.id).limit(1)
    return connection.execute(query).mappings().first()


def of_user(connection: Connection, user_id: int, *, since: str = "", until: str = "", limit: int = 100) -> list[Any]:
    """A user's analyses, the newest first; `since` and `until` (excluded) as the record writes times."""
    return _newest(connection, analyses.c.user_id == user_id, since, until, limit)


def of_sites(
    connection: Connection, sites: Collection[str], *, since: str = "", until: str = "", limit: int = 100
) -> list[Any]:
    """The analyses of some sites, the newest first."""
    return _newest(connection, analyses.c.site.in_(list(sites)), since, until, limit)


def _newest(connection: Connection, whose: Any, since: str, until: str, limit: int) -> list[Any]:
    query = select(analyses).where(whose)
    if since:
        query = query.where(analyses.c.created_at >= since)
    if until:
        query = query.where(analyses.c.created_at < until)
    return list(connection.execute(query.order_by(analyses.c.id.desc()).limit(limit)).mappings())


def waiting(connection: Connection, user_id: int | None = None) -> int:
    """How many analyses the road does not have yet, of one user or of all."""
    query = select(func.count()).select_from(analyses).where(analyses.c.state == RECEIVED)
    if user_id is not None:
        query = query.where(analyses.c.user_id == user_id)
    return int(connection.execute(query).scalar_one())


def unsubmitted(connection: Connection) -> list[RowMapping]:
    """Those that the reconciler must see to: received, or taken back while their object was on its way."""
    query = select(analyses).where(analyses.c.state.in_((RECEIVED, WITHDRAWN))).order_by(analyses.c.id)
    return [
        row
        for row in connection.execute(query).mappings()
        if row["state"] == RECEIVED or (row["study_uid"] is not None and row["submitted_at"] is None)
    ]


def stranded(connection: Connection) -> list[RowMapping]:
    """Those that the road does not have, the failed ones first: an operator's question."""
    query = select(analyses).where(or_(analyses.c.state == RECEIVED, _IS_KEPT_FAILURE))
    return list(connection.execute(query.order_by(analyses.c.state, analyses.c.id)).mappings())


def photos_in_use(connection: Connection) -> set[str]:
    """Digests of the uploads that rows still need: the object in the vault is not there yet, or never will be."""
    query = select(analyses.c.photo_sha256).where(analyses.c.photo_path.is_not(None))
    return {str(sha256) for sha256 in connection.execute(query).scalars()}


# -- moves: each says whether it was this call that made it


def set_place(connection: Connection, number: int, study_uid: str, series_uid: str, sop_instance_uid: str) -> bool:
    """Write under which UIDs the photograph will be known, before anything of it is sent."""
    values = {"study_uid": study_uid, "series_uid": series_uid, "sop_instance_uid": sop_instance_uid}
    return _move(connection, number, (RECEIVED,), **values)


def set_submitted(connection: Connection, number: int) -> bool:
    """The node's own door has acknowledged the object: the upload is no longer needed."""
    return _move(connection, number, (RECEIVED,), state=SUBMITTED, submitted_at=now(), photo_path=None)


def set_failed(connection: Connection, number: int, told: Mapping[str, Any]) -> bool:
    """No object can be made of it (``{"refusal": …}``), or the node made a fault of it (``{"reason": …}``).

    A refused upload is needed no more; the other is kept until somebody tries it again or takes it back.
    """
    gone = {"photo_path": None} if "refusal" in told else {}
    return _move(connection, number, (RECEIVED,), state=FAILED, error=canonical_json(told), **gone)


def set_received(connection: Connection, number: int) -> bool:
    """One that failed with its upload kept is to be tried again."""
    again = update(analyses).where(analyses.c.id == number, _IS_KEPT_FAILURE).values(state=RECEIVED, error=None)
    return bool(connection.execute(again).rowcount)


def told_error(row: Row) -> dict[str, Any]:
    """What `set_failed` was told; empty for one that did not fail."""
    return dict(json.loads(row["error"])) if row["error"] else {}


def set_withdrawn(connection: Connection, number: int, reason: str) -> bool:
    """A person has taken it back: nobody needs its upload any more.

    Until `set_settled` its `submitted_at` is empty, and the reconciler sees to it.
    """
    values = {"state": WITHDRAWN, "withdrawn_at": now(), "withdrawn_reason": reason}
    return _move(connection, number, (RECEIVED, SUBMITTED, FAILED), **values, photo_path=None, submitted_at=None)


def set_settled(connection: Connection, number: int) -> bool:
    """Of one that was withdrawn: whatever had become of its object is taken back too."""
    return _move(connection, number, (WITHDRAWN,), submitted_at=now())


def note_moment(connection: Connection, number: int, column: str) -> bool:
    """Write `revealed_at` or `result_seen_at`, the first time."""
    moment = analyses.c[column]
    changed = update(analyses).where(analyses.c.id == number, moment.is_(None)).values({column: now()})
    return bool(connection.execute(changed).rowcount)


def _move(connection: Connection, number: int, states: Sequence[str], **values: Any) -> bool:
    change = update(analyses).where(analyses.c.id == number, analyses.c.state.in_(states)).values(**values)
    return bool(connection.execute(change).rowcount)


# -- what the road asks


def private_reason(connection: Connection, study_uid: str) -> str | None:
    """Why a study stays inside the node, as a code of `routing.gate`; None for one that may leave it."""
    row = of_study(connection, study_uid)
    if row is None:
        return None
    if row["state"] == WITHDRAWN:
        return "taken-back"
    if row["patient"] is None or not row["is_identified"]:
        return "private-study"
    return None if row["patient"].get("confirmed") in CONFIRMATIONS else "identity-unconfirmed"


def stays_here(connection: Connection, study_uid: str) -> bool:
    """Whether the original itself goes to no archive: private, or taken back before it had gone there."""
    return private_reason(connection, study_uid) is not None


def issuer_system(connection: Connection, study_uid: str) -> dict[str, str]:
    """Issuer of Patient ID -> FHIR identifier system, as the site's type of identifier has them; may be empty."""
    row = of_study(connection, study_uid)
    told = {} if row is None or row["patient"] is None else row["patient"]
    return {told["issuer"]: told["system"]} if told.get("system") else {}


def is_announced(connection: Connection, sop_instance_uid: str) -> bool:
    """Whether an object is one that an analysis has been written down for."""
    query = select(analyses.c.id).where(analyses.c.sop_instance_uid == sop_instance_uid)
    return connection.execute(query.limit(1)).first() is not None


def submitter_of(connection: Connection, study_uid: str) -> str | None:
    """Whose turn a photograph takes in the queues: its user's, so that no doctor waits behind another one's hundred."""
    query = select(users.c.public_id).join(analyses, analyses.c.user_id == users.c.id)
    found = connection.execute(query.where(analyses.c.study_uid == study_uid).limit(1)).scalar()
    return None if found is None else f"user:{found}"
