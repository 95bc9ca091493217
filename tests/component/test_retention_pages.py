"""The administrator's page of retention: what is due, holds, erasing; who may, in both languages, and every word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app as command
from dicom_node.cli.retention import WHY
from dicom_node.permissions import Role
from dicom_node.record import removals, tables
from dicom_node.retention import Kind, Needed, Part
from portal.pages.language import LANGUAGES, dictionary
from tests.component.test_administration_pages import Site
from tests.support.rows import add_row
from tests.support.visits import words

pytestmark = pytest.mark.component

PATH = "/administration/retention"
STUDY, UID = "d" * 16, "1.2.3.4"
RULES = {"images_days": 30, "results_days": 30, "identity_days": 30}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "data", retention=RULES)
    with made.database.write() as connection:
        old = "2020-01-01T00:00:00.000000+00:00"
        identity = {"PatientName": "ROE^JANE"}
        add_row(connection, tables.studies, uid=UID, public_id=STUDY, identity=identity, last_activity_at=old)
        arrival = add_row(connection, tables.arrivals, closed_at=old)
        told = {"path": "vault/objects/ab/cd.dcm", "content_sha256": "a", "header": {"PatientName": "ROE^JANE"}}
        add_row(connection, tables.instances, uid="1.2", study_uid=UID, arrival_id=arrival, received_at=old, **told)
    stored = tmp_path / "data" / "vault" / "objects" / "ab" / "cd.dcm"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"pixels of ROE^JANE")
    yield made
    made.database.close()


def stored(site: Site) -> Path:
    return Path(site.settings.data.folder) / "vault" / "objects" / "ab" / "cd.dcm"


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_the_page_says_what_is_due_and_names_nobody(site: Site, language: str) -> None:
    page = site.visit(Role.ADMINISTRATOR, language=language).get(PATH)
    assert page.status_code == 200 and STUDY in page.text
    assert "ROE" not in page.text and UID not in page.text
    assert "retention.images_days" in page.text and "api.keep_results_h" in page.text


def test_a_hold_and_its_end_and_an_erasure(site: Site) -> None:
    admin = site.visit(Role.ADMINISTRATOR)
    assert admin.post(f"{PATH}/hold", study=STUDY, reason=" ").status_code == 422
    held = admin.follow(admin.post(f"{PATH}/hold", study=STUDY, reason="court file"))
    assert "The study is held" in held.text and "court file" in held.text
    assert "a legal hold: 1" in words(held.text)
    refused = admin.post(f"{PATH}/erase", study=STUDY, reason="asked for", sure="yes")
    assert refused.status_code == 422 and "a legal hold" in refused.text and stored(site).is_file()
    admin.follow(admin.post(f"{PATH}/release", study=STUDY, reason="closed"))
    assert admin.post(f"{PATH}/erase", study=STUDY, reason="asked for").status_code == 422, "the box is not ticked"
    assert stored(site).is_file()
    erased = admin.follow(admin.post(f"{PATH}/erase", study=STUDY, reason="asked for", sure="yes"))
    assert "Everything of the study was deleted" in erased.text and not stored(site).exists()
    acts = [action for actor, action in site.acts() if actor == admin.person.actor]
    assert acts[-4:] == ["legal-hold-set", "legal-hold-lifted", "study-removal-begun", "study-removed"]


@pytest.mark.parametrize("role", sorted(set(Role) - {Role.ADMINISTRATOR, Role.SERVICE}))
def test_nobody_else_may(site: Site, role: Role) -> None:
    somebody = site.visit(role, sites=("post",))
    assert somebody.get(PATH).status_code == 403
    for act in ("hold", "release", "erase"):
        told = somebody.post(f"{PATH}/{act}", study=STUDY, reason="because", sure="yes")
        assert told.status_code == 403, act
    assert stored(site).is_file()


def test_a_form_of_another_page_does_nothing(site: Site) -> None:
    admin = site.visit(Role.ADMINISTRATOR)
    assert admin.post(f"{PATH}/erase", guarded=False, study=STUDY, reason="x", sure="yes").status_code == 403
    assert stored(site).is_file()


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_everything_has_words(language: str) -> None:
    known = set(dictionary(language))
    wanted = {f"administration.needed_{one.value}" for one in Needed} | {f"administration.part_{p.value}" for p in Part}
    wanted |= {f"administration.class_{kind.value}{more}" for kind in Kind for more in ("", "_hint")}
    reasons = ("study-unknown", "reason-missing", "held-already", "not-held", "not-sure", "kept")
    wanted |= {f"administration.retention_wrong_{one}" for one in reasons}
    assert wanted <= known
    assert set(WHY) == {one.value for one in Needed}


def test_the_commands_say_the_same(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_NODE__DATA__FOLDER", str(site.settings.data.folder))
    monkeypatch.setenv("AI_NODE__RETENTION__IMAGES_DAYS", "30")
    monkeypatch.chdir(tmp_path)

    def told(*line: str, code: int = 0) -> Any:
        result = CliRunner().invoke(command, ["retention", *line])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if "--json" in line and code == 0 else result.output

    rules = {rule["class"]: rule for rule in told("show", "--json")["rules"]}
    assert rules["images"]["going"] == 1 and rules["images"]["next"][0]["study"] == STUDY
    assert rules["private"]["days"] is None
    assert STUDY in told("run", "--dry-run") and stored(site).is_file()
    told("hold", STUDY, "--reason", "court file")
    assert "legal hold" in told("show") and told("run", "--json")["studies"] == 0
    assert "legal-hold" in told("run", "--dry-run")
    told("erase", STUDY, "--reason", "x", "--yes", code=3)
    told("release", STUDY, "--reason", "closed")
    assert told("run", "--json") == {"outcome": "done", "studies": 1, "files": 1, "size_bytes": 18}
    assert not stored(site).exists()
    with site.database.read() as connection:
        last = removals.last_round(connection)
    assert last is not None and last["studies"] == 1 and last["actor"] != "worker"
