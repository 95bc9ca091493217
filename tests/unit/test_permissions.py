"""Who may do what: the table as it is meant, written down a second time, and what a person's state takes away."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.permissions import MAY, OF_A_SITE, Person, Role, roles_may

pytestmark = pytest.mark.unit

MEANT = {
    Role.ADMINISTRATOR: {
        "account:self", "operation:read", "operation:act", "user:manage", "site:manage", "key:manage", "audit:read",
        "retention:manage",
    },
    Role.OPERATOR: {"account:self", "operation:read", "operation:act"},
    Role.CLINICIAN: {
        "account:self", "analysis:make", "analysis:own", "analysis:reveal", "study:analyse", "viewer:read",
    },
    Role.SPECIALIST: {
        "account:self", "analysis:make", "analysis:own", "analysis:reveal", "analysis:site", "outcome:write",
        "study:analyse", "viewer:read",
    },
    Role.SERVICE: {"account:self", "outcome:write"},
}  # fmt: skip

EVA = Person(7, "e" * 32, "Eva", "eva@hospital.example", frozenset({Role.CLINICIAN}), ("osorno",), "es", 1, "portal")


@pytest.mark.parametrize("role", Role)
def test_a_role_may_what_it_is_meant_to_and_nothing_else(role: Role) -> None:
    assert {permission for permission in MAY if roles_may([role], permission)} == MEANT[role]


def test_two_roles_may_what_either_may() -> None:
    both = replace(EVA, roles=frozenset({Role.OPERATOR, Role.CLINICIAN}))
    assert {permission for permission in MAY if both.may(permission)} == MEANT[Role.OPERATOR] | MEANT[Role.CLINICIAN]


@pytest.mark.parametrize("role", [Role.ADMINISTRATOR, Role.OPERATOR])
def test_who_runs_the_node_sees_no_picture(role: Role) -> None:
    """Least privilege: neither pictures nor what leads to them (S12)."""
    assert not {"viewer:read", "analysis:reveal", "analysis:own", "analysis:site"} & MEANT[role]
    assert role not in OF_A_SITE


def test_nobody_has_a_permission_that_is_not_in_the_table() -> None:
    assert not any(roles_may(Role, unknown) for unknown in ("", "open", "analysis:*", "analysis"))


def test_who_must_change_the_password_may_nothing_else_before() -> None:
    held = replace(EVA, must_change_password=True)
    assert [permission for permission in MAY if held.may(permission)] == ["account:self"]


def test_the_reference_says_the_same() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "people.md").read_text(encoding="utf-8")
    head, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\|.*\|$", page.split("## Sites")[0], re.MULTILINE)
        if not line.startswith("|-")
    ]
    written: dict[Role, set[str]] = {Role(name): set() for name in head[1:]}
    for first, *marks in rows:
        for role, mark in zip(written, marks, strict=True):
            written[role] |= set(re.findall(r"`([^`]+)`", first)) if mark else set()
    assert written == MEANT
