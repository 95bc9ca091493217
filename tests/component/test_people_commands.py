"""ai-node users, sites, keys, audit: the first administrator, what is refused and how, what is never printed."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.desks.people import Asked, People
from dicom_node.record import Database, audit
from dicom_node.settings import load_settings

pytestmark = pytest.mark.component

ROOT, EVA, NEW = "root@hospital.example", "eva@hospital.example", "tres perros duermen junto al lago"


class Node:
    """An installation that was set up, and its command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "node.yaml"
        self.config.write_text(json.dumps({"data": {"folder": str(folder / "data")}}), encoding="utf-8")
        self.settings = load_settings(self.config)
        self.database = Database(self.settings.records_url)

    def run(self, *words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["--config", str(self.config), *words])
        assert done.exit_code == code, done.output
        return done.output

    def told(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))

    def can_sign_in(self, email: str, password: str) -> bool:
        try:
            People(self.settings.people, self.database).sign_in(Asked(email, password))
        except Exception:
            return False
        return True


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    made.database.migrate()
    return made


def test_a_node_that_was_never_started_says_so(tmp_path: Path) -> None:
    assert "ai-node serve" in Node(tmp_path).run("users", "list", code=5)


def test_the_first_administrator_sets_her_own_password_by_a_link(node: Node) -> None:
    """No default account, no password that anybody else knows (S2)."""
    made = node.told("users", "create", ROOT, "--name", "Root", "--role", "administrator")
    (token,) = parse_qs(urlsplit(made["link"]).query)["token"]
    assert urlsplit(made["link"]).path == "/new-password"
    People(node.settings.people, node.database).set_password(token, NEW)
    assert node.can_sign_in(ROOT, NEW)
    (listed,) = node.told("users", "list")
    assert (listed["email"], listed["roles"], listed["state"]) == (ROOT, ["administrator"], "active")
    assert "hash" not in str(listed)


def test_a_password_comes_from_a_file_that_only_its_owner_reads(node: Node) -> None:
    file = node.folder / "password"
    file.write_text(NEW, encoding="utf-8")
    asked = ("users", "create", ROOT, "--name", "Root", "--role", "administrator", "--password-file", str(file))
    file.chmod(0o644)
    assert "lets others read it" in node.run(*asked, code=5)
    file.chmod(0o600)
    assert NEW not in node.run(*asked)
    assert node.can_sign_in(ROOT, NEW)


def test_what_cannot_be_is_refused_with_what_to_do(node: Node) -> None:
    eva = ("users", "create", EVA, "--name", "Eva", "--role", "clinician")
    assert "ai-node sites create" in node.run(*eva, code=3)
    assert "open ones: none" in node.run(*eva, "--site", "osorno", code=3)
    osorno = ("sites", "create", "osorno", "--title", "Osorno", "--identifier")
    assert "issuer" in node.run(*osorno, "key=rut,title=RUT,check=rut", code=3)
    node.run(*osorno, "key=rut,title=RUT,issuer=RUT-CL,check=rut")
    node.run(*eva, "--site", "osorno")
    assert "already" in node.run(*eva, "--site", "osorno", code=3)
    assert "one or more roles" in node.run("users", "roles", EVA, "--role", "king", code=3)
    assert "no account" in node.run("users", "disable", "nobody@hospital.example", code=3)
    assert "check" in node.run(
        "sites", "create", "ancud", "--title", "Ancud", "--identifier", "key=x,issuer=X,check=y", code=3
    )
    assert node.told("sites", "list")[0]["identifier_types"][0]["check"] == "rut"
    node.run("sites", "close", "osorno")
    assert "no open site" in node.run("sites", "close", "osorno", code=3)


def test_an_account_is_disabled_enabled_and_given_another_link(node: Node) -> None:
    node.run("users", "create", ROOT, "--name", "Root", "--role", "administrator")
    node.run("users", "create", EVA, "--name", "Eva", "--role", "operator")
    assert "last active administrator" in node.run("users", "disable", ROOT, code=3)
    node.run("users", "disable", EVA)
    assert "no such active account" in node.run("users", "reset-password", EVA, code=3)
    node.run("users", "enable", EVA)
    link = node.told("users", "reset-password", EVA)["link"]
    People(node.settings.people, node.database).set_password(parse_qs(urlsplit(link).query)["token"][0], NEW)
    assert node.can_sign_in(EVA, NEW)
    key = node.told("keys", "create", "duty", "--account", EVA, "--scope", "fhir:read")
    assert key["scopes"] == ["fhir:read"]
    assert node.told("keys", "list")[0]["account"] == EVA


def test_the_audit_log_is_verified_read_and_copied(node: Node) -> None:
    node.run("sites", "create", "osorno", "--title", "Osorno")
    node.run("users", "create", ROOT, "--name", "Root", "--role", "administrator")
    head = node.told("audit", "verify")
    kept = f"{head['entries']}:{head['head_sha256']}"
    assert kept in node.run("audit", "verify", "--head", kept).replace("\n", "")
    assert [row["action"] for row in node.told("audit", "list", "--action", "user-created")] == ["user-created"]
    assert node.told("audit", "list", "--until", "2020-01-01") == []
    assert "site-created" in node.run("audit", "list")
    assert "YYYY-MM-DD" in node.run("audit", "list", "--since", "yesterday", code=2)
    target = node.folder / "audit.csv"
    node.run("audit", "export", str(target), "--reason", "yearly review")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    rows = list(csv.DictReader(target.open(encoding="utf-8", newline="")))
    assert [row["action"] for row in rows][-1] == "audit-exported" and rows[0]["previous_sha256"] == audit.GENESIS
    node.run("audit", "export", str(target), "--reason", "again", code=2)
    with node.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit WHERE id > 2")
    assert "names entry" in node.run("audit", "verify", "--head", kept, code=1).replace("\n", " ")
    assert node.told("audit", "verify")["broken"] is None, "which is why the head is kept elsewhere"
