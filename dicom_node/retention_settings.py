"""Settings of retention: for how many days the node keeps what."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dicom_node.destination_settings import Section
from dicom_node.retention import Kind

_Days = Annotated[float, Field(ge=1, le=36500)]


class RetentionSection(Section):
    """How long the node keeps what, counted from the last thing that happened to a study; not set: for ever.

    The audit log, the timeline, UIDs, digests and the record of each deletion always stay.
    """

    images_days: _Days | None = None
    """Received images of patients; the archive keeps its own."""
    private_days: _Days | None = None
    """Photographs without identity and what was read from them: they exist nowhere else."""
    results_days: _Days | None = None
    """Findings, masks, result objects and pages, and the node's own FHIR resources."""
    identity_days: _Days | None = None
    """Who the patient was; only once images and results of the study are gone."""
    keep_unanswered: bool = True
    """An analysis stays until a specialist has answered or closed its case."""
    studies_per_round: int = Field(20, ge=1, le=1000)
    """A round begins every ten minutes and ends when the road has work."""

    def days(self, kind: Kind) -> float | None:
        """For how many days a class is kept; None: for ever."""
        return {
            Kind.IMAGES: self.images_days,
            Kind.PRIVATE: self.private_days,
            Kind.RESULTS: self.results_days,
            Kind.IDENTITY: self.identity_days,
        }[kind]
