"""The bodies of the route for photographs as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from portal.api.photo_body import PhotoBody
from portal.api.schemas import RefusalBody


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Share(_Open):
    """One probability or threshold, twice: nobody has to guess whether 0.9 means 90 %."""

    percent: float = Field(ge=0, le=100)
    fraction: float = Field(ge=0, le=1)


class Category(_Open):
    """On which side of the operating threshold the estimate lies."""

    code: str
    at_or_above_threshold: bool
    text: str = Field(description="In the language of the answer.")


class Output(_Open):
    """One output of the model."""

    key: str
    name: str
    probability: Share | None
    score: float | None = Field(description="Of a model without calibration: no probability.")
    threshold: Share | None
    score_threshold: float | None
    category: Category | None


class Quality(_Open):
    """Whether the picture was good enough to be answered, and if not what to do."""

    accepted: bool
    message: str
    code: str | None = None
    advice: str | None = None
    kind: str | None = Field(None, description="What the picture was taken for.")
    measures: dict[str, Any] = Field(default_factory=dict)


class ReportIdentifier(_Open):
    """FHIR Identifier."""

    system: str
    value: str


class ReportReference(_Open):
    """A FHIR R4 DiagnosticReport."""

    reference: str = Field(description="Id below /fhir once the report is published.")
    identifier: ReportIdentifier
    status: str
    url: str | None = Field(description="A transaction Bundle with the report, for the caller's own server.")


class PhotoAnswer(_Open):
    """One request about a photograph.  All numbers are null unless `status` is completed."""

    success: bool
    status: Literal["waiting", "running", "completed", "failed", "refused", "cancelled"]
    message: str
    language: Literal["en", "es"]
    model: str = Field(description="name@version")
    id: str
    elapsed_time: float = Field(ge=0, description="Seconds of work, without waiting.")
    probability: Share | None = Field(description="Of the output that decides.")
    score: float | None
    threshold: Share | None
    category: Category | None
    meaning: str | None
    disclaimer: str
    outputs: list[Output]
    quality: Quality | None
    heat_map: str | None = Field(description="Path of a PNG.")
    pdf: str | None = Field(description="Path of the page.")
    diagnostic_report: ReportReference | None = Field(description="Null without a patient.")
    callback: dict[str, Any] | None
    warnings: list[str]
    links: dict[str, Any]
    refusal: RefusalBody | None = None


_FILE = {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP."}


def _texts() -> dict[str, Any]:
    """The fields of the form: those of the JSON body, as text."""
    properties = PhotoBody.model_json_schema()["properties"]
    texts = {
        name: {key: told[key] for key in ("description", "maxLength", "enum") if key in told} | {"type": "string"}
        for name, told in properties.items()
        if name not in ("image", "patient", "wait")
    }
    texts["patient"] = {"type": "string", "maxLength": 1000, "description": 'JSON: {"id": "…", "system": "…"}'}
    texts["wait"] = {"type": "string", "enum": ["", "true", "false"]}
    return texts


def _json_body() -> dict[str, Any]:
    """The schema of the JSON body without references, which a request body has no place for."""
    schema = PhotoBody.model_json_schema()
    patient = schema.pop("$defs")["PatientBody"]
    schema["properties"]["patient"] = {"anyOf": [patient, {"type": "null"}]}
    return schema


PHOTO_BODY: dict[str, Any] = {
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
        "application/json": {"schema": _json_body()},
    },
}
