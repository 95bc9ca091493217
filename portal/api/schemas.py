"""The bodies of the prediction API as its OpenAPI document describes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dicom_node.desks.predictions import MAX_BATCH


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class ClassDetail(_Open):
    """One class of the segmentation; 0 is the background."""

    nombre: str
    sigla: str
    color: str = Field(description="#rrggbb")
    descripcion: str
    pixeles: int = Field(ge=0, description="Voxels of the input's own grid; all classes together are all voxels.")
    porcentaje: float = Field(ge=0, le=100)


class ModelInfo(_Open):
    """About the model and what it gave back."""

    output_shape: list[int] | None = Field(
        description="Of the mask: i, j, k of a NIfTI input; slices, rows, columns of DICOM."
    )
    num_classes: int | None = Field(description="Background included.")
    total_params: int | None


class RefusalBody(_Open):
    """Why the input was refused: fixed words, and what was expected and found."""

    code: str
    message: str
    expected: str
    found: str
    advice: str


class Answer(_Open):
    """One request: how far it is, and what came of it."""

    success: bool
    status: Literal["waiting", "running", "completed", "failed", "refused", "cancelled"]
    message: str
    model: str = Field(description="name@version")
    device: str | None
    elapsed_time: float = Field(ge=0, description="Seconds of work, without waiting.")
    waiting_time: float | None = Field(ge=0, description="Seconds without work until its end; null until then.")
    unique_classes: list[int]
    num_classes_detected: int
    class_details: dict[str, ClassDetail]
    model_info: ModelInfo
    segmentation_path: str | None
    segmentation_file: str | None
    output_path: str | None = Field(description="URL of the mask, or null.")
    id: str
    warnings: list[str]
    links: dict[str, Any]
    refusal: RefusalBody | None = None


class BatchAnswer(_Open):
    """One entry per file of a batch, in input order."""

    success: bool = Field(description="Whether every file was segmented.")
    status: Literal["waiting", "completed"]
    message: str
    batch: str
    total: int
    completed: int
    results: list[Answer]


class InstalledModel(_Open):
    """One model package."""

    name: str
    version: str
    usable: bool


class Models(_Open):
    """What is installed."""

    models: list[InstalledModel]
    aliases: dict[str, str]


class Health(_Open):
    """Whether the node takes work."""

    status: Literal["ok", "not-ready"]
    version: str
    waiting: int = Field(description="Unfinished requests of all callers.")
    checks: list[dict[str, Any]]


class Problem(_Open):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None


_FILE = {"type": "string", "format": "binary"}
_ROLES = ("t1", "t1c", "t1ce", "t1gd", "t2", "flair")
FILE_FIELDS = frozenset({"image", "files", *_ROLES})
BATCH_FILE_FIELDS = frozenset({"images"})
TEXT_FIELDS = frozenset({"role", "wait", "priority", "transfer", "spacing_mm", "output_dir", "source_path"})
ROLE_FIELDS = frozenset(_ROLES)

_TEXTS: dict[str, Any] = {
    "role": {"type": "string", "enum": ["", *_ROLES], "description": "The role of a lone file."},
    "wait": {"type": "string", "enum": ["", "true", "false"], "description": "false: answer 202 at once."},
    "priority": {"type": "string", "enum": ["", "routine", "stat"]},
    "transfer": {"type": "string", "maxLength": 200, "description": "Configured destinations, separated by commas."},
    "spacing_mm": {"type": "string", "maxLength": 60, "description": "x,y,z for NIfTI that does not state its units."},
    "output_dir": {"type": "string", "maxLength": 500, "description": "Accepted and never opened."},
    "source_path": {"type": "string", "maxLength": 500, "description": "Accepted and never opened."},
}


def _body(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        schema["required"] = required
    encoding = {name: {"contentType": "application/octet-stream"} for name in properties if name not in _TEXTS}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema, "encoding": encoding}}}


PREDICT_BODY = _body(
    {
        "image": {**_FILE, "description": "One NIfTI file, one zip of a DICOM study, or one DICOM file."},
        "files": {"type": "array", "items": _FILE, "description": "The DICOM files of one study.", "maxItems": 5000},
        **{role: {**_FILE, "description": f"The {role} image."} for role in _ROLES},
        **_TEXTS,
    },
    [],
)
BATCH_BODY = _body(
    {
        "images": {"type": "array", "items": _FILE, "minItems": 1, "maxItems": MAX_BATCH},
        **_TEXTS,
    },
    ["images"],
)

_PROBLEM = {"model": Problem, "content": {"application/problem+json": {}}}
_STATUS_TEXTS = {
    400: "The request is not valid",
    401: "No valid API key",
    403: "The key may not do this",
    404: "There is nothing here, or it is another key's",
    409: "The Idempotency-Key was used for another request",
    410: "It was deleted by the rules of retention; `found` says when",
    413: "Too large",
    415: "This kind of object is not read",
    421: "Not the node's name",
    422: "The input was refused; the type names the reason",
    429: "Too many requests: see Retry-After",
    500: "A fault of the node",
    503: "The node does not take work now: see Retry-After",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: the problems that it may answer with."""
    always = (400, 401, 403, 421, 429, 500)
    return {status: {**_PROBLEM, "description": _STATUS_TEXTS[status]} for status in sorted({*always, *statuses})}
