"""A photograph made without a line, in real Chromium: it waits in the phone whatever happens, and goes once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Route

from tests.support.browsers import PHONE, Window, chromium, window
from tests.support.clinics import PASSWORD, Clinic, clinic
from tests.support.lines import line
from tests.support.phones import PHOTOGRAPH, fill, profile, ready, rows_of, send, until, until_gone, waiting
from tests.support.photos import saved, scene

pytestmark = pytest.mark.system

ANA, EVA = "ana@posta.example", "eva@posta.example"
SEND_TO = "**/api/v1/analyses"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with clinic(tmp_path_factory.mktemp("clinic")) as made:
        made.account(ANA)
        made.account(EVA, name="Eva Rojas")
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture
def phone(site: Clinic, browser: Browser) -> Iterator[Window]:
    """Ana's phone, with the portal opened once."""
    with window(browser, site.url, **PHONE) as seen:
        ready(seen, ANA)
        yield seen


@pytest.fixture
def tapped(site: Clinic, browser: Browser) -> Iterator[Window]:
    """The same without the service worker, behind which nothing on the wire can be caught and changed."""
    with window(browser, site.url, **PHONE, service_workers="block") as seen:
        seen.sign_in(ANA, PASSWORD)
        seen.go("/analyse")
        yield seen


def test_made_without_a_line_it_goes_later_once_and_as_it_was(site: Clinic, phone: Window) -> None:
    page, words = phone.page, "made on a hill"
    phone.context.set_offline(True)
    phone.go("/analyse")  # from the phone itself
    fill(page, words)
    send(page)
    page.wait_for_selector("#kept-said:not([hidden])")
    assert waiting(page) == 1 and not rows_of(site, words)
    phone.go("/analyses")
    assert page.inner_text("h1") == "No connection"
    assert "Photographs that wait on this phone: 1" in page.inner_text("#waiting")
    assert "Soto" not in page.content(), "without a session nobody is named"
    phone.context.set_offline(False)
    phone.go("/analyses")
    until_gone(page)
    (row,) = rows_of(site, words)
    assert row["patient"]["name"] == "Soto Pérez^María" and row["patient"]["confirmed"] == "user"
    assert (row["patient"]["id"], row["impression"]) == ("12345678-5", "unsure")
    assert (site.folder / row["photo_path"]).read_bytes() == PHOTOGRAPH
    assert len(row["client_id"]) == 32
    assert phone.troubles == []


def test_the_page_that_waits_sends_by_itself_when_the_line_is_back(site: Clinic, phone: Window) -> None:
    page, words = phone.page, "the line came back"
    fill(page, words)
    phone.context.set_offline(True)
    send(page)
    page.wait_for_selector("#kept-said:not([hidden])")
    phone.context.set_offline(False)
    page.wait_for_url("**/analyses/*")
    assert len(rows_of(site, words)) == 1 and waiting(page) == 0


def test_it_survives_the_browser_and_the_phone_being_switched_off(
    site: Clinic, browser: Browser, tmp_path: Path
) -> None:
    words = "switched off"
    with profile(browser, tmp_path, site.url) as seen:
        ready(seen, ANA)
        fill(seen.page, words)
        seen.context.set_offline(True)
        send(seen.page)
        seen.page.wait_for_selector("#kept-said:not([hidden])")
    with profile(browser, tmp_path, site.url) as seen:
        seen.go("/sign-in")  # a session's cookie does not outlive the browser
        seen.page.wait_for_selector("#kept:not([hidden])")
        assert "1" in seen.page.inner_text("#kept") and "Soto" not in seen.page.content()
        seen.sign_in(ANA, PASSWORD)
        until_gone(seen.page)
        assert len(rows_of(site, words)) == 1


def test_an_answer_that_is_lost_makes_no_second_analysis(site: Clinic, tapped: Window) -> None:
    page, words, times = tapped.page, "the answer was lost", []

    def lose(route: Route) -> None:
        times.append(route.fetch().status)
        route.abort("connectionreset")

    fill(page, words)
    page.route(SEND_TO, lose)
    send(page)
    page.wait_for_selector("#kept-said:not([hidden])")
    assert times == [202] and waiting(page) == 1 and len(rows_of(site, words)) == 1
    page.unroute(SEND_TO)
    page.evaluate("luna.send()")
    page.wait_for_url("**/analyses/*")
    assert len(rows_of(site, words)) == 1 and waiting(page) == 0
    assert page.url.endswith(rows_of(site, words)[0]["public_id"])


def test_a_line_that_drops_in_the_middle_loses_nothing(site: Clinic, browser: Browser) -> None:
    words, large = "dropped in the middle", saved(scene(1600, 1600), "PNG")
    with line(urlsplit(site.url).port or 0) as wire, window(browser, f"http://127.0.0.1:{wire.port}", **PHONE) as seen:
        ready(seen, ANA)
        page = seen.page
        fill(page, words, large)
        wire.mend()
        wire.bytes_per_s = len(large) // 4
        send(page)
        deadline = time.monotonic() + 20
        while wire.passed < len(large) // 3:
            assert time.monotonic() < deadline, f"only {wire.passed} bytes went"
            page.wait_for_timeout(20)
        wire.cut()
        page.wait_for_selector("#kept-said:not([hidden])")
        assert waiting(page) == 1 and not rows_of(site, words)
        wire.bytes_per_s = 0
        wire.mend()
        page.evaluate("luna.send()")
        page.wait_for_url("**/analyses/*")
        (row,) = rows_of(site, words)
        assert (site.folder / row["photo_path"]).read_bytes() == large


def test_one_that_the_node_makes_a_fault_of_stops_none_behind_it(site: Clinic, tapped: Window) -> None:
    page, first, second = tapped.page, "the node stumbles over this", "and not over this"
    fault = '{"type": "urn:ainode:problem:fault", "title": "The node made a fault", "status": 500}'

    def stumble(route: Route) -> None:
        if first in (route.request.post_data_buffer or b"").decode("latin-1"):
            route.fulfill(status=500, content_type="application/problem+json", body=fault)
        else:
            route.continue_()

    page.route(SEND_TO, stumble)
    for words in (first, second):
        page.evaluate(
            """([words, picture]) => luna.queue.keep(document.body.dataset.user,
            {description: words, impression: "unsure", consent: "care"},
            new Blob([Uint8Array.from(picture)], {type: "image/jpeg"}))""",
            [words, list(PHOTOGRAPH)],
        )
    assert page.evaluate("luna.queue.send()") == "fault"
    assert len(rows_of(site, second)) == 1 and not rows_of(site, first) and waiting(page) == 1
    page.unroute(SEND_TO)
    assert page.evaluate("luna.queue.send()") == "done"
    assert len(rows_of(site, first)) == 1 and waiting(page) == 0


@pytest.mark.parametrize("where", [SEND_TO, "**/account/token"], ids=["the photograph", "the question who asks"])
def test_somebody_elses_network_that_answers_everything_is_no_answer(site: Clinic, tapped: Window, where: str) -> None:
    page, words = tapped.page, f"a café's network: {where}"
    fill(page, words)
    page.route(
        where, lambda route: route.fulfill(status=200, content_type="text/html", body="<h1>Accept our terms</h1>")
    )
    send(page)
    page.wait_for_selector("#kept-said:not([hidden])")
    assert waiting(page) == 1 and not rows_of(site, words)
    page.unroute(where)
    page.evaluate("luna.send()")
    page.wait_for_url("**/analyses/*")
    assert len(rows_of(site, words)) == 1


def test_a_session_that_ended_asks_to_sign_in_and_then_it_goes(site: Clinic, phone: Window) -> None:
    page, words = phone.page, "the session ended"
    fill(page, words)
    phone.context.clear_cookies()
    send(page)
    page.wait_for_selector("#sign-in-said:not([hidden])")
    assert waiting(page) == 1
    phone.sign_in(ANA, PASSWORD)
    until_gone(page)
    assert len(rows_of(site, words)) == 1


def test_nobody_else_sends_or_sees_what_waits(site: Clinic, phone: Window) -> None:
    page, words = phone.page, "of Ana alone"
    fill(page, words)
    phone.context.set_offline(True)
    send(page)
    page.wait_for_selector("#kept-said:not([hidden])")
    phone.context.set_offline(False)
    phone.context.clear_cookies()
    phone.sign_in(EVA, PASSWORD)
    phone.go("/analyses")
    page.wait_for_selector("#waiting:not([hidden])")
    assert "other accounts that wait on this phone: 1" in page.inner_text("#waiting")
    assert "Soto" not in page.content() and not rows_of(site, words)
    assert page.evaluate("luna.queue.send()") == "done" and waiting(page) == 1
    phone.context.clear_cookies()
    phone.sign_in(ANA, PASSWORD)
    until_gone(page)
    assert len(rows_of(site, words)) == 1


def test_what_the_node_refuses_stays_with_the_reason_until_its_owner_deletes_it(site: Clinic, phone: Window) -> None:
    page = phone.page
    page.evaluate(
        """() => luna.queue.keep(document.body.dataset.user, {description: "no picture"},
        new Blob(["words"], {type: "image/jpeg"}))"""
    )
    phone.go("/analyses")
    page.wait_for_function("() => document.getElementById('waiting-list').innerText.includes('Not taken')")
    assert "not a picture" in page.inner_text("#waiting-list")
    assert page.is_hidden("#send-now") and not rows_of(site, "no picture")
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#waiting [data-delete]")
    page.wait_for_selector("#waiting", state="hidden")
    assert waiting(page) == 0


def test_two_pages_send_it_once(site: Clinic, phone: Window) -> None:
    page, words, sent = phone.page, "two pages", []
    phone.context.on("request", lambda asked: sent.append(asked.url) if asked.method == "POST" else None)
    fill(page, words)
    phone.context.set_offline(True)
    send(page)
    page.wait_for_selector("#kept-said:not([hidden])")
    sent.clear()
    others = [phone.context.new_page() for _ in range(2)]
    phone.context.set_offline(False)
    for other in others:
        other.goto(site.url + "/account")
    until_gone(others[0])
    assert len(rows_of(site, words)) == 1
    assert len([url for url in sent if url.endswith("/api/v1/analyses")]) == 1, "one page sends, the others wait"


def test_signing_out_leaves_no_page_on_the_phone_and_no_page_there_names_a_patient(site: Clinic, phone: Window) -> None:
    page = phone.page
    site.ask(ANA, is_identified=True, patient=_patient(), pseudonym=None)
    for path in ("/analyses", f"/analyses/{site.rows()[-1]['public_id']}", "/account", "/analyse"):
        phone.go(path)
        page.wait_for_load_state("networkidle")
    kept = page.evaluate(_KEPT)
    assert "/analyse" in {address for address, _ in kept} and len(kept) > 10
    pages = [(address, text) for address, text in kept if not address.startswith("/static/")]
    assert len(pages) >= 2
    for address, text in pages:
        assert "Soto" not in text and "12345678" not in text and ANA not in text, address
        assert 'data-csrf="' not in text or 'data-csrf=""' in text, address
    phone.go("/account")
    page.click("form[action='/sign-out'] button")
    page.wait_for_url("**/sign-in?said=out")
    until(page, """async () => !(await (await caches.open("pages")).match("/analyse"))""")
    phone.context.set_offline(True)
    phone.go("/analyse")
    assert page.inner_text("h1") == "No connection"


def _patient() -> dict[str, str]:
    return {"id": "12345678-5", "type": "rut", "system": "urn:oid:2.16.152", "issuer": "CL", "name": "Soto Pérez^María",
            "birth_date": "19610203", "sex": "F", "confirmed": "user"}  # fmt: skip


_KEPT = """async () => {
  const found = [];
  for (const name of await caches.keys()) {
    const cache = await caches.open(name);
    for (const request of await cache.keys())
      found.push([new URL(request.url).pathname, await (await cache.match(request)).text()]);
  }
  return found; }"""
