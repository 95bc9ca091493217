"""What specialists and administrators do, in real Chromium, by keyboard and by thumb.  How the pages look:
test_walks.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from sqlalchemy import select

from dicom_node.record import keys, tables
from tests.support.browsers import DESK, PHONE, Window, chromium, window
from tests.support.clinics import PASSWORD, Clinic, clinic

pytestmark = pytest.mark.system

GP, DERM, ADMIN = "gp@post.example", "derm@post.example", "admin@post.example"
JANE = {"id": "12345678-5", "type": "rut", "system": "x", "issuer": "CL", "name": "ROE^JANE", "birth_date": "19700101",
        "sex": "F", "confirmed": "user"}  # fmt: skip
MARCH = "2026-03-02T10:00:00.000000+00:00"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with clinic(tmp_path_factory.mktemp("post") / "data") as made:
        made.account(GP, "clinician", name="Gustavo Pérez")
        for language in ("en", "es"):
            made.account(f"{language}-{DERM}", "specialist", name="Sara Especial", language=language)
            made.account(f"{language}-{ADMIN}", "administrator", name="Ada Admin", sites=(), language=language)
        first = made.ask(GP, created_at=MARCH, description="Bleeds since May, itches at night", impression="benign",
                         body_site="upper-back", patient=JANE, is_identified=True, pseudonym=None)  # fmt: skip
        made.answer(first, 0.37, 0.12)
        made.answer(made.ask(GP, created_at=MARCH, impression="benign"), 0.011, 0.004)
        made.ask(GP, created_at=MARCH)
        keys.create(made.database, "ehr", ["fhir:read"])
        yield made


def signed_in(seen: Window, email: str) -> None:
    seen.sign_in(email, PASSWORD)


def is_sound(seen: Window) -> None:
    """Nothing serious for axe-core, nothing wider than the screen, no complaint."""
    assert seen.axe() == []
    assert seen.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert seen.troubles == []


def tab_to(page: Page, wanted: str, most: int = 80) -> None:
    """Go by the tab key until the element that has the focus fits."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
            return
    raise AssertionError(f"{wanted} cannot be reached by the keyboard")


def test_a_specialist_answers_by_keyboard_alone(browser: Browser, post: Clinic) -> None:
    row = post.ask(GP, created_at=MARCH, description="by keyboard")
    post.answer(row, 0.9, 0.8)
    with window(browser, post.url, **DESK) as seen:
        signed_in(seen, f"en-{DERM}")
        page = seen.go("/cases")
        tab_to(page, f"a[href='/cases/{row['public_id']}']")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/cases/{row['public_id']}")
        assert page.locator("img").count() == 0
        tab_to(page, "#picture button")
        page.keyboard.press("Enter")
        page.wait_for_selector("#picture img")
        page.wait_for_function(
            "() => [...document.querySelectorAll('#picture img')].every(i => i.complete && i.naturalWidth)"
        )
        assert "analysis-revealed" in post.acts()
        tab_to(page, "input[name=action]")
        page.keyboard.press("ArrowDown")
        tab_to(page, "#reply")
        page.keyboard.type("Look again in three months, same light.")
        tab_to(page, "form[action$='/reply'] button")
        page.keyboard.press("Enter")
        page.wait_for_url("**said=answered")
        assert "Look again in three months, same light." in page.inner_text("main")
        assert "Recommended: Check again in three months" in page.inner_text("main")
        is_sound(seen)


def test_a_table_is_sent_from_a_phone_and_wrong_lines_are_named(browser: Browser, post: Clinic, tmp_path: Path) -> None:
    row = post.ask(GP, created_at=MARCH)
    table = tmp_path / "outcomes.csv"
    good = f"analysis,diagnosis,on_date\n{row['public_id']},naevus,2026-03-09\n"
    with window(browser, post.url, **PHONE) as seen:
        signed_in(seen, f"es-{DERM}")
        page = seen.go("/cases/outcomes")
        table.write_text(good + f"{'a' * 32},naevus,2026-03-09\n")
        page.set_input_files("#table", table)
        page.click("form[hx-post] button")
        page.wait_for_selector("#answer table")
        assert "No se aceptó nada" in page.inner_text("#answer")
        is_sound(seen)
        table.write_text(good)
        page.set_input_files("#table", table)
        page.click("form[hx-post] button")
        page.wait_for_selector("#answer .notice.ok")
        assert "Histologías nuevas: 1;" in page.inner_text("#answer")
    with post.database.read() as connection:
        written = connection.execute(select(tables.outcomes.c.diagnosis, tables.outcomes.c.source)).all()
    assert ("naevus", "csv") in [tuple(one) for one in written]


def test_an_administrator_makes_an_account_and_its_owner_sets_the_password(browser: Browser, post: Clinic) -> None:
    with window(browser, post.url, **PHONE) as seen:
        signed_in(seen, f"en-{ADMIN}")
        page = seen.go("/administration/users/new")
        page.fill("#email", "nueva@post.example")
        page.fill("#name", "Nueva Persona")
        page.get_by_label("Clinician").check()
        page.get_by_label("Post-1").check()
        page.click("form[action='/administration/users'] button")
        link = page.inner_text("#link")
        is_sound(seen)
    with window(browser, post.url, **PHONE) as other:
        page = other.go(link.removeprefix(post.url))
        for box in page.locator("input[type=password]").all():
            box.fill("cuatro gatos miran el volcan")
        page.click("main form button[type=submit]")
        page.wait_for_url("**/sign-in**")
        other.sign_in("nueva@post.example", "cuatro gatos miran el volcan")
        assert "/sign-in" not in other.page.url


def test_an_administrator_takes_the_log_away_twice_with_a_reason(browser: Browser, post: Clinic) -> None:
    with window(browser, post.url, **DESK) as seen:
        signed_in(seen, f"en-{ADMIN}")
        page = seen.go("/administration/audit")
        page.select_option("#action", "sign-in")
        page.click("form[method=get] button")
        assert "action=sign-in" in page.url
        page.fill("#reason", "yearly review")
        for _ in range(2):
            with page.expect_download() as taken:
                page.click("form[data-download] button")
        lines = Path(taken.value.path()).read_text().splitlines()
        assert lines[0].startswith("id,at,actor,action") and all(",sign-in," in line for line in lines[1:])
    assert post.acts().count("audit-exported") == 2
