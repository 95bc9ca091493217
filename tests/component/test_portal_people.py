"""People at the portal's gate: cookies, tokens in forms, fixation, who calls, patience by HTTP (S9-S11, S14)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from dicom_node import passwords
from dicom_node.cli import web
from dicom_node.desks import backoff
from dicom_node.permissions import Role
from dicom_node.record import Database, keys, people, tables
from dicom_node.settings import Settings
from tests.support.people import PASSWORD, make_sites, make_user

pytestmark = pytest.mark.component

EVA = "eva@hospital.example"
SESSION, DEVICE = "__Host-session", "__Host-device"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("people") / "records.sqlite"
    made = Database(f"sqlite:///{path}")
    made.migrate()
    make_sites(made)
    make_user(made, "eva", [Role.CLINICIAN])
    made.close()
    return path


@pytest.fixture
def database(tmp_path: Path, prepared: Path) -> Iterator[Database]:
    shutil.copy(prepared, tmp_path / "records.sqlite")
    made = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    yield made
    made.close()


@pytest.fixture
def app(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(passwords, "is_right", lambda stored, given: stored is not None and given == PASSWORD)
    monkeypatch.setattr(passwords, "is_outdated", lambda stored: False)
    return web.make_app(Settings(data={"folder": tmp_path}), database, put=lambda job: None)


def browser(app: Any, *, scheme: str = "https", address: str = "203.0.113.9") -> TestClient:
    headers = {"Accept": "text/html", "Origin": f"{scheme}://127.0.0.1"}
    return TestClient(
        app, base_url=f"{scheme}://127.0.0.1", client=(address, 40000), headers=headers, follow_redirects=False
    )


def sign_in(client: TestClient, email: str = EVA, password: str = PASSWORD) -> Any:
    return client.post("/sign-in", data={"email": email, "password": password, "next": ""})


def signed_in(app: Any, **how: Any) -> TestClient:
    client = browser(app, **how)
    assert sign_in(client).status_code == 303
    return client


def token_of(client: TestClient) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', client.get("/account").text)
    assert found is not None
    return found[1]


def save(client: TestClient, token: str | None, **headers: str) -> int:
    told = {"name": "Eva Rojas", "language": "es"} | ({} if token is None else {"csrf": token})
    return client.post("/account", data=told, headers=headers).status_code


# -- cookies


def test_over_https_the_cookies_cannot_be_read_sent_or_set_by_others(app: Any) -> None:
    answer = sign_in(browser(app))
    cookies = {line.split("=")[0]: line for line in answer.headers.get_list("set-cookie")}
    assert set(cookies) == {SESSION, DEVICE}
    for line in cookies.values():
        parts = {part.strip().lower() for part in line.split(";")[1:]}
        assert {"httponly", "secure", "samesite=lax", "path=/"} <= parts
        assert not any(part.startswith("domain") for part in parts)
    assert "max-age" not in cookies[SESSION].lower()


def test_on_plain_loopback_the_cookie_has_no_prefix_that_it_could_not_keep(app: Any) -> None:
    client = browser(app, scheme="http", address="127.0.0.1")
    lines = sign_in(client).headers.get_list("set-cookie")
    assert {line.split("=")[0] for line in lines} == {"session", "device"}
    assert not any("secure" in line.lower() for line in lines)
    assert client.get("/account").status_code == 200


def test_behind_a_proxy_that_speaks_https_the_cookies_are_those_of_https(tmp_path: Path, database: Database) -> None:
    settings = Settings(data={"folder": tmp_path}, web={"base_url": "https://node.example"})
    client = browser(web.make_app(settings, database, put=lambda job: None), scheme="http", address="127.0.0.1")
    lines = sign_in(client).headers.get_list("set-cookie")
    assert {line.split("=")[0] for line in lines} == {SESSION, DEVICE}
    assert all("secure" in line.lower() for line in lines)


def test_the_plain_cookie_is_nothing_over_https(app: Any, database: Database) -> None:
    """A neighbour of the domain can set `session`, but not `__Host-session`."""
    secret = signed_in(app).cookies[SESSION]
    client = browser(app)
    client.cookies.set("session", secret)
    assert client.get("/account").status_code == 303


def test_a_session_that_somebody_else_chose_is_not_taken_over(app: Any, database: Database) -> None:
    """Fixation: the secret is new with every sign-in, and the one the browser came with ends."""
    chosen = browser(app)
    chosen.headers["Cookie"] = f"{SESSION}=chosen-by-somebody-else"
    assert "chosen-by-somebody-else" not in str(sign_in(chosen).headers.get_list("set-cookie"))
    assert chosen.get("/account").status_code == 303
    other = signed_in(app)
    before = other.cookies[SESSION]
    assert sign_in(other).status_code == 303
    after = other.cookies[SESSION]
    assert after != before
    stale = browser(app)
    stale.cookies.set(SESSION, before)
    assert stale.get("/account").status_code == 303
    assert other.get("/account").status_code == 200


def test_signing_out_ends_the_session_not_only_the_cookie(app: Any) -> None:
    client = signed_in(app)
    kept = client.cookies[SESSION]
    assert client.post("/sign-out", data={"csrf": token_of(client)}).status_code == 303
    assert SESSION not in client.cookies and DEVICE in client.cookies
    stale = browser(app)
    stale.cookies.set(SESSION, kept)
    assert stale.get("/account").status_code == 303


@pytest.mark.parametrize("how", ["disabled", "state", "roles", "expired"])
def test_a_session_that_ended_elsewhere_opens_nothing(app: Any, database: Database, how: str) -> None:
    client = signed_in(app)
    with database.write() as connection:
        eva = people.account(connection, EVA)
        if how == "disabled":
            people.set_state(connection, "test", eva, people.DISABLED)
        elif how == "state":  # the session itself lives
            connection.execute(update(tables.users).values(state=people.DISABLED))
        elif how == "roles":
            people.set_roles(connection, "test", eva, ["specialist"])
        else:
            connection.execute(update(tables.sessions).values(expires_at="2020-01-01T00:00:00.000000+00:00"))
    answer = client.get("/account")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/account")


# -- forms


def test_a_form_shows_the_token_of_its_session(app: Any) -> None:
    client, other = signed_in(app), signed_in(app)
    mine, others = token_of(client), token_of(other)
    assert mine != others
    assert save(client, mine) == 303
    assert save(client, None, **{"X-CSRF-Token": mine}) == 303
    for wrong in (None, "", others, mine[:-1], mine.upper() + "x", "é"):
        assert save(client, wrong) == 403, wrong
    assert save(client, None, **{"X-CSRF-Token": others}) == 403


def test_the_token_is_not_the_secret_and_does_not_give_it_away(app: Any) -> None:
    client = signed_in(app)
    page = client.get("/account").text
    assert client.cookies[SESSION] not in page


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1.evil.example"},
        {"Origin": "https://127.0.0.1:444"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_sends_no_form_even_with_the_token(app: Any, headers: dict[str, str]) -> None:
    client = signed_in(app)
    token = token_of(client)
    assert save(client, token, **headers) == 403
    assert save(client, token) == 303


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_another_site_signs_nobody_in(app: Any, origin: str) -> None:
    """Else an attacker could make a doctor work in the attacker's account."""
    client = browser(app)
    client.headers["Origin"] = origin
    answer = sign_in(client)
    assert answer.status_code == 403 and "set-cookie" not in answer.headers


def test_a_body_in_parts_shows_the_token_in_its_header_only(app: Any) -> None:
    """It is not read to look for one: what it holds may be large."""
    client = signed_in(app)
    token = token_of(client)
    parts = {"name": (None, "Eva"), "language": (None, "es"), "csrf": (None, token)}
    assert client.post("/account", files=parts).status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_every_unsafe_method_of_every_route_asks_for_the_token(app: Any, method: str) -> None:
    from portal.gate import OPEN, routes_of

    client = signed_in(app)
    asked = 0
    for route in routes_of(app):
        if method in route.methods and route.permission != OPEN:
            path = re.sub(r"\{[^}]+\}", "x", route.path)
            assert client.request(method, path, headers={"Accept": "application/json"}).status_code == 403, path
            asked += 1
    assert asked > 5 or method != "POST"


# -- who calls


def test_a_key_in_a_header_goes_before_the_cookie(app: Any, database: Database) -> None:
    """Whoever shows a key is that key: no mixture of two callers."""
    client = signed_in(app)
    token = keys.create(database, "ehr", ["fhir:read"])
    json = {"Accept": "application/json"}
    assert client.get("/account", headers={"Authorization": f"Bearer {token}", **json}).status_code == 403
    assert client.get("/account", headers={"Authorization": "Bearer ain_wrong", **json}).status_code == 401
    assert client.get("/account", headers={"X-API-Key": "ain_wrong", **json}).status_code == 401
    assert client.get("/account").status_code == 200


def test_a_program_is_told_and_a_browser_is_led(app: Any) -> None:
    client = browser(app)
    assert client.get("/account", headers={"Accept": "application/json"}).status_code == 401
    answer = client.get("/account")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/account")


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "\thttps://evil.example"],
)
def test_signing_in_leads_to_no_other_site(app: Any, target: str) -> None:
    answer = browser(app).post("/sign-in", data={"email": EVA, "password": PASSWORD, "next": target})
    assert answer.status_code == 303
    assert re.fullmatch(r"/(?![/\\])[^\\]*", answer.headers["location"]), answer.headers["location"]


def test_who_must_change_the_password_gets_no_further(app: Any, database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(tables.users).values(must_change_password=True))
    client = browser(app)
    assert sign_in(client).headers["location"] == "/account/password"
    assert client.get("/account/password").status_code == 200
    assert client.get("/analyses").headers["location"] == "/account/password", "and is led there from every page"
    assert client.get("/api/me/getAnalysisList", headers={"Accept": "application/json"}).status_code == 403


# -- patience


def test_guessing_by_http_is_answered_429_with_when_to_come_back(app: Any) -> None:
    client = browser(app)
    answers = [sign_in(client, password="not the password") for _ in range(backoff.ACCOUNT.free + 1)]
    assert [answer.status_code for answer in answers] == [401] * backoff.ACCOUNT.free + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert sign_in(client).status_code == 429, "even with the right password"
    assert all("set-cookie" not in answer.headers for answer in answers)


def test_known_and_unknown_accounts_are_answered_alike(app: Any) -> None:
    client = browser(app)
    known = sign_in(client, password="not the password")
    unknown = sign_in(client, "nobody@hospital.example")
    assert known.status_code == unknown.status_code == 401
    assert known.text.replace(EVA, "…") == unknown.text.replace("nobody@hospital.example", "…")
    varying = {"x-correlation-id", "content-length"}
    told = [{k: v for k, v in a.headers.items() if k not in varying} for a in (known, unknown)]
    assert told[0] == told[1]


def test_addresses_are_not_believed_from_headers(app: Any, database: Database) -> None:
    """Else one caller had as many tries as there are addresses (S26)."""
    client = browser(app)
    for guess in range(backoff.ADDRESS.free):
        forged = {"X-Forwarded-For": f"198.51.100.{guess}", "X-Real-IP": f"198.51.100.{guess}"}
        told = {"email": f"guess-{guess}@hospital.example", "password": "x"}
        assert client.post("/sign-in", data=told, headers=forged).status_code == 401
    assert sign_in(client).status_code == 429
    assert sign_in(browser(app, address="203.0.113.10")).status_code == 303


@pytest.mark.parametrize("path", ["/account", "/sign-in", "/account/password"])
def test_pages_are_kept_by_nobody_and_run_no_strange_script(app: Any, path: str) -> None:
    headers = signed_in(app).get(path).headers
    assert headers["cache-control"] == "no-store"
    policy = headers["content-security-policy"]
    assert "script-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert "access-control-allow-origin" not in headers


def test_hostile_text_in_an_account_is_shown_as_text(app: Any, database: Database) -> None:
    client = signed_in(app)
    hostile = '"><script>alert(1)</script>{{7*7}}'
    told = {"name": hostile, "language": "en", "csrf": token_of(client)}
    assert client.post("/account", data=told).status_code == 303
    page = client.get("/account").text
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page and "{{7*7}}" in page


def test_the_audit_log_says_from_where_and_believes_no_header(app: Any, database: Database) -> None:
    """Whoever signs in, and whoever is refused; in the thread of a page, too."""
    lie = {"X-Forwarded-For": "10.0.0.1", "X-Real-IP": "10.0.0.1", "Forwarded": "for=10.0.0.1"}
    client = browser(app, address="2001:db8::5")
    client.headers.update(lie)
    assert sign_in(client, password="wrong").status_code == 401
    assert sign_in(client).status_code == 303
    assert client.post("/sign-out", data={"csrf": token_of(client)}).status_code == 303
    with database.read() as connection:
        rows = connection.execute(select(tables.audit).order_by(tables.audit.c.id.desc()).limit(3)).mappings().all()
    assert [row["action"] for row in rows] == ["session-ended", "sign-in", "sign-in-refused"]
    assert {row["detail"].get("address") for row in rows} == {"2001:db8::5"}
