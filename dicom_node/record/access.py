"""May this person see this study?  The object's side of a permission, asked in the query that fetches the object.

A clinician sees the studies that she asked about; a specialist those of her sites besides.  Who may not see a study is
told what is told of one that does not exist.  What somebody sent herself opens nothing: a file names whatever study its
maker writes into it.  Only what she picked in the archive, where the search that found it was audited, counts as asked.
The archive knows no sites: what she may pick there is of her sites by the node's own record, or by what the settings
say of the institution that its images name, or because there never was another site.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import ColumnElement, Connection, exists, false, literal, or_, select

from dicom_node.permissions import Person
from dicom_node.record.sites import all_sites
from dicom_node.record.tables import analyses, predictions, studies

VIEW, SITE = "viewer:read", "analysis:site"


def seen_by(person: Person) -> ColumnElement[bool]:
    """The condition on `studies` that a person may see a row; for a ``where``."""
    if not person.may(VIEW):
        return false()
    asked = exists().where(analyses.c.study_uid == studies.c.uid, analyses.c.user_id == person.user_id)
    mine = or_(asked, _picked(person, studies.c.uid))
    return or_(mine, studies.c.site.in_(person.sites)) if person.may(SITE) else mine


def sees_study(connection: Connection, person: Person, study_uid: str) -> bool:
    """Whether there is such a study, here or in the archive, that this person may see."""
    if not person.may(VIEW):
        return False
    here = exists().where(studies.c.uid == study_uid, seen_by(person))
    return bool(connection.execute(select(or_(here, _picked(person, literal(study_uid))))).scalar())


def study_seen(connection: Connection, person: Person, public_id: str) -> str | None:
    """UID of the study with this opaque id, if the person may see it."""
    wanted = select(studies.c.uid).where(studies.c.public_id == public_id, seen_by(person))
    return connection.execute(wanted).scalar()


def pickable(connection: Connection, person: Person, said: Mapping[str, str | None]) -> frozenset[str]:
    """Of studies that an archive lists, those that a person may pick there.

    Parameters
    ----------
    said
        Study Instance UID -> the site that the institution named in its images stands for; None: none known.
    """
    recorded = select(studies.c.uid, studies.c.site).where(studies.c.uid.in_(said))
    known = {row.uid: row.site for row in connection.execute(recorded)}
    every = all_sites(connection)  # closed ones, too: what they left in the archive is not their neighbour's
    only = every[0].key if len(every) == 1 else None
    return frozenset(uid for uid, site in said.items() if (known.get(uid) or site or only) in person.sites)


def _picked(person: Person, study_uid: ColumnElement[str]) -> ColumnElement[bool]:
    """She picked this study in the archive, and asked a model about it."""
    return exists().where(
        predictions.c.study_uid == study_uid,
        predictions.c.owner == person.prefix,
        predictions.c.options["source"].as_string() == "archive",
    )
