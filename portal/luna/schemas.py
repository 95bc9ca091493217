"""The bodies of the LUNA API as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from portal.api.schemas import RefusalBody
from portal.luna.bodies import ImageProcess, SignIn, SignUp

_Share = float | None


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Account(_Open):
    """Somebody with an account."""

    id: str
    name: str
    email: str
    roles: list[Literal["admin", "user"]]
    language: Literal["en", "es"]
    sites: list[str]


class SignedIn(_Open):
    """The account, and the token for the other calls."""

    user: Account
    token: str
    expiresAt: str


class Said(_Open):
    """That it was done."""

    message: str


class SignedUp(Said):
    """The account that was made."""

    user: Account


class Patient(_Open):
    """Whose lesion it is."""

    id: str
    type: str
    name: str
    birthDate: str
    sex: str
    isConfirmed: bool = Field(description="Without it nothing is published.")


class Analysis(_Open):
    """One analysis.  Every number is null unless `state` is completed."""

    id: str
    userId: str = Field(description="Of the caller: one's own analyses are all that is shown.")
    image: str | None = Field(description="Base64; null in lists.")
    description: str
    creationDate: str
    analysisDate: str | None
    result: _Share = Field(ge=0, le=1, description="Legacy name: the calibrated probability of melanoma.")
    isMelanoma: bool | None = Field(description="Legacy name: `result` is at or above the threshold. No diagnosis.")
    melanomaThreshold: _Share = Field(ge=0, le=1)
    malignancy: _Share = Field(ge=0, le=1, description="The calibrated probability of malignancy.")
    isMalignancyAboveThreshold: bool | None
    malignancyThreshold: _Share = Field(ge=0, le=1)
    state: Literal["waiting", "completed", "refused", "failed", "held", "withdrawn"]
    message: str
    refusal: RefusalBody | None
    model: str | None = Field(description="name@version")
    patient: Patient | None
    isPrivate: bool = Field(description="Without an identity: it stays in the node and is never published.")
    disclaimer: str


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}


SIGN_IN = _json(SignIn)
SIGN_UP = _json(SignUp)
IMAGE = _json(ImageProcess)
