"""What keeps a run's results back from an archive or from FHIR, asked once for both (standards 7.1 and 7.6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicom_node.routing.gate import PublicationHold, publication_gate
from dicom_node.stages.context import Tools
from dicom_node.words import SeriesFacts


def holds(tools: Tools, attributes: Mapping[str, Any], study_uid: str) -> list[PublicationHold]:
    """Every reason not to publish results of the series with these attributes.

    The issuer that the sender has by configuration, or the site's default, stands in for one that the images lack.
    """
    has_default = "" in tools.settings.report.issuers
    issuer = default_issuer(tools, attributes) or ("the site's default" if has_default else None)
    return publication_gate(SeriesFacts("", study_uid, attributes), default_issuer=issuer)


def default_issuer(tools: Tools, attributes: Mapping[str, Any]) -> str | None:
    """Issuer of Patient ID that the sender of these images has by configuration."""
    sender = tools.settings.sender(str(attributes.get("CallingAETitle") or ""))
    return None if sender is None else sender.issuer_of_patient_id
