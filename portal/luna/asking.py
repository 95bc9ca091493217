"""From what a LUNA client says to what the desk for analyses is asked; by HTTP and by message alike."""

from __future__ import annotations

from dicom_node.desks.analyses import Analyses, Asked, PatientSaid
from dicom_node.permissions import Person
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.spool import Upload
from portal.luna.bodies import ImageProcess


def asked_of(
    desk: Analyses, who: Person, said: ImageProcess, upload: Upload, claimed: str, client_id: str | None
) -> Asked:
    """What somebody asks of the desk.

    Raises
    ------
    Refused
        ``validation``; ``patient-not-found`` and ``patient-ambiguous`` where the site's FHIR server knows better.
    """
    return Asked(
        who=who,
        upload=upload,
        claimed=claimed,
        site=_site(who),
        patient=_patient(desk, who, said),
        order=said.orderId or "",
        body_site=said.bodySite or "",
        description=said.description or "",
        client_id=client_id,
    )


def _site(who: Person) -> str:
    """LUNA knows no sites: the first of those she works for."""
    return who.sites[0] if who.sites else ""


def _patient(desk: Analyses, who: Person, said: ImageProcess) -> PatientSaid | None:
    """Whose lesion it is; None without an identity.

    LUNA has no page on which somebody confirms who this is.  Where a FHIR server is set it is asked: the one patient
    that it knows is taken with what it says of her, none or several are refused, and while it does not answer the
    identity is unconfirmed, so nothing is published.  Where there is none, a number that nobody has compared with a
    person is no confirmed identity either, unless the site says that its clients' users do (`luna.client_confirms`):
    a person confirms it on the portal's page of the analysis.
    """
    if not said.patientId:
        if said.patientIdType:
            raise Refused(RefusalCode.VALIDATION, "patientId with patientIdType", "the type alone")
        return None
    kind = said.patientIdType or _only_type(desk, who)
    found = desk.look_up(who, _site(who), kind, said.patientId)
    if found.state == "not-found":
        raise Refused(RefusalCode.PATIENT_NOT_FOUND, "an identifier that the site's FHIR server knows", "another")
    if found.state == "several":
        raise Refused(RefusalCode.PATIENT_AMBIGUOUS, "an identifier of one patient", "one of several")
    if found.state == "found":
        return PatientSaid(found.id, kind, found.name, found.birth_date, found.sex, confirmed=True)
    return PatientSaid(said.patientId, kind, confirmed=desk.clients_confirm and found.state == "not-configured")


def _only_type(desk: Analyses, who: Person) -> str:
    types = [
        str(one["key"]) for site in desk.sites_of(who) if site["key"] == _site(who) for one in site["identifier_types"]
    ]
    if len(types) != 1:
        raise Refused(RefusalCode.VALIDATION, f"patientIdType: one of {', '.join(types) or 'none is set up'}", "none")
    return types[0]
