"""Which destinations, in which order: archives first, reports after them (I3), and nothing unless a route publishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.delivery import CStoreTarget, StowTarget
from dicom_node.settings import Settings
from dicom_node.stages.destinations import OWN_ENDPOINT, first_destinations, waits_for, wanted
from dicom_node.stages.targets import target
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


def test_an_archive_behind_a_certificate_and_a_password(tmp_path: Path) -> None:
    """Settings reach the one who connects; a secret is read when it is needed, and again after it was changed."""
    secret, ca = tmp_path / "secret", tmp_path / "ca.pem"
    secret.write_text("first")
    secret.chmod(0o600)
    settings = Settings(
        destinations={
            "web": {"kind": "stow", "url": "https://pacs.example/dicom-web", "username": "node",
                    "password_file": secret, "ca_file": ca},
            "dimse": {"kind": "cstore", "host": "127.0.0.1", "port": 4242, "ae_title": "PACS",
                      "verify_url": "https://pacs.example/dicom-web", "verify_username": "look",
                      "verify_password_file": secret, "verify_ca_file": ca},
            "blind": {"kind": "cstore", "host": "127.0.0.1", "port": 4242, "ae_title": "PACS"},
        }
    )  # fmt: skip
    web, dimse, blind = (target(settings, name) for name in ("web", "dimse", "blind"))
    assert isinstance(web, StowTarget) and isinstance(dimse, CStoreTarget) and isinstance(blind, CStoreTarget)
    assert web.ca_file == ca and blind.verify is None
    assert dimse.verify is not None and (dimse.verify.username, dimse.verify.ca_file) == ("look", ca)
    assert dimse.verify.secret is not None and dimse.verify.secret() == "first"
    secret.write_text("second")
    assert dimse.verify.secret() == "second"


def test_credentials_without_an_address_to_look_at_are_refused() -> None:
    with pytest.raises(ValueError, match="goes with verify_url"):
        Settings(
            destinations={"a": {"kind": "cstore", "host": "h", "port": 1, "ae_title": "A", "verify_username": "x"}}
        )
