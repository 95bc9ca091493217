"""Accounts at the desk: signing in, patience with failures, sessions, one-time links, roles, keys, sites (S7, S9)."""

from __future__ import annotations

import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from dicom_node import passwords
from dicom_node.desks import backoff
from dicom_node.desks.people import LUNA, Asked, People, SignInRefused
from dicom_node.passwords import PasswordRefused
from dicom_node.permissions import Role
from dicom_node.record import Database, audit, keys, people, sites, tables
from dicom_node.record.sites import PeopleRefused
from dicom_node.web_settings import PeopleSection
from tests.support.people import HERE, PASSWORD, THERE, make_sites, make_user

pytestmark = pytest.mark.component

EVA, NEW = "eva@hospital.example", "tres perros duermen junto al lago"


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
def desk(database: Database) -> People:
    return People(PeopleSection(), database)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash that costs nothing, where thousands of attempts are made and none is about the hash."""
    monkeypatch.setattr(passwords, "is_right", lambda stored, given: stored is not None and given == PASSWORD)
    monkeypatch.setattr(passwords, "is_outdated", lambda stored: False)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The record's clock, moved by hand."""

    class Clock:
        moment = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

        def now(self) -> str:
            return self.moment.isoformat(timespec="microseconds")

        def pass_time(self, **span: float) -> None:
            self.moment += timedelta(**span)

    made = Clock()
    for module in ("desks.backoff", "desks.people", "record.sessions", "record.people", "record.audit"):
        monkeypatch.setattr(f"dicom_node.{module}.now", made.now)
    return made


def wrong(desk: People, email: str = EVA, address: str = "203.0.113.9", device: str = "") -> float:
    """Fail once; the wait that was asked for, 0 when the attempt was looked at."""
    with pytest.raises(SignInRefused) as refused:
        desk.sign_in(Asked(email, "not the password", address, device=device))
    return refused.value.wait_s


def acts(database: Database) -> list[tuple[str, str]]:
    with database.read() as connection:
        assert audit.verify(connection) is None
        return [(row.actor, row.action) for row in connection.execute(select(tables.audit).order_by(tables.audit.c.id))]


# -- signing in


def test_address_and_password_make_a_session_that_is_hers(desk: People, database: Database) -> None:
    made = desk.sign_in(Asked(f"  {EVA.upper()} ", PASSWORD, "203.0.113.9", "a browser"))
    again = desk.identify(made.secret)
    assert again == made.person
    assert (made.person.email, made.person.roles, made.person.sites) == (EVA, {Role.CLINICIAN}, (HERE,))
    assert desk.identify(made.secret, LUNA) is None
    assert desk.identify(made.secret[:-1] + ("A" if made.secret[-1] != "A" else "B")) is None
    assert [row.agent for row in desk.sessions_of(made.person)] == ["a browser"]
    assert (made.person.actor, "sign-in") in acts(database)


def test_only_digests_are_kept(desk: People, database: Database, tmp_path: Path) -> None:
    made = desk.sign_in(Asked(EVA, PASSWORD, "203.0.113.9"))
    token = desk.password_token("test", EVA)
    wrong(desk)
    database.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in (made.secret, made.device, token, PASSWORD, "203.0.113.9", "not the password"):
        assert secret.encode() not in kept


def test_nobody_is_told_what_was_wrong(desk: People, database: Database) -> None:
    with database.write() as connection:
        gone = make_user_in(connection, "gone")
        people.set_state(connection, "test", gone, people.DISABLED)
    for email, password in ((EVA, "wrong"), ("nobody@hospital.example", PASSWORD), ("gone@hospital.example", PASSWORD)):
        with pytest.raises(SignInRefused) as refused:
            desk.sign_in(Asked(email, password, "203.0.113.9"))
        assert (refused.value.wait_s, str(refused.value)) == (0.0, "signing in was refused")
    with database.read() as connection:
        told = [row.detail for row in connection.execute(select(tables.audit)) if row.action == "sign-in-refused"]
    assert [set(detail) for detail in told] == [{"user", "account", "kind"}] * 3
    assert "hospital" not in str(told)


def make_user_in(connection: Any, name: str) -> people.User:
    return people.add_user(
        connection, "test", email=f"{name}@hospital.example", name=name, roles=["clinician"], sites=[HERE],
        password_hash="$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    )  # fmt: skip


def test_the_time_taken_does_not_say_which_accounts_exist(desk: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interleaved, so that a busy machine slows both alike; one hash each, which is nearly all of the time (S7)."""
    computed: list[str] = []
    real = passwords._hasher.verify
    monkeypatch.setattr(passwords._hasher.__class__, "verify", lambda _self, *a: computed.append(a[0]) or real(*a))
    passwords.prepare()
    taken: dict[str, list[float]] = {EVA: [], "nobody@hospital.example": []}
    for round_number in range(7):
        for email in taken:
            began = time.perf_counter()
            wrong(desk, email, f"198.51.100.{round_number}")
            taken[email].append(time.perf_counter() - began)
    known, unknown = (statistics.median(times) for times in taken.values())
    assert len(computed) == 14
    assert 0.5 < known / unknown < 2.0, taken


def test_every_hash_is_computed_a_few_at_a_time(desk: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: 64 MiB each (I7)."""
    together, most, lock = [0], [0], threading.Lock()

    def slow(*_: Any) -> bool:
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
        time.sleep(0.02)
        with lock:
            together[0] -= 1
        return True

    monkeypatch.setattr(passwords._hasher.__class__, "verify", slow)
    threads = [threading.Thread(target=passwords.is_right, args=("x", "y")) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 4


# -- patience


@pytest.mark.usefixtures("quick")
def test_an_account_is_guessed_slower_and_slower_and_never_shut(desk: People, clock: Any) -> None:
    """From a new address each time: a minute at most, and the right password is right after that minute."""
    looked_at = 0
    for attempt in range(200):
        if wrong(desk, address=f"198.51.100.{attempt}") == 0.0:
            looked_at += 1
        clock.pass_time(seconds=1)
    assert backoff.ACCOUNT.free <= looked_at < 20
    assert 0 < wrong(desk) <= 60
    clock.pass_time(seconds=60)
    assert desk.sign_in(Asked(EVA, PASSWORD, "203.0.113.9")).person.email == EVA


@pytest.mark.usefixtures("quick")
def test_a_thousand_attempts_at_once_are_a_thousand_attempts(desk: People) -> None:
    """Counted before it is looked at: no window between looking and counting."""
    looked_at: list[float] = []
    barrier = threading.Barrier(8)

    def hammer(number: int) -> None:
        barrier.wait()
        looked_at.extend(wrong(desk, address=f"198.51.100.{number}") for _ in range(10))

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looked_at) == 80
    assert looked_at.count(0.0) <= backoff.ACCOUNT.free + 3  # a few more where a wait ended while the test ran


@pytest.mark.usefixtures("quick")
def test_strangers_do_not_lock_a_doctor_out_of_her_own_phone(desk: People, clock: Any) -> None:
    phone = desk.sign_in(Asked(EVA, PASSWORD, "192.0.2.1")).device
    for attempt in range(50):
        wrong(desk, address=f"198.51.100.{attempt}")
    assert wrong(desk) > 0
    made = desk.sign_in(Asked(EVA, PASSWORD, "192.0.2.77", device=phone))
    assert made.device == phone
    assert wrong(desk) > 0, "her success does not give strangers new tries"


@pytest.mark.usefixtures("quick")
def test_a_stolen_browser_cannot_guess_either(desk: People, clock: Any) -> None:
    phone = desk.sign_in(Asked(EVA, PASSWORD, "192.0.2.1")).device
    answers = [wrong(desk, device=phone) for _ in range(backoff.FAMILIAR.free + 3)]
    assert answers[: backoff.FAMILIAR.free] == [0.0] * backoff.FAMILIAR.free
    assert all(answers[backoff.FAMILIAR.free :])


@pytest.mark.usefixtures("quick")
def test_what_a_browser_keeps_is_worth_nothing_for_another_account(desk: People, database: Database) -> None:
    make_user(database, "ana", [Role.CLINICIAN])
    phone = desk.sign_in(Asked(EVA, PASSWORD, "192.0.2.1")).device
    for _ in range(backoff.ACCOUNT.free):
        wrong(desk, "ana@hospital.example", device=phone)
    assert wrong(desk, "ana@hospital.example", device=phone) > 0


@pytest.mark.usefixtures("quick")
def test_a_clinic_behind_one_address_is_not_locked_out(desk: People, database: Database, clock: Any) -> None:
    """Somebody in the clinic guesses at many accounts: doctors whose browsers are known go on as before; others wait
    half a minute at most."""
    doctors = [make_user(database, f"doctor-{n}", [Role.CLINICIAN]) for n in range(3)]
    clinic = "192.0.2.1"
    known = {d.email: desk.sign_in(Asked(d.email, PASSWORD, clinic)).device for d in doctors[:2]}
    for guess in range(backoff.ADDRESS.free + 5):
        wrong(desk, f"guess-{guess}@hospital.example", clinic)
    for email, device in known.items():
        desk.sign_in(Asked(email, PASSWORD, clinic, device=device))
    with pytest.raises(SignInRefused) as refused:
        desk.sign_in(Asked(doctors[2].email, PASSWORD, clinic))
    assert 0 < refused.value.wait_s <= 30
    desk.sign_in(Asked(doctors[2].email, PASSWORD, "192.0.2.200"))
    clock.pass_time(seconds=30)
    desk.sign_in(Asked(doctors[2].email, PASSWORD, clinic))


@pytest.mark.usefixtures("quick")
def test_fifty_doctors_at_once_from_one_address(desk: People, database: Database) -> None:
    doctors = [make_user(database, f"doctor-{n}", [Role.CLINICIAN]) for n in range(50)]
    made: list[Any] = []
    threads = [
        threading.Thread(target=lambda d=d: made.append(desk.sign_in(Asked(d.email, PASSWORD, "192.0.2.1"))))
        for d in doctors
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.person.user_id for one in made} == {doctor.id for doctor in doctors}


@pytest.mark.usefixtures("quick")
def test_the_last_half_of_an_ipv6_address_is_nobodys_own(desk: People, clock: Any) -> None:
    waits = [
        wrong(desk, f"guess-{n}@hospital.example", f"2001:db8:1:1::{n:x}") for n in range(backoff.ADDRESS.free + 2)
    ]
    assert waits[0] == 0.0 and waits[-1] > 0
    assert wrong(desk, "guess-x@hospital.example", "2001:db8:1:2::1") == 0.0


# -- sessions


@pytest.mark.usefixtures("quick")
def test_a_session_ends_without_use_and_in_any_case(desk: People, clock: Any) -> None:
    secret = desk.sign_in(Asked(EVA, PASSWORD)).secret
    for _ in range(4):
        clock.pass_time(minutes=14)
        assert desk.identify(secret) is not None
    clock.pass_time(minutes=16)
    assert desk.identify(secret) is None
    secret = desk.sign_in(Asked(EVA, PASSWORD)).secret
    for _ in range(11 * 6):
        clock.pass_time(minutes=10)
        assert desk.identify(secret) is not None
    clock.pass_time(minutes=61)
    assert desk.identify(secret) is None


@pytest.mark.usefixtures("quick")
def test_a_page_that_asks_by_itself_keeps_nobody_signed_in(desk: People, clock: Any) -> None:
    secret = desk.sign_in(Asked(EVA, PASSWORD)).secret
    for _ in range(14):
        clock.pass_time(minutes=1)
        assert desk.identify(secret, is_background=True) is not None
    clock.pass_time(minutes=1)
    assert desk.identify(secret, is_background=True) is None


@pytest.mark.usefixtures("quick")
def test_a_luna_session_lasts_as_long_as_it_was_given(desk: People, clock: Any, database: Database) -> None:
    secret = desk.sign_in(Asked(EVA, PASSWORD), LUNA, timedelta(hours=8)).secret
    clock.pass_time(hours=7, minutes=59)
    assert desk.identify(secret, LUNA) is not None
    clock.pass_time(minutes=1)
    assert desk.identify(secret, LUNA) is None


def test_one_ends_ones_own_sessions_and_no_others(desk: People, database: Database) -> None:
    make_user(database, "ana", [Role.CLINICIAN])
    first, second = (desk.sign_in(Asked(EVA, PASSWORD)) for _ in range(2))
    other = desk.sign_in(Asked("ana@hospital.example", PASSWORD))
    assert first.secret != second.secret
    assert other.person.session_id is not None and second.person.session_id is not None
    assert {row.id for row in desk.sessions_of(first.person)} == {first.person.session_id, second.person.session_id}
    assert not desk.end_session(first.person, other.person.session_id)
    assert desk.end_session(first.person, second.person.session_id)
    assert not desk.end_session(first.person, second.person.session_id)
    assert desk.identify(second.secret) is None and desk.identify(other.secret) is not None
    desk.sign_out(first.person)
    assert desk.identify(first.secret) is None


@pytest.mark.parametrize("change", ["roles", "sites", "disabled", "password-link"])
def test_what_changes_an_account_ends_its_sessions(desk: People, database: Database, change: str) -> None:
    secrets = [desk.sign_in(Asked(EVA, PASSWORD)).secret, desk.sign_in(Asked(EVA, PASSWORD), LUNA).secret]
    with database.write() as connection:
        eva = people.account(connection, EVA)
        if change == "roles":
            people.set_roles(connection, "test", eva, ["specialist"])
        elif change == "sites":
            people.set_roles(connection, "test", eva, ["clinician"], [THERE])
        elif change == "disabled":
            people.set_state(connection, "test", eva, people.DISABLED)
    if change == "password-link":
        desk.set_password(desk.password_token("test", EVA), NEW)
    assert [desk.identify(secrets[0]), desk.identify(secrets[1], LUNA)] == [None, None]


def test_nobody_is_signed_in_with_an_account_that_is_not_active(desk: People, database: Database) -> None:
    """Whatever became of the row of her session: a sign-in of the same moment, a back-up that was brought back."""
    made = desk.sign_in(Asked(EVA, PASSWORD))
    with database.write() as connection:
        connection.execute(update(tables.users).values(state=people.DISABLED))
    assert desk.identify(made.secret) is None
    with database.write() as connection:
        connection.execute(update(tables.users).values(state="active"))
    assert desk.identify(made.secret) is not None


# -- passwords


def test_a_new_password_ends_the_other_sessions_and_the_old_password(desk: People) -> None:
    here, there = (desk.sign_in(Asked(EVA, PASSWORD)) for _ in range(2))
    with pytest.raises(PasswordRefused):
        desk.change_password(here.person, PASSWORD, "eva2026")
    with pytest.raises(SignInRefused):
        desk.change_password(here.person, "not the password", NEW)
    assert desk.identify(there.secret) is not None
    desk.change_password(here.person, PASSWORD, NEW)
    assert desk.identify(here.secret) is not None and desk.identify(there.secret) is None
    wrong_again = Asked(EVA, PASSWORD)
    with pytest.raises(SignInRefused):
        desk.sign_in(wrong_again)
    assert desk.sign_in(Asked(EVA, NEW)).person.email == EVA


@pytest.mark.usefixtures("quick")
def test_a_borrowed_session_cannot_guess_the_password(desk: People) -> None:
    person = desk.sign_in(Asked(EVA, PASSWORD)).person
    waits = []
    for _ in range(backoff.FAMILIAR.free + 1):
        with pytest.raises(SignInRefused) as refused:
            desk.change_password(person, "not the password", NEW)
        waits.append(refused.value.wait_s)
    assert waits[-1] > 0
    assert wrong(desk) == 0.0, "and nobody else waits for it"


def test_a_link_sets_a_password_once(desk: People, database: Database) -> None:
    token = desk.password_token("test", EVA)
    with pytest.raises(PasswordRefused):
        desk.set_password(token, "too short")
    desk.set_password(token, NEW)
    with pytest.raises(SignInRefused):
        desk.set_password(token, NEW + " dos")
    assert desk.sign_in(Asked(EVA, NEW)).person.email == EVA
    assert ("test", "password-token-made") in acts(database)


@pytest.mark.parametrize("why", ["unknown", "too old", "replaced", "disabled"])
def test_a_link_that_is_not_good_sets_nothing(desk: People, database: Database, why: str) -> None:
    token = desk.password_token("test", EVA)
    if why == "unknown":
        token = token[::-1]
    elif why == "too old":
        with database.write() as connection:
            connection.execute(update(tables.password_tokens).values(expires_at="2020-01-01T00:00:00.000000+00:00"))
    elif why == "replaced":
        desk.password_token("test", EVA)
    else:
        with database.write() as connection:
            people.set_state(connection, "test", people.account(connection, EVA), people.DISABLED)
            people.set_state(connection, "test", people.account(connection, EVA), people.ACTIVE)
    with pytest.raises(SignInRefused):
        desk.set_password(token, NEW)
    assert desk.sign_in(Asked(EVA, PASSWORD)).person.email == EVA


def test_a_changed_password_makes_links_worthless(desk: People) -> None:
    """Whoever fears for her account changes her password: a link in a mailbox that is not hers alone is over, too."""
    token = desk.password_token("test", EVA)
    desk.change_password(desk.sign_in(Asked(EVA, PASSWORD)).person, PASSWORD, NEW)
    with pytest.raises(SignInRefused):
        desk.set_password(token, f"{NEW} otra")
    assert desk.sign_in(Asked(EVA, NEW)).person.email == EVA


def test_a_link_that_nobody_made_costs_no_hash(desk: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask, so asking is cheap (I7)."""
    monkeypatch.setattr(passwords, "hash_of", lambda _: pytest.fail("a hash for a stranger"))
    with pytest.raises(SignInRefused):
        desk.set_password("A" * 43, NEW)


def test_a_link_spent_twice_at_once_is_spent_once(desk: People) -> None:
    token = desk.password_token("test", EVA)
    done: list[str] = []

    def spend(number: int) -> None:
        try:
            desk.set_password(token, f"{NEW} {number}")
            done.append(f"{NEW} {number}")
        except SignInRefused:
            pass

    threads = [threading.Thread(target=spend, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1
    assert desk.sign_in(Asked(EVA, done[0])).person.email == EVA


# -- accounts and sites


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"email": "no address"}, "email-invalid"),
        ({"email": "a@b\n.example"}, "email-invalid"),
        ({"email": f"  {EVA.upper()}"}, "email-taken"),
        ({"name": " \t "}, "name-invalid"),
        ({"name": "a\x00b"}, "name-invalid"),
        ({"roles": []}, "roles-missing"),
        ({"roles": ["root"]}, "roles-missing"),
        ({"sites": []}, "site-needed"),
        ({"sites": ["nowhere"]}, "site-unknown"),
        ({"language": "de"}, "language-unknown"),
    ],
)
def test_an_account_that_does_not_fit_is_not_made(desk: People, changed: dict[str, Any], reason: str) -> None:
    asked = {"email": "ana@hospital.example", "name": "Ana", "roles": ["clinician"], "sites": [HERE], "language": "es"}
    with pytest.raises(PeopleRefused) as refused:
        desk.create("test", **{**asked, **changed})
    assert refused.value.reason == reason


def test_the_last_administrator_stays(desk: People, database: Database) -> None:
    first = make_user(database, "root", [Role.ADMINISTRATOR], [])
    for act in (
        lambda c: people.set_state(c, "test", first, people.DISABLED),
        lambda c: people.set_roles(c, "test", first, ["operator"]),
    ):
        with pytest.raises(PeopleRefused) as refused, database.write() as connection:
            act(connection)
        assert refused.value.reason == "last-administrator"
    second = make_user(database, "next", [Role.ADMINISTRATOR], [])
    with database.write() as connection:
        people.set_state(connection, "test", first, people.DISABLED)
    with pytest.raises(PeopleRefused), database.write() as connection:
        people.set_roles(connection, "test", second, ["operator"])


def test_a_closed_site_takes_nobody_new_and_keeps_who_is_there(desk: People, database: Database) -> None:
    with database.write() as connection:
        sites.close_site(connection, "test", HERE)
        people.set_roles(connection, "test", people.account(connection, EVA), ["specialist"])
        assert people.account(connection, EVA).sites == (HERE,)
    with pytest.raises(PeopleRefused) as refused:
        desk.create("test", email="ana@hospital.example", name="Ana", roles=["clinician"], sites=[HERE])
    assert refused.value.reason == "site-unknown"


@pytest.mark.parametrize(
    "kinds",
    [
        [{"key": "RUT", "issuer": "RUT-CL"}],
        [{"key": "rut", "issuer": "RUT-CL", "check": "luhn"}],
        [{"key": "rut", "issuer": "RUT-CL", "colour": "red"}],
        [{"key": "rut", "issuer": "RUT-CL"}, {"key": "rut", "issuer": "RUT-CL"}],
        [{"title": "RUT", "issuer": "RUT-CL"}],
        [{"key": "rut", "check": "rut"}],
    ],
)
def test_a_type_of_identifier_that_is_not_understood_makes_no_site(
    database: Database, kinds: list[dict[str, str]]
) -> None:
    with pytest.raises(PeopleRefused), database.write() as connection:
        sites.add_site(connection, "test", key="ancud", title="Ancud", identifier_types=kinds)


# -- keys of accounts


def test_a_key_may_what_its_account_may_now(database: Database) -> None:
    histology = make_user(database, "histology", [Role.SERVICE], [])
    token = keys.create(database, "lab", ["outcome:write", "fhir:read"], account=histology.email)
    identity = keys.verify(database, token)
    assert identity is not None and identity.person is not None and identity.person.user_id == histology.id
    assert identity.may("outcome:write") and identity.may("fhir:read")
    assert not identity.may("audit:read") and not identity.may("analysis:site")
    with database.write() as connection:
        people.set_roles(connection, "test", histology, ["operator"])
    changed = keys.verify(database, token)
    assert changed is not None and not changed.may("outcome:write") and changed.may("fhir:read")
    with database.write() as connection:
        people.set_state(connection, "test", histology, people.DISABLED)
    assert keys.verify(database, token) is None


@pytest.mark.parametrize(
    ("account", "scopes", "reason"),
    [
        ("", ["outcome:write"], "scope-unknown"),
        (EVA, ["outcome:write"], "scope-beyond-roles"),
        (EVA, ["user:manage"], "scope-unknown"),
        ("nobody@hospital.example", ["analysis:own"], "account-unknown"),
    ],
)
def test_a_key_never_goes_beyond_its_account(database: Database, account: str, scopes: list[str], reason: str) -> None:
    with pytest.raises(keys.KeyRefused) as refused:
        keys.create(database, "key", scopes, account=account)
    assert refused.value.reason == reason
