"""May this person see this study?  The object's side of a permission, asked in the query that fetches the object.

A clinician sees the studies that she asked about; a specialist those of her sites besides.  Who may not see a study is
told what is told of one that does not exist.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, exists, false, or_, select

from dicom_node.permissions import Person
from dicom_node.record.tables import analyses, predictions, studies

VIEW, SITE = "viewer:read", "analysis:site"


def seen_by(person: Person) -> ColumnElement[bool]:
    """The condition on `studies` that a person may see a row; for a ``where``."""
    if not person.may(VIEW):
        return false()
    asked = exists().where(analyses.c.study_uid == studies.c.uid, analyses.c.user_id == person.user_id)
    sent = exists().where(predictions.c.study_uid == studies.c.uid, predictions.c.owner == person.prefix)
    mine = or_(asked, sent)
    return or_(mine, studies.c.site.in_(person.sites)) if person.may(SITE) else mine


def sees_study(connection: Connection, person: Person, study_uid: str) -> bool:
    """Whether there is such a study that this person may see."""
    wanted = select(studies.c.uid).where(studies.c.uid == study_uid, seen_by(person))
    return connection.execute(wanted).first() is not None
