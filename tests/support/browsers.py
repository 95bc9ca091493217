"""Pages in real headless Chromium, as a phone or a desk sees them, with what the browser complains of; and axe-core."""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.support.chromium import FLAGS

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
AXE = Path(__file__).resolve().parents[2] / ".tools/axe/node_modules/axe-core/axe.min.js"
_RUN = """async () => (await axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa",
  "best-practice"]})).violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html.slice(0, 160) + " " +
  n.any.concat(n.all).map(c => c.message).join("; ").slice(0, 200))])"""


@dataclass
class Window:
    """One browser profile with one page."""

    context: BrowserContext
    page: Page
    url: str
    troubles: list[str] = field(default_factory=list)
    """What the page complained of: errors of scripts, and everything that the Content-Security-Policy stopped."""

    def go(self, path: str) -> Page:
        """Open a page of the node."""
        self.page.goto(self.url + path)
        return self.page

    def sign_in(self, email: str, password: str, way: str = "") -> None:
        """Sign in on the page for it."""
        self.go("/sign-in" + (f"?next={way}" if way else ""))
        self.page.fill("#email", email)
        self.page.fill("#password", password)
        self.page.click("#sign-in button[type=submit]")
        self.page.wait_for_url(lambda where: "/sign-in" not in where)

    def axe(self) -> list[Any]:
        """What axe-core finds on the page as it is now: (impact, rule, places) of everything serious or worse."""
        # not add_script_tag: the policy of our pages forbids what it does
        self.page.evaluate(AXE.read_text())
        return [found for found in self.page.evaluate(_RUN) if found[0] in ("serious", "critical")]


def pinned(certificate: Path) -> str:
    """Flag of a browser that believes one key, and through it no other."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    told = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = base64.b64encode(hashlib.sha256(told).digest()).decode()
    return f"--ignore-certificate-errors-spki-list={digest}"


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """One browser; profiles in it share nothing."""
    program = shutil.which("chromium")
    if program is None or not AXE.is_file():
        raise RuntimeError("chromium or axe-core is not installed: `make setup-test`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def window(browser: Browser, url: str, **options: Any) -> Iterator[Window]:
    """A fresh profile: `PHONE` or `DESK`, and what else Playwright takes (`color_scheme`, `locale`)."""
    context = browser.new_context(**options)
    try:
        page = context.new_page()
        page.set_default_timeout(20_000)
        seen = Window(context, page, url)
        page.on("pageerror", lambda error: seen.troubles.append(f"script: {error}"))
        page.on(
            "console",
            lambda told: seen.troubles.append(f"policy: {told.text}") if "Content Security" in told.text else None,
        )
        yield seen
    finally:
        context.close()
