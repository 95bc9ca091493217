"""Which destinations, in which order: archives first, reports after them (I3), and nothing unless a route publishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.settings import Settings
from dicom_node.stages.destinations import OWN_ENDPOINT, first_destinations, waits_for, wanted
from dicom_node.words import Publish

pytestmark = pytest.mark.unit


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        destinations={
            "pacs": {"kind": "stow", "url": "http://127.0.0.1:8042/dicom-web"},
            "second": {"kind": "folder", "path": tmp_path, "after": "pacs"},
            "ehr": {"kind": "fhir", "url": "http://127.0.0.1:9090"},
        }
    )


def test_nothing_goes_anywhere_unless_the_route_publishes(settings: Settings) -> None:
    assert wanted(settings, Publish.NOTHING, ["pacs", "ehr"]) == []


def test_pacs_leaves_the_report_at_home(settings: Settings) -> None:
    assert wanted(settings, Publish.PACS, ["ehr", "pacs"]) == ["pacs"]


def test_all_sends_archives_then_reports_then_the_own_endpoint(settings: Settings) -> None:
    assert wanted(settings, Publish.ALL, ["ehr", "pacs", "second"]) == ["pacs", "second", "ehr", OWN_ENDPOINT]


def test_an_unknown_name_is_left_out(settings: Settings) -> None:
    assert wanted(settings, Publish.ALL, ["nowhere"]) == [OWN_ENDPOINT]


def test_reports_wait_for_every_archive_and_after_is_kept(settings: Settings) -> None:
    names = {"pacs", "second", "ehr", OWN_ENDPOINT}
    assert waits_for(settings, "ehr", names) == {"pacs", "second"}
    assert waits_for(settings, OWN_ENDPOINT, names) == {"pacs", "second"}
    assert waits_for(settings, "second", names) == {"pacs"}
    assert first_destinations(settings, names) == ["pacs"]
