"""Which destinations a run's results go to, and in which order.

PACS destinations first; the FHIR ones, and the node's own FHIR endpoint, wait until the archive was seen to hold the
objects (I3), unless their `after` says something else.  For servers of files nobody waits: they are no archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dicom_node.routing import RouteBook
from dicom_node.settings import Settings
from dicom_node.stages.context import PhotoRoute
from dicom_node.words import Publish

OWN_ENDPOINT = "own-fhir"
"""The node's own read-only FHIR endpoint, a destination like any other."""


def is_report(settings: Settings, name: str) -> bool:
    """Whether a destination takes the FHIR report instead of DICOM objects."""
    destination = settings.destinations.get(name)
    return name == OWN_ENDPOINT or (destination is not None and destination.kind == "fhir")


def is_archive(settings: Settings, name: str) -> bool:
    """Whether a destination keeps DICOM objects for others to find: reports wait for it."""
    destination = settings.destinations.get(name)
    return destination is not None and destination.kind in ("stow", "cstore", "folder")


def is_configured(settings: Settings, name: str) -> bool:
    """Whether a destination is still there: a run may have rows for one that was taken out of the configuration."""
    return name == OWN_ENDPOINT or name in settings.destinations


def wanted(settings: Settings, publish: Publish, named: Sequence[str]) -> list[str]:
    """The destinations of a run: those its route names, as far as its `publish` lets them, in sending order."""
    if publish is Publish.NOTHING:
        return []
    chosen = [name for name in named if name in settings.destinations]
    others = [name for name in chosen if not is_report(settings, name)]
    if publish is Publish.PACS:
        return others
    return [*others, *(name for name in chosen if is_report(settings, name)), OWN_ENDPOINT]


def photo_routes(settings: Settings, routes: RouteBook) -> dict[str, PhotoRoute]:
    """For each model of a route: the family of its results, and the first archive that the route publishes to."""
    found: dict[str, PhotoRoute] = {}
    for route in (one for one in routes.routes if one.enabled):
        archives = [name for name in wanted(settings, route.publish, route.destinations) if is_archive(settings, name)]
        found.setdefault(
            route.model.partition("@")[0], PhotoRoute(route.result_family, archives[0] if archives else None)
        )
    return found


def waits_for(settings: Settings, name: str, among: Iterable[str]) -> set[str]:
    """Which of the run's destinations must have confirmed before this one is sent to."""
    others = set(among) - {name}
    destination = settings.destinations.get(name)
    if destination is not None and destination.after in others:  # when the run does not go there, the rule holds
        return {str(destination.after)}
    if is_report(settings, name):
        # one that is not configured any more was an archive, as far as anybody knows
        return {o for o in others if is_archive(settings, o) or not is_configured(settings, o)}
    return set()


def first_destinations(settings: Settings, among: set[str]) -> list[str]:
    """Those that wait for no other."""
    return sorted(name for name in among if not waits_for(settings, name, among))
