"""What comes in about an analysis, and what its answers look like, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from dicom_node.desks.analysis_asked import MAX_TEXT, Asked
from dicom_node.desks.analysis_patients import PatientSaid
from dicom_node.permissions import Person
from portal.api.photo_body import ImageBody
from portal.api.photo_schemas import Share
from portal.api.schemas import RefusalBody

_Words = Annotated[str, StringConstraints(max_length=MAX_TEXT)]


class AnalysisPatient(BaseModel):
    """Whose photograph it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(min_length=1, max_length=64, description="As typed or scanned; its check digit is verified.")
    type: str = Field(min_length=1, max_length=64, description="Key of a type of identifier of the site.")
    name: str = Field("", max_length=64, description="family^given; what the site's server said goes before it.")
    birth_date: str = Field("", pattern=r"^(\d{4}-\d{2}-\d{2})?$", description="YYYY-MM-DD.")
    sex: Literal["", "M", "F", "O"] = ""
    confirmed: bool = Field(False, description="A person has seen who this is and said yes; else nothing leaves.")

    def said(self) -> PatientSaid:
        born = self.birth_date.replace("-", "")
        return PatientSaid(self.id, self.type, self.name, born, self.sex, self.confirmed)


class AnalysisFacts(BaseModel):
    """What is known about a photograph and its patient."""

    model_config = ConfigDict(extra="forbid", strict=True)

    site: str = Field("", max_length=64, description="Key of one of the caller's sites; empty: the only one.")
    patient: AnalysisPatient | None = Field(None, description="Without: no identity; the study stays in the node.")
    order: str = Field("", max_length=16, description="Accession number of the order.")
    bodySite: str = Field("", max_length=64, description="Name of a body site, such as back or forearm-anterior.")
    laterality: Literal["", "L", "R", "B", "U"] = ""
    description: _Words = ""
    kind: Literal["", "dermoscopic", "plain"] = Field("", description="How the picture was taken.")
    consent: Literal["care", "care-and-improvement", "not-recorded"] = "not-recorded"
    impression: Literal["", "benign", "unsure", "suspicious"] = Field("", description="The doctor's own, before.")

    def asked(self, who: Person) -> Asked:
        """What the desk is asked, but for the photograph."""
        return Asked(
            who,
            site=self.site,
            patient=None if self.patient is None else self.patient.said(),
            order=self.order,
            body_site=self.bodySite,
            laterality=self.laterality,
            description=self.description,
            declared=self.kind,
            consent=self.consent,
            impression=self.impression,
        )


class AnalysisBody(ImageBody, AnalysisFacts):
    """A photograph and what is known about it, as JSON."""


class Reason(BaseModel):
    """Why an analysis is taken back."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: _Words = Field(min_length=1)


class RedoBody(Reason):
    """Why an analysis is taken back, and what is said about its photograph now: all of it, as at first."""

    analysis: AnalysisFacts


class LookUpBody(BaseModel):
    """Whom somebody asks about."""

    model_config = ConfigDict(extra="forbid", strict=True)

    site: str = Field(max_length=64, description="Key of one of the caller's sites.")
    type: str = Field(max_length=64, description="Key of a type of identifier of the site.")
    id: str = Field(max_length=64, description="As typed or scanned; its check digit is verified.")


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Number(_Open):
    """One number of the model."""

    name: str
    probability: Share | None
    score: float | None = Field(description="Of a model without calibration: no probability.")
    threshold: Share | None
    score_threshold: float | None
    at_or_above_threshold: bool
    text: str = Field(description="In the language of the answer.")


class AnalysisAnswer(_Open):
    """One analysis.  Numbers are null unless `state` is completed."""

    id: str
    state: Literal["waiting", "completed", "refused", "failed", "held", "withdrawn"]
    message: str
    created_at: str
    analysed_at: str | None
    site: str
    private: bool = Field(description="It stays in the node: no identity, or one that nobody confirmed.")
    patient: dict[str, str] | None
    pseudonym: str | None
    order: str
    bodySite: str
    laterality: str
    description: str
    kind: str
    consent: str
    impression: str
    malignant: Number | None
    melanoma: Number | None
    meaning: str | None
    contradicted: bool = Field(description="Impression and result point apart: somebody else should look.")
    disclaimer: str
    limits: list[str]
    model: str | None
    quality: dict[str, Any] | None
    refusal: RefusalBody | None
    error: str | None
    withdrawn: dict[str, str] | None
    removed: dict[str, str] | None = Field(
        None, description="What was deleted by the rules of retention, and when: photo, result, identity."
    )
    replaces: str | None
    links: dict[str, str | None]


class AnalysisList(_Open):
    """Analyses, the newest first."""

    analyses: list[AnalysisAnswer]


class LookedUpAnswer(_Open):
    """Who has an identifier."""

    state: Literal["found", "not-found", "several", "away", "not-configured"]
    id: str
    name: str
    birth_date: str
    sex: str


TEXT_FIELDS = frozenset(AnalysisFacts.model_fields)
_FILE = {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP."}


def _texts() -> dict[str, Any]:
    """The fields of the form: those of the JSON body, as text."""
    properties = AnalysisFacts.model_json_schema()["properties"]
    texts = {
        name: {key: told[key] for key in ("description", "maxLength", "enum") if key in told} | {"type": "string"}
        for name, told in properties.items()
        if name != "patient"
    }
    texts["patient"] = {"type": "string", "maxLength": 1000, "description": 'JSON: {"id": "…", "type": "…", …}'}
    return texts


def flat(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a body without references, which a request body has no place for."""
    schema = model.model_json_schema()
    known = schema.pop("$defs", {})

    def plain(told: Any) -> Any:
        if isinstance(told, dict):
            if "$ref" in told:
                return plain(known[told["$ref"].rsplit("/", 1)[-1]])
            return {key: plain(value) for key, value in told.items()}
        return [plain(one) for one in told] if isinstance(told, list) else told

    return dict(plain(schema))


ANALYSIS_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": _FILE, "file": _FILE, **_texts()},
                "additionalProperties": False,
                "oneOf": [{"required": ["image"]}, {"required": ["file"]}],
            },
            "encoding": {name: {"contentType": "image/jpeg, image/png, image/webp"} for name in ("image", "file")},
        },
        "application/json": {"schema": flat(AnalysisBody)},
    },
}
