"""A phone at a post, as tests hold it: made ready, a photograph filled in and sent, and what waits in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from tests.support.browsers import PHONE, Window
from tests.support.chromium import FLAGS
from tests.support.clinics import PASSWORD, Clinic
from tests.support.photos import saved, scene

PHOTOGRAPH = saved(scene(480, 640), quality=95)


def ready(seen: Window, email: str) -> None:
    """Sign in and wait until the phone has what it needs without a line."""
    seen.sign_in(email, PASSWORD)
    seen.go("/analyse")
    until(
        seen.page,
        """async () => (await navigator.serviceWorker.getRegistration())?.active && navigator.serviceWorker.controller
        && await (await caches.open("pages")).match("/analyse") && true""",
    )


def fill(page: Page, words: str, photograph: bytes = PHOTOGRAPH) -> None:
    """Everything up to the button."""
    page.fill("#patient_id", "12.345.678-5")
    page.click("#look-up")
    page.wait_for_selector("#patient_family")
    page.fill("#patient_family", "Soto Pérez")
    page.fill("#patient_given", "María")
    page.fill("#patient_birth_date", "1961-02-03")
    page.check("[name=patient_confirmed]")
    page.click("[data-go=photo]")
    page.set_input_files("#gallery", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": photograph})
    page.wait_for_selector("#hints p")
    page.click("#photo-go")
    page.check("[name=impression][value=unsure]", force=True)
    page.fill("#description", words)


def send(page: Page) -> None:
    page.click("#analyse button[type=submit]")


def waiting(page: Page) -> int:
    """How many photographs lie in the phone."""
    return int(page.evaluate("async () => (await luna.queue.all()).length"))


def until_gone(page: Page) -> None:
    until(page, "async () => (await luna.queue.all()).length === 0")


def until(page: Page, asked: str) -> None:
    """Wait for what takes a while to find out: `wait_for_function` takes a promise for a yes."""
    deadline = time.monotonic() + 20
    while not page.evaluate(asked):
        assert time.monotonic() < deadline, asked
        page.wait_for_timeout(50)


def rows_of(site: Clinic, words: str) -> list[Any]:
    return [row for row in site.rows() if row["description"] == words]


@contextmanager
def profile(browser: Browser, folder: Path, url: str, *flags: str) -> Iterator[Window]:
    """A browser with a folder of its own, that is closed and opened again."""
    context = browser.browser_type.launch_persistent_context(
        str(folder), executable_path=shutil.which("chromium"), headless=True, args=[*FLAGS, *flags], **PHONE
    )
    try:
        page = context.pages[0]
        page.set_default_timeout(20_000)
        yield Window(context, page, url)
    finally:
        context.close()
