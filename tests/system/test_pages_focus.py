"""Pages that change by themselves, in real Chromium: the focus stays where it was, and what changed is said aloud."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from sqlalchemy import update

from dicom_node.record import people, tables
from tests.support.browsers import DESK, Window, chromium, window
from tests.support.clinics import PASSWORD, Clinic, clinic
from tests.support.photos import saved, scene
from tests.support.rows import add_row
from tests.support.walks_clinic import CAMERA

pytestmark = pytest.mark.system

ANA, DERM = "ana@posta.example", "derm@posta.example"
RUNNING = "c" * 32


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with clinic(tmp_path_factory.mktemp("clinic")) as made:
        made.account(ANA)
        made.account(DERM, "specialist", name="Sara Especial")
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture
def seen(site: Clinic, browser: Browser) -> Iterator[Window]:
    """A window of Ana's."""
    with window(browser, site.url, **DESK, service_workers="block") as made:
        made.context.add_init_script(CAMERA)
        made.sign_in(ANA, PASSWORD)
        yield made
        assert made.troubles == []


def held(page: Page) -> str:
    """What has the focus."""
    return str(page.evaluate("(document.activeElement.id || document.activeElement.tagName)"))


def said(page: Page) -> str:
    """What the page has said aloud last."""
    return page.inner_text("#heard")


def focus(page: Page, selector: str) -> None:
    page.locator(selector).focus()
    assert page.evaluate("s => document.activeElement.matches(s)", selector)


def test_a_list_that_is_renewed_leaves_the_focus_and_says_so(site: Clinic, seen: Window) -> None:
    row = site.ask(ANA)
    page = seen.go("/analyses")
    focus(page, f"#analysis-{row['public_id']}")
    assert said(page) == "", "what was there when the page came is no news"
    new = site.ask(ANA)
    page.wait_for_selector(f"#analysis-{new['public_id']}")
    assert held(page) == f"analysis-{row['public_id']}"
    assert "2 analyses are waiting" in said(page)


def test_a_result_that_comes_is_said_and_takes_no_focus(site: Clinic, seen: Window) -> None:
    row = site.ask(ANA)
    page = seen.go(f"/analyses/{row['public_id']}")
    focus(page, "#picture-switch")
    site.answer(row, 0.5, 0.2, saved(scene()))
    page.wait_for_selector("#state.completed")
    assert held(page) == "picture-switch"
    assert "Result: Completed" in said(page) and "above" in said(page).lower()
    page.keyboard.press("Enter")
    page.wait_for_selector(".pictures img")
    assert held(page) == "picture-switch", "the same button hides it again"
    page.keyboard.press("Enter")
    page.wait_for_selector(".hidden-picture")
    assert held(page) == "picture-switch"


def test_a_request_that_goes_on_leaves_the_focus_and_says_how_far_it_is(site: Clinic, seen: Window) -> None:
    with site.database.write() as connection:
        user = people.user_of_email(connection, ANA)
        assert user is not None
        common = {"inputs": [], "warnings": [], "options": {}, "created_at": "2026-03-02T10:00:00+00:00"}
        add_row(connection, tables.predictions, public_id=RUNNING, owner=user.public_id, state="queued", stage="read",
                asked="x", model="x@1", **common)  # fmt: skip
    page = seen.go(f"/study/{RUNNING}")
    focus(page, "#stop-asking")
    asked: list[Any] = []
    page.on("response", lambda answer: asked.append(answer.status) if "/state" in answer.url else None)
    while asked[-2:] != [204, 204]:
        page.wait_for_timeout(50)
    assert held(page) == "stop-asking" and said(page) == "", "nothing is new, and nothing is said"
    with site.database.write() as connection:
        mine = tables.predictions.c.public_id == RUNNING
        connection.execute(update(tables.predictions).where(mine).values(state="running", stage="infer"))
    page.wait_for_function("() => document.getElementById('heard').innerText.includes('The model is working')")
    assert held(page) == "stop-asking"


def test_a_table_that_is_sent_leaves_the_focus_on_its_button(site: Clinic, browser: Browser) -> None:
    with window(browser, site.url, **DESK) as seen:
        seen.sign_in(DERM, PASSWORD)
        page = seen.go("/cases/outcomes")
        page.set_input_files("#table", {"name": "t.csv", "mimeType": "text/csv", "buffer": b"no table"})
        focus(page, "form[hx-post] button")
        page.keyboard.press("Enter")
        page.wait_for_selector("#answer [role=alert]")
        assert page.evaluate("document.activeElement.matches('form[hx-post] button')")


def test_the_list_of_what_waits_is_drawn_anew_under_the_finger(site: Clinic, seen: Window) -> None:
    page = seen.go("/analyse")
    page.evaluate(_KEEP_TWO)
    page.route("**/account/token", lambda route: route.abort())
    page = seen.go("/analyses")
    page.wait_for_selector("#waiting [data-delete]")
    first = page.locator("#waiting [data-delete]").first.get_attribute("data-delete")
    focus(page, f"[data-delete='{first}']")
    page.evaluate(_GOES, first)
    page.wait_for_function("() => document.getElementById('waiting-list').innerText.includes('40')")
    assert page.evaluate("document.activeElement.dataset.delete") == first
    page.once("dialog", lambda dialog: dialog.accept())
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('#waiting [data-delete]').length === 1")
    assert held(page) == "main", "gone is the button, and the way goes on from the page"
    page.evaluate("async () => { for (const one of await luna.queue.all()) await luna.queue.remove(one.id); }")


_KEEP_TWO = """async () => {
  for (const words of ["one", "two"]) await luna.queue.keep(document.body.dataset.user, {words}, new Blob()); }"""
_GOES = """id => document.dispatchEvent(
  new CustomEvent("luna:uploads", {detail: {kind: "going", id, percent: 40}}))"""


def test_the_camera_is_opened_and_closed_by_keyboard_and_keeps_the_focus_in_it(site: Clinic, seen: Window) -> None:
    page = seen.go("/analyse")
    page.wait_for_selector("#scan:not([hidden])")
    focus(page, "#scan")
    page.keyboard.press("Enter")
    page.wait_for_selector("#scanner[open]")
    for _ in range(4):
        page.keyboard.press("Tab")
        inside = "document.activeElement.closest('#scanner') || document.activeElement === document.body"
        assert page.evaluate(f"Boolean({inside})"), "the page behind the dialog is not there"
    page.keyboard.press("Escape")
    page.wait_for_selector("#scanner", state="hidden")
    assert held(page) == "scan"
    page.wait_for_function("() => document.getElementById('video').srcObject === null")
    page.keyboard.press("Enter")
    page.wait_for_selector("#scanner[open]")
    focus(page, "#scanner [data-closes]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#scanner", state="hidden")
    assert held(page) == "scan"
