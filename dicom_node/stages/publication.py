"""What keeps a run's results back from an archive or from FHIR, asked once for both (standards 7.1 and 7.6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicom_node.record import analyses
from dicom_node.routing.gate import HOLDS, PublicationHold, publication_gate
from dicom_node.stages.context import Tools
from dicom_node.words import SeriesFacts


def holds(tools: Tools, attributes: Mapping[str, Any], study_uid: str) -> list[PublicationHold]:
    """Every reason not to publish results of the series with these attributes.

    A photograph that was sent without a confirmed identity is private to the node, whatever its route says.  The issuer
    that the sender has by configuration, or the site's default, stands in for one that the images lack.
    """
    has_default = "" in tools.settings.report.issuers
    issuer = default_issuer(tools, attributes) or ("the site's default" if has_default else None)
    found = publication_gate(SeriesFacts("", study_uid, attributes), default_issuer=issuer)
    with tools.database.read() as connection:
        code = analyses.private_reason(connection, study_uid)
    return found if code is None else [PublicationHold(code, *HOLDS[code]), *found]


def default_issuer(tools: Tools, attributes: Mapping[str, Any]) -> str | None:
    """Issuer of Patient ID that the sender of these images has by configuration."""
    sender = tools.settings.sender(str(attributes.get("CallingAETitle") or ""))
    return None if sender is None else sender.issuer_of_patient_id
