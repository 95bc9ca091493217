"""The second factor of people (S7): codes that count once, asked for after the password, needed where the role says so.

Clocks are the test's, so that nothing waits for the next half minute.
"""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyotp
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from dicom_node import passwords
from dicom_node.cli import web
from dicom_node.desks import backoff, codes
from dicom_node.desks.codes import KEY_FILE, Codes
from dicom_node.desks.people import LUNA, Asked, People, SecondFactorNeeded, SignInRefused
from dicom_node.permissions import Person, Role
from dicom_node.record import Database, people, second_factors, tables
from dicom_node.record.sites import PeopleRefused
from dicom_node.settings import Settings
from dicom_node.web_settings import PeopleSection
from tests.support.people import PASSWORD, make_sites, make_user

pytestmark = pytest.mark.component

EVA, ROOT = "eva@hospital.example", "root@hospital.example"
SESSION = "__Host-session"
START = 1_800_000_000.0


class Clock:
    """Seconds since 1970, as the test wants them."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("people") / "records.sqlite"
    made = Database(f"sqlite:///{path}")
    made.migrate()
    make_sites(made)
    make_user(made, "eva", [Role.CLINICIAN])
    make_user(made, "root", [Role.ADMINISTRATOR])
    make_user(made, "rita", [Role.ADMINISTRATOR])
    made.close()
    return path


@pytest.fixture
def database(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    shutil.copy(prepared, tmp_path / "records.sqlite")
    monkeypatch.setattr(passwords, "is_right", lambda stored, given: stored is not None and given == PASSWORD)
    monkeypatch.setattr(passwords, "is_outdated", lambda stored: False)
    made = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every desk that a test makes."""
    made = Clock()
    monkeypatch.setattr(Codes.__init__, "__defaults__", ("offered", "", made))
    return made


@pytest.fixture
def desk(tmp_path: Path, database: Database, clock: Clock) -> People:
    return People(PeopleSection(), database, Codes(database, tmp_path))


def person(database: Database, email: str) -> Person:
    with database.read() as connection:
        return people.account(connection, email).person(None, "portal")


def code_of(secret: str, clock: Clock, steps: int = 0) -> str:
    return pyotp.TOTP(secret).at(int(clock.now) + 30 * steps)


def set_up(desk: People, database: Database, clock: Clock, email: str = EVA) -> tuple[str, tuple[str, ...]]:
    """Give somebody a second factor: its secret, and the recovery codes.  Its next code is one of a later step."""
    assert desk.codes is not None
    who = person(database, email)
    desk.codes.begin(who)
    enrolment = desk.codes.pending(who)
    assert enrolment is not None
    recovery = desk.codes.confirm(who, code_of(enrolment.secret, clock))
    assert recovery is not None
    clock.now += 30
    return enrolment.secret, recovery


def acts(database: Database) -> list[tuple[str, str]]:
    with database.read() as connection:
        return [(row.actor, row.action) for row in connection.execute(select(tables.audit).order_by(tables.audit.c.id))]


# -- codes


def test_a_code_counts_once_and_none_before_it_counts_after_it(desk: People, database: Database, clock: Clock) -> None:
    secret, _ = set_up(desk, database, clock)
    now_code, before = code_of(secret, clock), code_of(secret, clock, -1)

    def taken(code: str) -> bool:
        assert desk.codes is not None
        with database.write() as connection:
            return desk.codes.take(connection, people.account(connection, EVA), code)

    assert not taken(before), "the code that confirmed the device has been used"
    assert taken(f"{now_code[:3]} {now_code[3:]}") and not taken(now_code)
    clock.now += 60
    assert taken(code_of(secret, clock, 1)), "a clock may be half a minute early"
    assert not taken(code_of(secret, clock, 0)) and not taken(code_of(secret, clock, -1))
    clock.now += 300
    assert not taken(code_of(secret, clock, 2)) and not taken(code_of(secret, clock, -2))
    assert taken(code_of(secret, clock, -1)), "or late"
    for none in ("", "12345", "1234567", "abcdef", "١٢٣٤٥٦", code_of(pyotp.random_base32(), clock) + "0"):
        assert not taken(none)


def test_a_recovery_code_counts_once_however_it_is_spelled(desk: People, database: Database, clock: Clock) -> None:
    _, recovery = set_up(desk, database, clock)
    assert len(set(recovery)) == 10 and all(re.fullmatch(r"([A-Z2-7]{4}-){3}[A-Z2-7]{4}", one) for one in recovery)
    asked = Asked(EVA, PASSWORD, "203.0.113.9", code=f" {recovery[3].lower().replace('-', ' ')}")
    assert desk.sign_in(asked).person.email == EVA
    with pytest.raises(SignInRefused):
        desk.sign_in(asked)
    assert desk.codes is not None and desk.codes.left(person(database, EVA)) == 9
    assert desk.sign_in(replace(asked, code=recovery[0])).person.email == EVA


def test_what_makes_codes_is_sealed_by_a_key_outside_the_database(
    desk: People, database: Database, clock: Clock, tmp_path: Path
) -> None:
    secret, recovery = set_up(desk, database, clock)
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("records.sqlite*"))
    words = [secret.encode(), pyotp.TOTP(secret).byte_secret()]
    words += [form.encode() for one in recovery for form in (one, one.replace("-", ""))]
    assert not [word for word in words if word in kept]
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    # in another account's row it opens nothing
    set_up(desk, database, clock, ROOT)
    with database.write() as connection:
        eva, root = (people.account(connection, one) for one in (EVA, ROOT))
        found = second_factors.of(connection, eva.id)
        assert found is not None
        rows = tables.second_factors
        connection.execute(update(rows).where(rows.c.user_id == root.id).values(secret=found.secret))
        assert desk.codes is not None and not desk.codes.take(connection, root, code_of(secret, clock))


def test_a_lost_key_lets_nobody_in_but_by_a_recovery_code(
    desk: People, database: Database, clock: Clock, tmp_path: Path
) -> None:
    secret, recovery = set_up(desk, database, clock)
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(SignInRefused):
        desk.sign_in(Asked(EVA, PASSWORD, code=code_of(secret, clock)))
    assert desk.sign_in(Asked(EVA, PASSWORD, code=recovery[0])).person.email == EVA


def test_a_desk_without_codes_lets_nobody_in_who_has_a_second_factor(
    desk: People, database: Database, clock: Clock
) -> None:
    secret, _ = set_up(desk, database, clock)
    with pytest.raises(SignInRefused):
        People(PeopleSection(), database).sign_in(Asked(EVA, PASSWORD, code=code_of(secret, clock)))


# -- signing in


def test_a_right_password_alone_opens_nothing(desk: People, database: Database, clock: Clock) -> None:
    secret, _ = set_up(desk, database, clock)
    with pytest.raises(SecondFactorNeeded) as needed:
        desk.sign_in(Asked(EVA, PASSWORD))
    half = needed.value.half
    assert desk.identify(half) is None and desk.identify(half, LUNA) is None
    assert desk.sessions_of(person(database, EVA)) == []
    with pytest.raises(SignInRefused):
        desk.second_step(half, Asked("", "", code="000000"))
    made = desk.second_step(half, Asked("", "", code=code_of(secret, clock)))
    assert made is not None and desk.identify(made.secret) == made.person
    clock.now += 30
    assert desk.second_step(half, Asked("", "", code=code_of(secret, clock))) is None, "it counted"
    assert desk.second_step("made-up", Asked("", "", code=code_of(secret, clock))) is None


def test_a_password_waits_five_minutes_for_its_code_and_ends_with_the_password(
    desk: People, database: Database, clock: Clock
) -> None:
    secret, _ = set_up(desk, database, clock)
    halves = []
    for _ in range(2):
        with pytest.raises(SecondFactorNeeded) as needed:
            desk.sign_in(Asked(EVA, PASSWORD))
        halves.append(needed.value.half)
    with database.write() as connection:
        row = tables.sessions.c.kind == "half"
        first = connection.execute(select(tables.sessions.c.id).where(row)).scalars().first()
        past = {"expires_at": "2020-01-01T00:00:00.000000+00:00"}
        connection.execute(update(tables.sessions).where(tables.sessions.c.id == first).values(**past))
    assert desk.second_step(halves[0], Asked("", "", code=code_of(secret, clock))) is None
    with database.write() as connection:
        people.set_password(connection, "test", people.account(connection, EVA), "-")
    assert desk.second_step(halves[1], Asked("", "", code=code_of(secret, clock))) is None


def test_wrong_codes_slow_down_and_a_right_password_forgives_none_of_them(
    desk: People, database: Database, clock: Clock
) -> None:
    secret, _ = set_up(desk, database, clock)
    place = {"address": "203.0.113.9", "device": "d" * 43}
    looked_at = 0
    for _ in range(30):
        try:
            with pytest.raises(SecondFactorNeeded) as needed:
                desk.sign_in(Asked(EVA, PASSWORD, **place))
            desk.second_step(needed.value.half, Asked("", "", code="000000", **place))
        except SignInRefused as no:
            if no.wait_s:
                break
            looked_at += 1
    assert looked_at == backoff.CODE.free
    with pytest.raises(SignInRefused) as refused:  # a right one is not looked at either
        desk.second_step(needed.value.half, Asked("", "", code=code_of(secret, clock), **place))
    assert refused.value.wait_s > 0
    assert backoff.CODE.wait_s(100) == 600.0, "a guesser with the password: three codes of a million in ten minutes"
    refusals = [one for one in acts(database) if one == ("nobody", "sign-in-refused")]
    assert len(refusals) == looked_at


def test_a_luna_client_says_the_code_with_the_password(
    desk: People, database: Database, clock: Clock, tmp_path: Path
) -> None:
    secret, _ = set_up(desk, database, clock)
    app = web.make_app(Settings(data={"folder": tmp_path}), database, put=lambda job: None)
    client = TestClient(app, base_url="http://127.0.0.1", client=("203.0.113.9", 40000))

    def ask(email: str = EVA, **more: str) -> Any:
        return client.post("/signin", json={"email": email, "password": PASSWORD, **more})

    bare = ask()
    assert bare.status_code == 401 and bare.json()["secondFactor"] == "code" and "token" not in bare.json()
    wrong = ask(code="000000")
    assert wrong.status_code == 401 and "secondFactor" not in wrong.json()
    token = ask(code=code_of(secret, clock)).json()["token"]
    assert client.get("/api/me", headers={"x-access-token": token}).status_code == 200
    assert ask(code=code_of(secret, clock)).status_code == 401, "it was used"
    forced = Settings(data={"folder": tmp_path}, people={"second_factor": "administrators"})
    client.app = web.make_app(forced, database, put=lambda job: None)
    client = TestClient(client.app, base_url="http://127.0.0.1", client=("203.0.113.9", 40000))
    assert ask(ROOT).status_code == 401 and ask(ROOT).json()["secondFactor"] == "set-up"


# -- by pages


def browser(app: Any, address: str = "203.0.113.9") -> TestClient:
    headers = {"Accept": "text/html", "Origin": "https://127.0.0.1"}
    client = (address, 40000)
    return TestClient(app, base_url="https://127.0.0.1", client=client, headers=headers, follow_redirects=False)


def sign_in(client: TestClient, email: str) -> Any:
    return client.post("/sign-in", data={"email": email, "password": PASSWORD, "next": ""})


def send(client: TestClient, path: str, **fields: str) -> Any:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', client.get("/account").text)
    assert found is not None
    return client.post(path, data={"csrf": found[1], **fields})


def secret_in(text: str) -> str:
    found = re.search(r'id="secret">([A-Z2-7 ]+)<', text)
    assert found is not None, text
    return found[1].replace(" ", "")


def app_of(tmp_path: Path, database: Database, policy: str | None = None, **web_section: Any) -> Any:
    section = {} if policy is None else {"second_factor": policy}
    chosen = Settings(data={"folder": tmp_path}, people=section, web=web_section)
    return web.make_app(chosen, database, put=lambda job: None)


def test_set_up_sign_in_replace_and_remove_by_page(tmp_path: Path, database: Database, clock: Clock) -> None:
    app = app_of(tmp_path, database)
    eva, elsewhere = browser(app), browser(app, "203.0.113.10")
    assert sign_in(eva, EVA).headers["location"] == "/" and sign_in(elsewhere, EVA).status_code == 303
    page = "/account/second-factor"
    assert send(eva, page, password="wrong").status_code == 422
    shown = send(eva, page, password=PASSWORD)
    secret = secret_in(shown.text)
    assert "<svg" in shown.text and "otpauth://totp/" in shown.text and shown.headers["cache-control"] == "no-store"
    assert 'autocomplete="one-time-code"' in shown.text and 'inputmode="numeric"' in shown.text
    assert send(elsewhere, f"{page}/confirm", code=code_of(secret, clock)).status_code == 422, "not its session"
    assert secret_in(send(eva, f"{page}/confirm", code="000000").text) == secret
    done = send(eva, f"{page}/confirm", code=code_of(secret, clock))
    recovery = re.findall(r"<code>([A-Z2-7-]{19})</code>", done.text)
    assert len(recovery) == 10
    assert elsewhere.get("/account").status_code == 303, "it was begun without a code"
    assert recovery[0] not in eva.get(page).text and secret not in eva.get(page).text

    clock.now += 30
    again = browser(app)
    asked = sign_in(again, EVA)
    assert asked.status_code == 200 and SESSION not in again.cookies and 'inputmode="numeric"' in asked.text
    found = re.search(r'name="half" value="([^"]+)"', asked.text)
    assert found is not None
    half = {"half": found[1], "next": "/analyses", "recovery": ""}
    assert again.post("/sign-in/code", data={**half, "code": "000000"}).status_code == 401
    done = again.post("/sign-in/code", data={**half, "code": code_of(secret, clock)})
    assert done.status_code == 303 and done.headers["location"] == "/analyses" and SESSION in again.cookies
    late = again.post("/sign-in/code", data={**half, "code": code_of(secret, clock)})
    assert late.status_code == 401 and "/sign-in/code" not in late.text

    assert send(again, page, password=PASSWORD, code="").status_code == 422, "the present device is asked for"
    other = secret_in(send(again, page, password=PASSWORD, code=recovery[0]).text)
    assert other != secret
    clock.now += 30
    assert send(again, f"{page}/confirm", code=code_of(secret, clock)).status_code == 422
    assert send(again, f"{page}/confirm", code=code_of(other, clock)).status_code == 200
    clock.now += 30
    assert send(again, f"{page}/remove", password=PASSWORD, code=code_of(secret, clock)).status_code == 422
    removed = send(again, f"{page}/remove", password=PASSWORD, code=code_of(other, clock))
    assert removed.headers["location"] == "/account?said=factor-removed"
    assert sign_in(browser(app), EVA).status_code == 303
    told = [action for _, action in acts(database) if "factor" in action or "recovery" in action]
    once = ["second-factor-begun", "second-factor-set"]
    assert told == [*once, "recovery-code-used", *once, "second-factor-removed"]


def test_whoever_needs_one_is_led_to_it_before_anything_else(tmp_path: Path, database: Database, clock: Clock) -> None:
    free = browser(app_of(tmp_path, database, "offered"))
    assert sign_in(free, ROOT).headers["location"] == "/"
    app = app_of(tmp_path, database, "administrators")
    root, page = browser(app), "/account/second-factor"
    assert sign_in(root, ROOT).headers["location"] == page
    for path in ("/administration", "/administration/audit", "/operation"):
        assert (root.get(path).status_code, root.get(path).headers["location"]) == (303, page)
        assert root.get(path, headers={"Accept": "application/json"}).status_code == 403
    assert root.get("/account").status_code == 200
    stale = browser(app)
    stale.cookies.set(SESSION, free.cookies[SESSION])
    assert stale.get("/administration").status_code == 303, "a session from before is held to it too"
    secret = secret_in(send(root, page, password=PASSWORD).text)
    assert send(root, f"{page}/confirm", code=code_of(secret, clock)).status_code == 200
    assert root.get("/administration").status_code == 200
    clock.now += 30
    assert send(root, f"{page}/remove", password=PASSWORD, code=code_of(secret, clock)).status_code == 422
    assert sign_in(browser(app), EVA).headers["location"] == "/"
    assert sign_in(browser(app_of(tmp_path, database, "all")), EVA).headers["location"] == page


@pytest.mark.parametrize(
    ("section", "policy"),
    [
        ({}, "offered"),
        ({"host": "127.0.0.1", "allowed_hosts": ["localhost"]}, "offered"),
        ({"host": "0.0.0.0", "insecure_ok_because": "a test"}, "administrators"),
        ({"allowed_hosts": ["luna.hospital.example"]}, "administrators"),
    ],
)
def test_administrators_need_one_where_others_reach_the_portal(section: dict[str, Any], policy: str) -> None:
    assert Settings(web=section).second_factor == policy
    assert Settings(web=section, people={"second_factor": "all"}).second_factor == "all"


def test_another_administrator_takes_it_away_and_nobody_ones_own(
    tmp_path: Path, database: Database, desk: People, clock: Clock
) -> None:
    set_up(desk, database, clock)
    app = app_of(tmp_path, database)
    with database.write() as connection:
        eva, root = people.account(connection, EVA), people.account(connection, ROOT)
        with pytest.raises(PeopleRefused) as own:
            second_factors.reset(connection, eva.actor, eva)
        assert own.value.reason == "second-factor-own"
    _, secret = desk.open_session(eva, "portal")
    admin = browser(app)
    assert sign_in(admin, ROOT).status_code == 303
    assert send(admin, f"/administration/users/{root.public_id}/second-factor").status_code == 422
    done = send(admin, f"/administration/users/{eva.public_id}/second-factor")
    assert done.status_code == 303 and desk.identify(secret) is None
    assert send(admin, f"/administration/users/{eva.public_id}/second-factor").status_code == 422, "there is none"
    assert sign_in(browser(app), EVA).status_code == 303
    assert (root.actor, "second-factor-reset") in acts(database)


def test_every_candidate_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Constant time: no early exit, by the library's comparison."""
    compared: list[bytes] = []
    real = codes.hmac.compare_digest
    monkeypatch.setattr(codes.hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b))
    clock, secret = Clock(), pyotp.random_base32()
    desk = Codes(None, tmp_path, clock=clock)  # type: ignore[arg-type]
    for code in (code_of(secret, clock, -1), code_of(secret, clock, 1), "000000"):
        compared.clear()
        desk._step(secret, code)
        assert len(compared) == 2 * codes.SKEW + 1
