"""The administration pages over a real record: accounts, sites and keys made and ended, the log read and taken away."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node.cli.web import make_app
from dicom_node.desks.people import People
from dicom_node.permissions import MAY, Role
from dicom_node.record import Database, audit, keys, people, sites, tables
from dicom_node.record.keys import ACCOUNT_SCOPES, SCOPES
from dicom_node.settings import Settings
from portal.pages.language import LANGUAGES, dictionary
from tests.support.rows import add_row
from tests.support.visits import Visit, visit, words

pytestmark = pytest.mark.component

HOME = "/administration"
PAGES = ("", "/users/new", "/roles", "/sites", "/keys", "/audit", "/retention")
PASSWORD = "seven rivers under an old bridge"


class Site:
    """An installation without a road."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.settings = Settings(data={"folder": folder}, node={"timezone": "America/Santiago"}, **sections)
        self.database = Database(self.settings.records_url)
        self.database.migrate()
        self.app = make_app(self.settings, self.database, lambda put: None)

    def visit(self, *roles: Role, **more: Any) -> Visit:
        return visit(self.app, self.settings, self.database, *roles, **more)

    def acts(self) -> list[tuple[str, str]]:
        with self.database.read() as connection:
            return [(row.actor, row.action) for row in connection.execute(select(tables.audit))]

    def users(self) -> dict[str, people.User]:
        with self.database.read() as connection:
            return {user.email: user for user in people.all_users(connection)}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "data")
    yield made
    made.database.close()


@pytest.fixture
def admin(site: Site) -> Visit:
    return site.visit(Role.ADMINISTRATOR)


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_every_page_is_made_in_both_languages_and_names_no_patient(site: Site, language: str) -> None:
    somebody = site.visit(Role.ADMINISTRATOR, language=language)
    with site.database.write() as connection:
        identity = {"PatientName": "ROE^JANE", "PatientID": "ID-4711"}
        add_row(connection, tables.studies, uid="1.2.3.4", public_id="d" * 32, identity=identity)
        audit.append(connection, "key:ehr", "read-DiagnosticReport", "1.2.3.4", ids=["x"])
    pages = [somebody.get(HOME + path) for path in (*PAGES, f"/users/{somebody.person.public_id}")]
    for answer in pages:
        assert answer.status_code == 200, answer.url
        assert f'lang="{language}"' in answer.text and answer.headers["cache-control"] == "no-store"
        for secret in ("ROE", "JANE", "ID-4711", "1.2.3.4"):
            assert secret not in answer.text, (answer.url, secret)
        assert 'style="' not in answer.text and "onclick" not in answer.text
    assert "dddddddd" in pages[5].text, "the study by its opaque id"


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMINISTRATOR])
def test_nobody_else_comes_in(site: Site, role: Role) -> None:
    stranger = site.visit(role, sites=("base",))
    for path in PAGES:
        assert stranger.get(HOME + path).status_code == 403
    assert stranger.post(f"{HOME}/keys", name="ehr", scopes="fhir:read").status_code == 403
    assert keys.rows(site.database) == []


def test_every_form_shows_the_token_of_its_session(site: Site, admin: Visit) -> None:
    assert admin.post(f"{HOME}/keys", guarded=False, name="ehr", scopes="fhir:read").status_code == 403
    assert keys.rows(site.database) == []


def test_an_account_is_made_without_a_password_and_its_owner_sets_it_once(site: Site, admin: Visit) -> None:
    with site.database.write() as connection:
        sites.add_site(connection, "test", key="base", title="Base Hospital")
    fields = {"email": "Eva@Clinic.example ", "name": "Eva  Paz", "language": "es", "roles": ["clinician"]}
    refused = admin.post(f"{HOME}/users", **fields)
    assert refused.status_code == 422 and "belong to one or more sites" in words(refused.text)
    assert 'value="Eva  Paz"' in refused.text, "what was written is not lost"
    made = admin.post(f"{HOME}/users", **fields, sites=["base"])
    assert made.status_code == 200
    (token,) = re.findall(r"/new-password\?token=([A-Za-z0-9_-]{43})<", made.text)
    desk = People(site.settings.people, site.database)
    assert desk.set_password(token, PASSWORD).email == "eva@clinic.example"
    eva = site.users()["eva@clinic.example"]
    assert (eva.name, eva.roles, eva.sites) == ("Eva Paz", frozenset({Role.CLINICIAN}), ("base",))
    again = admin.get(f"{HOME}/users/{eva.public_id}")
    assert token not in again.text and "new-password" not in again.text, "shown this once"
    assert (admin.person.actor, "user-created") in site.acts()
    taken = admin.post(f"{HOME}/users", **fields, sites=["base"])
    assert taken.status_code == 422 and "already" in words(taken.text)


def test_roles_and_state_change_and_the_last_administrator_stays(site: Site, admin: Visit) -> None:
    other = site.visit(Role.OPERATOR)
    here = f"{HOME}/users/{other.person.public_id}"
    assert other.get("/operation").status_code == 200
    assert admin.follow(admin.post(f"{here}/roles", roles=["operator", "administrator"])).status_code == 200
    assert other.get("/operation").status_code == 303, "signed out by the change"
    assert Role.ADMINISTRATOR in site.users()[other.person.email].roles
    admin.post(f"{here}/state", state="disabled")
    assert not site.users()[other.person.email].is_active
    refused = admin.post(f"{HOME}/users/{admin.person.public_id}/state", state="disabled")
    assert refused.status_code == 422 and "last active administrator" in words(refused.text)
    assert admin.get(HOME).status_code == 200
    none = admin.post(f"{here}/password")
    assert none.status_code == 422 and "new-password?token" not in none.text
    admin.post(f"{here}/state", state="active")
    assert "new-password?token" in admin.post(f"{here}/password").text
    assert admin.post(f"{here}/state", state="king").status_code == 400
    assert admin.get(f"{HOME}/users/{'0' * 32}").status_code == 404


def test_sites_are_made_with_their_identifiers_and_closed(site: Site, admin: Visit) -> None:
    fields = {"key": "osorno", "title": "Osorno <b>", "key_0": "rut", "title_0": "RUT", "check_0": "rut"}
    nameless = admin.post(f"{HOME}/sites", **fields)
    assert nameless.status_code == 422 and "issuer" in words(nameless.text)
    fields["issuer_0"] = "RUT-CL"
    page = admin.follow(admin.post(f"{HOME}/sites", **fields, system_0="urn:x"))
    assert "Osorno &lt;b&gt;" in page.text
    with site.database.read() as connection:
        (made,) = sites.all_sites(connection)
    assert [dict(one) for one in made.identifier_types] == [
        {"key": "rut", "title": "RUT", "system": "urn:x", "issuer": "RUT-CL", "check": "rut"}
    ]
    twice = admin.post(f"{HOME}/sites", **fields)
    assert twice.status_code == 422 and "already" in words(twice.text)
    wrong = admin.post(f"{HOME}/sites", key="other", title="O", key_1="rut", check_1="luhn")
    assert wrong.status_code == 422 and "needs a key" in words(wrong.text)
    admin.post(f"{HOME}/sites/close", key="osorno")
    with site.database.read() as connection:
        assert sites.all_sites(connection, only_open=True) == []
    assert admin.post(f"{HOME}/sites/close", key="osorno").status_code == 422
    assert [action for _, action in site.acts() if action.startswith("site-")] == ["site-created", "site-closed"]


def test_a_key_is_shown_once_and_may_no_more_than_its_account(site: Site, admin: Visit) -> None:
    site.visit(Role.SERVICE)
    laboratory = next(email for email, user in site.users().items() if Role.SERVICE in user.roles)
    beyond = admin.post(f"{HOME}/keys", name="lab", account=laboratory, scopes=["analysis:own"])
    assert beyond.status_code == 422 and "do not allow" in words(beyond.text)
    assert admin.post(f"{HOME}/keys", name="lab", scopes=["outcome:write"]).status_code == 422
    made = admin.post(f"{HOME}/keys", name="lab", account=laboratory, scopes=["outcome:write"])
    (token,) = re.findall(r"ain_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", made.text)
    identity = keys.verify(site.database, token)
    assert identity is not None and identity.may("outcome:write") and not identity.may("fhir:read")
    assert token not in admin.get(f"{HOME}/keys").text
    admin.post(f"{HOME}/keys/revoke", name="lab")
    assert keys.verify(site.database, token) is None
    assert admin.post(f"{HOME}/keys/revoke", name="lab").status_code == 422


def test_the_log_is_filtered_held_against_its_chain_and_taken_with_a_reason(site: Site, admin: Visit) -> None:
    with site.database.write() as connection:
        for _ in range(150):
            audit.append(connection, "key:ehr", "read-Patient", None, note="=1+1")
    first = admin.get(f"{HOME}/audit?actor=key:ehr").text
    assert first.count("<tr>") == 101 and "before=" in first
    (older,) = re.findall(r'href="(/administration/audit\?[^"]*before=\d+)"', first)
    assert admin.get(older.replace("&amp;", "&")).text.count("<tr>") == 51
    assert "No entry" in words(admin.get(f"{HOME}/audit?action=nothing").text)
    assert admin.get(f"{HOME}/audit?since=tomorrow").status_code == 422
    assert "whole: 15" in words(admin.get(f"{HOME}/audit?check=yes").text)
    assert (admin.person.actor, "audit-read") == site.acts()[-1], "who reads the log stands in it"
    without = admin.post(f"{HOME}/audit/export", actor="key:ehr", reason=" ")
    assert without.status_code == 422 and "Say why" in words(without.text)
    assert "audit-exported" not in [action for _, action in site.acts()]
    taken = admin.post(f"{HOME}/audit/export", actor="key:ehr", reason="yearly review")
    assert taken.headers["content-disposition"].startswith("attachment")
    rows = list(csv.DictReader(io.StringIO(taken.text)))
    assert len(rows) == 150 and {row["actor"] for row in rows} == {"key:ehr"}
    assert all(not cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    assert [row["previous_sha256"] for row in rows[1:]] == [row["sha256"] for row in rows[:-1]]
    with site.database.write() as connection:
        last = connection.execute(select(tables.audit).order_by(tables.audit.c.id.desc())).first()
        assert (last.actor, last.action) == (admin.person.actor, "audit-exported")
        assert last.detail == {"reason": "yearly review", "filter": {"actor": "key:ehr"}}
        connection.execute(tables.audit.update().where(tables.audit.c.id == 7).values(actor="nobody"))
    assert "entry 7 was changed or moved" in words(admin.get(f"{HOME}/audit?check=yes").text)


def test_days_of_the_filter_are_those_of_the_site(site: Site, admin: Visit) -> None:
    """Half past two in the morning, UTC, is the evening before in Santiago."""
    with site.database.write() as connection:
        audit.append(connection, "key:ehr", "read-Patient", None)
        newest = audit.head(connection)[0]
        late = tables.audit.update().where(tables.audit.c.id == newest)
        connection.execute(late.values(at="2026-03-03T02:30:00.000000+00:00"))
    path = f"{HOME}/audit?actor=key:ehr&since=2026-03-02&until="
    assert admin.get(path + "2026-03-02").text.count("<code>key:ehr</code>") == 1
    assert admin.get(path.replace("02&", "03&") + "2026-03-03").text.count("<code>key:ehr</code>") == 0


def test_retention_says_what_the_settings_say(site: Site, admin: Visit) -> None:
    page = words(admin.get(f"{HOME}/retention").text)
    assert f"{site.settings.api.keep_results_h:.0f} h api.keep_results_h" in page
    assert "Audit log as long as nobody deletes it" in page


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_everything_that_can_be_refused_or_allowed_has_words(language: str) -> None:
    known = dictionary(language)
    for name in (*MAY, *SCOPES, *ACCOUNT_SCOPES):
        assert f"administration.may_{name.replace(':', '_')}" in known
    folder = Path(people.__file__).parent
    said = {path.name: path.read_text(encoding="utf-8") for path in (folder / "people.py", folder / "sites.py")}
    reasons = set(re.findall(r'PeopleRefused\(\s*"([a-z-]+)"', "".join(said.values())))
    of_keys = set(re.findall(r'KeyRefused\(\s*"([a-z-]+)"', (folder / "keys.py").read_text(encoding="utf-8")))
    assert len(reasons) > 8 and len(of_keys) > 4
    assert {f"administration.refused_{one}" for one in reasons} <= set(known)
    assert {f"administration.key_{one}" for one in of_keys} <= set(known)
