"""One question to the site's FHIR server: who has this identifier?  Answered truthfully, also when nobody knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import structlog

from dicom_node.refusals import PeerTrouble, Refused
from dicom_node.settings import FhirDestination, Settings
from dicom_node.tls import Identity, TlsRefused, client_context
from fhir_bridge.patients import Patients, State

log = structlog.get_logger()

TIMEOUT_S = 5.0
"""A doctor stands before a patient: after this she goes on without the server."""


@dataclass(frozen=True)
class LookedUp:
    """What is known about an identifier.

    Attributes
    ----------
    state
        *found*: exactly one patient; *not-found*: none; *several*: more than one, so none is chosen; *away*: the server
        did not answer; *not-configured*: there is no server to ask.
    id
        The identifier in the one way in which it is written.
    name, birth_date, sex
        As DICOM writes them: family^given; YYYYMMDD; M, F, O.  Empty where the server does not say.
    """

    state: State | Literal["away", "not-configured"]
    id: str
    name: str = ""
    birth_date: str = ""
    sex: str = ""


def patient_server(settings: Settings) -> FhirDestination | None:
    """The FHIR destination that is asked about patients: the one that the settings name, else the only one there is."""
    servers = {name: one for name, one in settings.destinations.items() if isinstance(one, FhirDestination)}
    if settings.photos.patients_from:
        return servers[settings.photos.patients_from]
    return next(iter(servers.values())) if len(servers) == 1 else None


def look_up(server: FhirDestination | None, system: str, identifier: str, shown: Identity | None = None) -> LookedUp:
    """Who has this identifier.

    Parameters
    ----------
    system
        URI of the system that the identifier is from; without one nobody is asked.
    identifier
        As `normalised` writes it.
    shown
        Whose certificate the server is shown when it asks for one.
    """
    if server is None or not system:
        return LookedUp("not-configured", identifier)
    try:
        with Patients(
            server.url,
            token_file=server.token_file,
            insecure_ok_because=server.insecure_ok_because,
            timeout_s=min(server.timeout_s, TIMEOUT_S),
            context=client_context(server.ca_file, shown),
        ) as patients:
            state, found = patients.find(system, identifier)
    except (PeerTrouble, Refused, TlsRefused) as trouble:
        code = trouble.refusal.code.value if isinstance(trouble, Refused) else "no-answer"
        log.warning("identity.server-away", code=code)
        return LookedUp("away", identifier)
    if found is None:
        return LookedUp(state, identifier)
    return LookedUp(state, identifier, found.name, found.birth_date, found.sex)
