"""What LUNA's clients send: the thesis's own fields, and the few that came since; any other field is refused (S13)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from dicom_node.permissions import Role
from portal.api.photo_body import ImageBody

MAX_PASSWORD = 1024
_Word = Annotated[str, StringConstraints(max_length=64)]
RoleName = Literal["admin", "user", "administrator", "operator", "clinician", "specialist", "service"]
ROLES: dict[str, Role] = {"admin": Role.ADMINISTRATOR, "user": Role.CLINICIAN}
"""LUNA knows two roles; a name of ours may be said instead."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SignIn(_Body):
    """Somebody with an account."""

    email: str = Field("", max_length=254)
    username: str = Field("", max_length=254, description="Another name of `email`.")
    password: str = Field(min_length=1, max_length=MAX_PASSWORD)
    code: str = Field("", max_length=24, description="Of the second factor, for an account that has one.")

    @model_validator(mode="after")
    def _has_one_name(self) -> Self:
        if bool(self.email) == bool(self.username):
            raise ValueError("expected `email` or `username`")
        return self

    @property
    def account(self) -> str:
        return self.email or self.username


class SignUp(_Body):
    """A new account."""

    name: str = Field("", max_length=128)
    username: str = Field("", max_length=128, description="Another name of `name`.")
    email: str = Field(min_length=3, max_length=254)
    password: str = Field(min_length=1, max_length=MAX_PASSWORD)
    roles: list[RoleName] = Field(["user"], min_length=1, max_length=8)
    site: str = Field("", max_length=63, description="Key of a site; may be left out where there is only one.")
    language: Literal["", "en", "es"] = ""

    @property
    def called(self) -> str:
        return self.name or self.username or self.email.partition("@")[0]

    @property
    def own_roles(self) -> list[str]:
        return sorted({str(ROLES.get(role, role)) for role in self.roles})


class ImageProcess(ImageBody):
    """A photograph of a lesion.  Without `patientId` it is analysed without an identity and stays in the node."""

    description: Annotated[str, StringConstraints(max_length=2000)] | None = None
    patientId: _Word | None = None
    patientIdType: _Word | None = Field(None, description="Key of a type of identifier of the user's site.")
    bodySite: _Word | None = Field(None, description="Name of a body site, such as back or forearm-anterior.")
    orderId: Annotated[str, StringConstraints(max_length=16)] | None = Field(None, description="Accession number.")


class Message(ImageProcess):
    """The same as a message of the broker: it says whose analysis it is."""

    userId: str = Field(pattern=r"^[0-9a-f]{32}$")
