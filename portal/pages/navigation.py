"""Where a person can go: one table; whoever may not do what a place is for does not see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """One entry of the navigation.

    Attributes
    ----------
    path
        Where it leads; the entry is marked as current on every page whose path begins with it.
    word
        Key of its name.
    icon
        Name in ``templates/icons.html``.
    permission
        What one must be allowed to do to see it.
    """

    path: str
    word: str
    icon: str
    permission: str


PLACES: tuple[Place, ...] = (
    Place("/analyse", "shell.place_analyse", "camera", "analysis:make"),
    Place("/analyses", "shell.place_analyses", "list", "analysis:own"),
    Place("/cases", "shell.place_cases", "inbox", "outcome:write"),
    Place("/study", "shell.place_study", "layers", "study:analyse"),
    Place("/operation", "shell.place_operation", "pulse", "operation:read"),
    Place("/administration", "shell.place_administration", "people", "user:manage"),
    Place("/account", "shell.place_account", "person", "account:self"),
)


def places_of(may: Callable[[str], bool], known: frozenset[str]) -> list[Place]:
    """The places of somebody, of those that this application has.

    Parameters
    ----------
    known
        Paths that lead somewhere: an entry whose room is not there is not shown.
    """
    return [place for place in PLACES if place.path in known and may(place.permission)]


def home_of(may: Callable[[str], bool], known: frozenset[str]) -> str:
    """Where somebody begins after signing in: the first of her places."""
    found = places_of(may, known)
    return found[0].path if found else "/account"
