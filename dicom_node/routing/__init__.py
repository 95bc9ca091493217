"""Routing: which model reads which series of a study, and why a rule did or did not hold.

Pure functions over `SeriesFacts`: no database, no network, no pixel decoding.  The road calls them in this order:
`facts.facts` (headers of a series), `roles.assign_roles` (all series of a study), `decide` (what to run now), and
`gate.publication_gate` before anything leaves; `explanation.explain` says why, for people.

The room's verb is `decide`: case assembly as in the design (*case complete*).  Implements the input gate of series
that are no acquisitions (PS3.3 C.7.6.1.1.2 Image Type, C.8.3.1 MR Image), invariants I18 (own output never feeds back)
and I19 (late data supersedes, never duplicates).
"""

from __future__ import annotations

from dicom_node.routing.appearance import Appearance
from dicom_node.routing.book import RoutesRefused
from dicom_node.routing.cases import decide
from dicom_node.routing.explanation import Explanation
from dicom_node.routing.gate import Channel, PublicationHold
from dicom_node.routing.route import Route, RouteBook
from dicom_node.routing.study import CaseSpec, ClosedSeries, Decision, NotChosen, PastCase, StudyState, Verb

__all__ = [
    "Appearance",
    "CaseSpec",
    "Channel",
    "ClosedSeries",
    "Decision",
    "Explanation",
    "NotChosen",
    "PastCase",
    "PublicationHold",
    "Route",
    "RouteBook",
    "RoutesRefused",
    "StudyState",
    "Verb",
    "decide",
]
