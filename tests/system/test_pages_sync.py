"""What waits on a phone goes when the page is closed (Background Sync); on a phone without it, when a page is open."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browsers import Window, chromium
from tests.support.clinics import Clinic, clinic
from tests.support.lines import Line, line
from tests.support.phones import fill, profile, ready, rows_of, send, until_gone, waiting
from tests.support.photos import saved, scene

pytestmark = pytest.mark.system

ANA = "ana@posta.example"
SOON = (
    "--force-fieldtrials=BackgroundSync/Soon",
    "--force-fieldtrial-params=BackgroundSync.Soon:initial_retry_delay_sec/2/retry_delay_factor/1/max_sync_attempts/9",
)
"""The browser tries again after two seconds: by itself it does so after five minutes, then fifteen."""
IPHONE = "delete ServiceWorkerRegistration.prototype.sync;"
OLD_IPHONE = IPHONE + "delete Navigator.prototype.locks; delete AbortSignal.timeout;"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with clinic(tmp_path_factory.mktemp("clinic")) as made:
        made.account(ANA)
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture
def wire(site: Clinic) -> Iterator[Line]:
    with line(urlsplit(site.url).port or 0) as made:
        yield made


@pytest.fixture
def phone(browser: Browser, wire: Line, tmp_path: Path) -> Iterator[Window]:
    """Ana's phone, behind a line that can be cut."""
    with profile(browser, tmp_path, f"http://127.0.0.1:{wire.port}", *SOON) as seen:
        yield seen


def until_arrived(site: Clinic, words: str, page: Page) -> None:
    """Wait until the node has it; `page` is of nobody's, and only lends its clock."""
    deadline = time.monotonic() + 60
    while not rows_of(site, words):
        assert time.monotonic() < deadline, "it did not go"
        page.wait_for_timeout(100)


def closed(seen: Window) -> Page:
    """The portal is closed, the browser is not: the page that is left has nothing of the portal."""
    left = seen.context.new_page()
    seen.page.close(run_before_unload=False)
    return left


def is_there_once(site: Clinic, seen: Window, words: str) -> None:
    """Opened again: nothing waits any more, and the node has it once."""
    seen.page = seen.context.new_page()
    seen.go("/analyses")
    until_gone(seen.page)
    assert len(rows_of(site, words)) == 1


def test_it_goes_when_the_line_is_back_though_the_page_was_closed(site: Clinic, phone: Window, wire: Line) -> None:
    words = "closed on the way home"
    ready(phone, ANA)
    fill(phone.page, words)
    wire.cut()
    send(phone.page)
    phone.page.wait_for_selector("#kept-said:not([hidden])")
    left = closed(phone)
    assert not rows_of(site, words)
    wire.mend()
    until_arrived(site, words, left)
    is_there_once(site, phone, words)


def test_a_page_that_is_closed_while_it_sends_leaves_the_rest_to_the_worker(
    site: Clinic, phone: Window, wire: Line
) -> None:
    words, large = "closed while it went", saved(scene(1600, 1600), "PNG")
    ready(phone, ANA)
    fill(phone.page, words, large)
    wire.mend()
    wire.bytes_per_s = len(large) // 4
    send(phone.page)
    deadline = time.monotonic() + 20
    while wire.passed < len(large) // 3:
        assert time.monotonic() < deadline, f"only {wire.passed} bytes went"
        phone.page.wait_for_timeout(20)
    left = closed(phone)
    assert not rows_of(site, words)
    wire.bytes_per_s = 0
    until_arrived(site, words, left)
    is_there_once(site, phone, words)
    assert (site.folder / rows_of(site, words)[0]["photo_path"]).read_bytes() == large


@pytest.mark.parametrize("kind", [IPHONE, OLD_IPHONE], ids=["no Background Sync", "no locks either"])
def test_without_background_sync_it_goes_as_soon_as_a_page_is_open(
    site: Clinic, phone: Window, wire: Line, kind: str
) -> None:
    words = f"a phone without it {len(kind)}"
    phone.context.add_init_script(kind)
    ready(phone, ANA)
    assert phone.page.evaluate("async () => 'sync' in await navigator.serviceWorker.ready") is False
    fill(phone.page, words)
    wire.cut()
    send(phone.page)
    phone.page.wait_for_selector("#kept-said:not([hidden])")
    closed(phone)
    wire.mend()
    assert not rows_of(site, words)
    is_there_once(site, phone, words)


def test_without_background_sync_it_goes_when_the_page_is_looked_at_again(
    site: Clinic, phone: Window, wire: Line
) -> None:
    """An iPhone keeps the page as it was: nothing is loaded, no event of the line, and its clocks stood still."""
    words = "taken out of the pocket"
    phone.context.add_init_script(IPHONE)
    ready(phone, ANA)
    page = phone.page
    fill(page, words)
    wire.cut()
    send(page)
    page.wait_for_selector("#kept-said:not([hidden])")
    page.evaluate("for (let n = setTimeout(() => 0); n >= 0; n--) clearTimeout(n)")
    wire.mend()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_url("**/analyses/*")
    assert len(rows_of(site, words)) == 1 and waiting(page) == 0
