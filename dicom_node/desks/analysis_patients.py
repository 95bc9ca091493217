"""Whose photograph an analysis is: what was typed or scanned, what the site's server knows, and who confirmed it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from dicom_node.identity import LookedUp, look_up, normalised, patient_server
from dicom_node.permissions import Person
from dicom_node.record import Database, audit, sites
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.routing.gate import is_placeholder
from dicom_node.settings import Settings
from dicom_node.stages.prediction_facts import issuer_of

_REMEMBERED_S = 3600.0
_MAX_REMEMBERED = 2000


@dataclass(frozen=True)
class PatientSaid:
    """Whom somebody says it is.

    Attributes
    ----------
    id
        As it was typed or scanned.
    type
        Key of one of the site's types of identifier.
    name, birth_date, sex
        As DICOM writes them; empty where nobody says.  What the server said goes before it.
    confirmed
        A person has looked at who this is, and said yes.  Without it nothing of the photograph leaves the node.
    """

    id: str
    type: str
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    confirmed: bool = False


class Patients:
    """Looks patients up, and remembers for an hour whom the server showed to whom."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._shown: dict[tuple[int, str, str], tuple[float, LookedUp]] = {}
        self._lock = threading.Lock()

    def look_up(self, who: Person, site_key: str, kind: str, identifier: str) -> LookedUp:
        """Who has this identifier, of a type of one of her sites.

        Raises
        ------
        Refused
            ``validation``, ``patient-unidentified``.
        """
        with self._database.read() as connection:
            site = sites.site_of(connection, site_key) if site_key in who.sites else None
        if site is None:
            raise Refused(RefusalCode.VALIDATION, f"site: one of {', '.join(who.sites)}", "another")
        chosen = _type_of(site, kind)
        server = patient_server(self._settings)
        shown = None if server is None else self._settings.shown(server)
        found = look_up(server, chosen["system"], normalised(identifier, chosen["check"]), shown)
        with self._database.write() as connection:
            audit.append(connection, who.actor, "patient-looked-up", None, site=site.key, type=kind, found=found.state)
        if found.state == "found":
            with self._lock:
                self._shown[(who.user_id, chosen["system"], found.id)] = (time.monotonic(), found)
                while len(self._shown) > _MAX_REMEMBERED:
                    del self._shown[next(iter(self._shown))]
        return found

    def confirmed(self, who: Person, site: sites.Site, said: PatientSaid) -> Mapping[str, str]:
        """The patient as an analysis keeps him: in the server's words where the server showed him to this person.

        Raises
        ------
        Refused
            ``validation``, ``patient-unidentified``.
        """
        chosen = _type_of(site, said.type)
        identifier = normalised(said.id, chosen["check"])
        if is_placeholder(identifier):
            raise Refused(RefusalCode.PATIENT_UNIDENTIFIED, "an identifier of one person", "one that stands for nobody")
        with self._lock:
            at, shown = self._shown.get((who.user_id, chosen["system"], identifier), (0.0, None))
        if shown is not None and time.monotonic() - at > _REMEMBERED_S:
            shown = None
        source = said if shown is None else shown
        return {
            "id": identifier,
            "type": said.type,
            "system": chosen["system"],
            "issuer": self._issuer(chosen),
            "name": source.name.strip() or said.name.strip(),
            "birth_date": source.birth_date or said.birth_date,
            "sex": source.sex or said.sex,
            "confirmed": "" if not said.confirmed else ("user" if shown is None else "fhir"),
        }

    def _issuer(self, chosen: Mapping[str, str]) -> str:
        if chosen["issuer"]:
            return chosen["issuer"]
        return issuer_of(chosen["system"], self._settings.report.issuers) if chosen["system"] else ""


def _type_of(site: sites.Site, key: str) -> Mapping[str, str]:
    found = next((one for one in site.identifier_types if one["key"] == key), None)
    if found is None:
        known = ", ".join(one["key"] for one in site.identifier_types) or "none: the site names no patients"
        raise Refused(RefusalCode.VALIDATION, f"a type of identifier of the site: {known}", "another")
    return found
