"""Who may do what: one table of permissions by role, and the person it is asked about.

A permission reads ``noun:verb``.  The gate of the portal holds every route to one; whether a person may do it *to this
object* (her own analysis, a study of her site) is asked besides, in the query that fetches the object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What somebody is to the node; one may have several."""

    ADMINISTRATOR = "administrator"
    OPERATOR = "operator"
    CLINICIAN = "clinician"
    SPECIALIST = "specialist"
    SERVICE = "service"


_ADMINISTRATION = frozenset({Role.ADMINISTRATOR})
_OPERATION = frozenset({Role.ADMINISTRATOR, Role.OPERATOR})
_CARE = frozenset({Role.CLINICIAN, Role.SPECIALIST})

MAY: Mapping[str, frozenset[Role]] = {
    "account:self": frozenset(Role),
    "analysis:make": _CARE,
    "analysis:own": _CARE,
    "analysis:reveal": _CARE,
    "analysis:site": frozenset({Role.SPECIALIST}),
    "outcome:write": frozenset({Role.SPECIALIST, Role.SERVICE}),
    "study:analyse": _CARE,
    "viewer:read": _CARE,
    "operation:read": _OPERATION,
    "operation:act": _OPERATION,
    "user:manage": _ADMINISTRATION,
    "site:manage": _ADMINISTRATION,
    "key:manage": _ADMINISTRATION,
    "audit:read": _ADMINISTRATION,
    "retention:manage": _ADMINISTRATION,
}
"""Permission -> roles that have it.  An administrator sees no picture and no patient's name."""

OF_A_SITE = _CARE
"""Roles that mean nothing without a site."""

ACCOUNT = "account:self"


def roles_may(roles: Iterable[Role], permission: str) -> bool:
    """Whether one of these roles has a permission; one that is not in the table nobody has."""
    return not MAY.get(permission, frozenset()).isdisjoint(roles)


@dataclass(frozen=True)
class Person:
    """Somebody with an account, as a request is made in her name.

    Attributes
    ----------
    sites
        Keys of the sites she works for.
    session_id, kind
        By what she is known now: a session of the kind ``portal`` or ``luna``; ``key``: an API key of her account.
    must_change_password, must_add_second_factor
        Until she has, her account is all she may use.
    has_second_factor
        A code is asked for besides her password.
    """

    user_id: int
    public_id: str
    name: str
    email: str
    roles: frozenset[Role]
    sites: tuple[str, ...]
    language: str
    session_id: int | None
    kind: str
    must_change_password: bool = False
    must_add_second_factor: bool = False
    has_second_factor: bool = False

    def may(self, permission: str) -> bool:
        """Whether her roles have a permission."""
        if (self.must_change_password or self.must_add_second_factor) and permission != ACCOUNT:
            return False
        return roles_may(self.roles, permission)

    @property
    def actor(self) -> str:
        """Her name in the audit log."""
        return f"user:{self.public_id}"

    @property
    def prefix(self) -> str:
        """Under which her calls are counted, as those of a key are under its prefix."""
        return self.public_id
